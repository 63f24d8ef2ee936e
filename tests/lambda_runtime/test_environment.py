"""One environment from its init to its end, under both runtimes: warm flag, snapshots, freezes, failures."""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.lambda_runtime.emulator import BUFFERED, STREAMING, emulator, http_event
from tests.lambda_runtime.front_door import INVOKE, Running, in_thread
from tests.lambda_runtime.service import Function
from tests.machine import START_S, tool, wait_until
from tests.servers import Table, sessions_table

AGENTS = "tests.lambda_runtime.agents"
RUNTIMES = {"buffered": BUFFERED, "streaming": STREAMING}
NOWHERE = {"AWS_ENDPOINT_URL_DYNAMODB": "http://127.0.0.1:9"}
# Each value is found in no other place, so that one in a reply or a log can only have leaked.
BAD_SETTINGS = {
    "LOG_LEVEL": "canary-level",
    "AGENT_MAX_STEP": "canary-typing-error",
    "LAMBDA_RESPONSE_MODE": "canary-mode",
    "SESSIONS_TABLE": "",
}
INIT_S = 10.0  # Lambda's own limit


@pytest.fixture(params=RUNTIMES)
def command(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The command of each runtime in turn."""
    return RUNTIMES[request.param]


@pytest.fixture(scope="module")
def table() -> Iterator[Table]:
    with sessions_table() as table:
        yield table


@contextmanager
def serving(
    command: tuple[str, ...], folder: Path, *settings: dict[str, str], **how: Any
) -> Iterator[tuple[Running, httpx2.Client]]:
    """Yield a service that runs the app, and a client of it."""
    merged = {name: value for each in settings for name, value in each.items()}
    with (
        in_thread(Function(command, folder, merged, **how)) as running,
        httpx2.Client(base_url=running.url, timeout=START_S) as http,
    ):
        yield running, http


def say(http: httpx2.Client, session: str, message: str = "hello") -> Any:
    answer = http.post("/chat", json={"message": message, "session_id": session})
    assert answer.status_code == 200, answer.text
    return answer.json()["answer"]


def slug(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, str(answer.json()["type"]).rpartition(":")[2]


def test_only_the_first_answer_of_an_environment_is_marked_cold(
    command: tuple[str, ...], tmp_path: Path, table: Table
) -> None:
    with serving(command, tmp_path, table.settings) as (running, http):
        marks = [http.get("/healthz").headers.get("x-cold-start") for _ in range(3)]
        assert len(running.pids) == 1
    assert marks == ["true", None, None]


def test_nobody_waited_for_a_provisioned_environment(command: tuple[str, ...], tmp_path: Path, table: Table) -> None:
    with serving(command, tmp_path, table.settings, kind="provisioned-concurrency") as (_, http):
        assert "x-cold-start" not in http.get("/healthz").headers


def test_an_environment_without_its_store_warms_up_within_its_init_and_its_calls(
    command: tuple[str, ...], tmp_path: Path, table: Table
) -> None:
    began = time.monotonic()
    with serving(command, tmp_path, table.settings, NOWHERE) as (running, http):
        assert http.get("/healthz").status_code == 200
        assert time.monotonic() - began < INIT_S
        pids = running.pids
        answers = [http.get("/readyz"), http.post("/chat", json={"message": "hello"})]
        assert [slug(each) for each in answers] == [(503, "warming-up")] * 2
        assert [each.headers["retry-after"] for each in answers] == ["1", "1"]
        assert running.pids == pids


def test_bad_settings_are_told_by_name_and_never_by_value(
    command: tuple[str, ...], tmp_path: Path, table: Table
) -> None:
    with serving(command, tmp_path, table.settings, BAD_SETTINGS) as (running, http):
        assert http.get("/healthz").status_code == 502
        reply = http.post(INVOKE, json={})
        assert (reply.headers["x-amz-function-error"], reply.json()["errorType"]) == (
            "Unhandled",
            "ConfigurationError",
        )
        assert [name for name in BAD_SETTINGS if name not in reply.json()["errorMessage"]] == []
        assert "canary" not in reply.text + running.log.read_text()


@pytest.mark.parametrize(
    "settings",
    [{"AGENT": f"{AGENTS}:tasks", "EXIT_AT_IMPORT": "1"}, {"AGENT": f"{AGENTS}:unopenable"}],
    ids=["exit", "exception"],
)
def test_what_an_agent_raises_at_init_is_told_without_its_text(
    tmp_path: Path, table: Table, settings: dict[str, str]
) -> None:
    with serving(STREAMING, tmp_path, table.settings, settings) as (running, http):
        reply = http.post(INVOKE, json={})
        assert reply.headers["x-amz-function-error"] == "Unhandled"
        assert "canary" not in reply.text + running.log.read_text()


def test_a_process_that_crashes_is_replaced(command: tuple[str, ...], tmp_path: Path, table: Table) -> None:
    with serving(command, tmp_path, table.settings, {"AGENT": f"{AGENTS}:crashing"}) as (running, http):
        say(http, "crash-a")
        pids = running.pids
        assert http.post("/chat", json={"message": "crash"}).status_code == 502
        assert say(http, "crash-b") == "begun"
        assert running.pids != pids


def test_nothing_is_pending_when_a_response_has_gone(command: tuple[str, ...], tmp_path: Path, table: Table) -> None:
    with serving(command, tmp_path, table.settings, {"AGENT": f"{AGENTS}:tasks"}, freeze=True) as (running, http):
        counts = {say(http, "pending") for _ in range(5)}
        assert len(counts) == 1
        wait_until(lambda: running.frozen, what="the environment is frozen")
        [pid] = running.pids
        status = Path(f"/proc/{pid}/status")  # it may have run on for a moment on another CPU
        wait_until(lambda: "State:\tT" in status.read_text(), what="the process stands still")
        assert say(http, "pending") in counts
        assert running.pids == [pid]


def test_what_is_open_is_closed_in_a_snapshot_and_opened_after_it(
    command: tuple[str, ...], tmp_path: Path, table: Table
) -> None:
    agent = {"AGENT": f"{AGENTS}:snapshot"}
    with serving(command, tmp_path, table.settings, agent, kind="snap-start", environments=1) as (running, http):
        first = http.post("/chat", json={"message": "hello", "session_id": "snapshot"})
        assert (first.json()["answer"], first.headers["x-cold-start"]) == ("opened closed opened", "true")
        assert "x-cold-start" not in http.get("/readyz").headers
        assert running.report == ["snapshot"]
    phases = [json.loads(line).get("phase") for line in running.log.read_text().splitlines() if "phase" in line]
    assert phases == ["warming", "ready", "warming", "ready"]


def test_environments_of_one_snapshot_share_no_chance_and_no_id(
    command: tuple[str, ...], tmp_path: Path, table: Table
) -> None:
    agent = {"AGENT": f"{AGENTS}:chance"}
    told = set[str]()
    with serving(command, tmp_path, table.settings, agent, kind="snap-start") as (running, http):
        for _ in range(2):
            answer = http.post("/chat", json={"message": "hello"})
            told |= {answer.json()["answer"], answer.json()["session_id"], answer.headers["x-request-id"]}
            running.stop()
    assert len(told) == 6


@pytest.mark.parametrize(("hook", "status"), [("before", 64), ("after", 65)])
def test_a_hook_that_fails_ends_the_environment(
    command: tuple[str, ...], tmp_path: Path, table: Table, hook: str, status: int
) -> None:
    agent = {"AGENT": f"{AGENTS}:snapshot", "FAILING_HOOK": hook}
    with serving(command, tmp_path, table.settings, agent, kind="snap-start") as (running, http):
        assert http.get("/healthz").status_code == 502
        [process] = [each.process for each in running.door.service.environments]
        assert process
        wait_until(lambda: process.returncode is not None, what="the process has ended")
        assert process.returncode == status


def test_at_its_end_an_environment_hears_of_it_and_flushes(
    command: tuple[str, ...], tmp_path: Path, table: Table
) -> None:
    with serving(command, tmp_path, table.settings, {"AGENT": f"{AGENTS}:logging_late"}) as (running, http):
        say(http, tmp_path.name)
        assert not (tmp_path / "flushed.log").exists()
        [process] = [each.process for each in running.door.service.environments]
        running.stop()
        assert process
        assert process.returncode == 0
    assert (tmp_path / "flushed.log").read_text() == "turn 1\n"


def test_awss_own_emulator_lets_an_environment_end_in_good_order(
    command: tuple[str, ...], tmp_path: Path, table: Table
) -> None:
    rie, flushed = tool("rie", for_module=False), tmp_path / "flushed.log"
    settings = table.settings | {"AGENT": f"{AGENTS}:logging_late", "FLUSHED": str(flushed)}
    with emulator(rie, settings, tmp_path / "log", command=command) as environment:
        environment.invoke(http_event("POST", "/chat", {"message": "hello", "session_id": tmp_path.name}))
        assert not flushed.exists()
        assert environment.pid
        os.kill(environment.pid, signal.SIGTERM)
        wait_until(lambda: flushed.exists() and flushed.read_text() == "turn 1\n", limit_s=5, what="it is flushed")
