"""Logs of whole processes: every line is JSON, each has its own request's ids, and nothing a user wrote is in them."""

import asyncio
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from app import turn_log
from app.telemetry import WITHHELD
from tests.entry_points import ROOT, Server, environment, handler, http_api_event, server
from tests.lambda_runtime.front_door import INVOKE, in_thread
from tests.lambda_runtime.service import Function
from tests.log_lines import CANARY, Line, lines_of, turns_in
from tests.machine import START_S, free_port, wait_until

CONTAINER = [sys.executable, "-m", "app"]
PLAIN = [sys.executable, "-m", "uvicorn", "app:app"]
LOGGING = ["--log-config", str(ROOT / "docs" / "uvicorn-logs.json")]
TURNS = 1000
NOISES = {
    ("Python warns", "UserWarning"),
    ("unhandled exception", "ValueError"),
    ("error on the event loop", "ValueError"),
    (WITHHELD, ""),
}


@dataclass(frozen=True)
class Sent:
    """One request with ids of its own, every tenth of them malformed, and what its log line must say of it."""

    number: int

    @property
    def well_formed(self) -> bool:
        return self.number % 10 > 0

    @property
    def hangs_up(self) -> bool:
        """Whether its caller leaves before it is answered."""
        return self.number % 10 == 3

    @property
    def headers(self) -> dict[str, str]:
        trace, parent = f"{self.number:032x}", f"{1:016x}"
        if self.well_formed:
            return {"X-Request-ID": f"request-{self.number}", "traceparent": f"00-{trace}-{parent}-01"}
        return {"X-Request-ID": f"{CANARY} {self.number}", "traceparent": f"00-{CANARY}{trace}-{parent}-01"}

    def body(self, message: str) -> bytes:
        return json.dumps({"message": message, "session_id": f"{CANARY}-{self.number}"}).encode()

    def facts(self, answered_id: str) -> Line:
        """Return its facts; a malformed id is replaced by a new one, which the response tells."""
        facts = {"request_id": answered_id, "session_hash": turn_log.hash_of(f"anonymous/{CANARY}-{self.number}")}
        if not self.well_formed:
            assert re.fullmatch("[0-9a-f]{32}", answered_id)
            return facts
        return facts | {"request_id": f"request-{self.number}", "trace_id": f"{self.number:032x}"}


def facts_of(lines: Iterable[Line]) -> list[Line]:
    """Return of each line what tells whose it is, in order of the sessions."""
    names = ("request_id", "trace_id", "session_hash")
    return ordered({name: line[name] for name in names if name in line} for line in lines)


def ordered(facts: Iterable[Line]) -> list[Line]:
    return sorted(facts, key=lambda each: str(each["session_hash"]))


async def post(port: int, sent: Sent, message: str) -> str:
    """Take a turn on a connection of its own and return the id that the response tells; none to a caller that left."""
    body, accept = sent.body(message), "text/event-stream" if sent.number % 2 else "application/json"
    given = {"Host": "test", "Content-Type": "application/json", "Content-Length": str(len(body)), "Accept": accept}
    lines = ["POST /chat HTTP/1.1", *(f"{name}: {value}" for name, value in (given | sent.headers).items())]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write("\r\n".join([*lines, "Connection: close\r\n\r\n"]).encode() + body)
    answer = b"" if sent.hangs_up else await reader.read()
    await writer.drain()
    writer.close()
    assert answer[9:12] in (b"", b"200"), answer
    return "".join(re.findall(r"x-request-id: (\S+)", answer.decode()))


async def post_all(port: int, all_sent: Sequence[Sent], message: str) -> list[str]:
    async with asyncio.timeout(60):
        return await asyncio.gather(*(post(port, sent, message) for sent in all_sent))


def test_of_a_thousand_turns_at_once_each_is_logged_with_its_own_ids(tmp_path: Path) -> None:
    all_sent = [Sent(number) for number in range(1, TURNS + 1)]
    variables = {"AGENT": "tests.agents:gathering", "MAX_CONCURRENT_TURNS": str(TURNS), "LOG_LEVEL": "DEBUG"}
    with server(PLAIN, tmp_path, **variables) as running:
        answered = asyncio.run(post_all(running.port, all_sent, str(TURNS)))
        wait_until(lambda: running.log.read_text().count("turn finished") >= TURNS)
        text = running.log.read_text()
    expected = [sent.facts(answered_id) for sent, answered_id in zip(all_sent, answered, strict=True)]
    assert facts_of(turns_in(text)) == ordered(expected)
    assert CANARY not in text


def test_each_invocation_of_an_environment_is_logged_with_its_own_ids(tmp_path: Path) -> None:
    all_sent = [Sent(number) for number in range(1, 31)]
    with handler(tmp_path, LOG_LEVEL="DEBUG") as client:
        answered = [
            client.request("POST", "/chat", sent.body("hello"), sent.headers | {"Content-Type": "application/json"})
            for sent in all_sent
        ]
        text = "".join(client.log)
    expected = [sent.facts(answer.headers["x-request-id"]) for sent, answer in zip(all_sent, answered, strict=True)]
    lines = turns_in(text)
    assert facts_of(lines) == ordered(expected)
    assert [line["aws_request_id"] for line in lines] == [f"invocation-{sent.number}" for sent in all_sent]
    assert [line["cold_start"] for line in lines] == [True] + [False] * 29
    assert CANARY not in text


@pytest.mark.parametrize("at_once", [1, 10])
def test_each_invocation_of_the_streaming_runtime_is_logged_with_its_own_ids(tmp_path: Path, at_once: int) -> None:
    all_sent = [Sent(number) for number in range(1, 11)]
    settings = environment(
        AWS_LAMBDA_FUNCTION_NAME="", AGENT="tests.agents:gathering", MAX_CONCURRENT_TURNS="10", LOG_LEVEL="DEBUG"
    )
    command = [sys.executable, "-m", "app.lambda_runtime"]
    with (
        in_thread(Function(command, tmp_path, settings, concurrency=at_once)) as running,
        httpx2.Client(base_url=running.url, timeout=START_S) as http,
        ThreadPoolExecutor(at_once) as callers,
    ):
        http.get("/healthz").raise_for_status()

        def post(sent: Sent) -> str:
            kind = {"Content-Type": "application/json"}
            answer = http.post("/chat", content=sent.body(str(at_once)), headers=sent.headers | kind)
            return answer.raise_for_status().headers["x-request-id"]

        answered = list(callers.map(post, all_sent))
        text = running.log.read_text()
    lines = turns_in(text)
    expected = [sent.facts(answered_id) for sent, answered_id in zip(all_sent, answered, strict=True)]
    assert facts_of(lines) == ordered(expected)
    assert len({line["aws_request_id"] for line in lines}) == len(all_sent)
    assert CANARY not in text


@pytest.mark.parametrize(
    ("command", "workers"),
    [(CONTAINER, 1), (PLAIN, 1), ([*PLAIN, "--workers", "2", *LOGGING], 2), ([*PLAIN, "--log-level", "trace"], 1)],
    ids=["python -m app", "uvicorn", "workers", "trace"],
)
def test_every_line_of_a_server_is_json_and_every_phase_has_one(
    tmp_path: Path, command: list[str], workers: int
) -> None:
    with server(command, tmp_path, AGENT="tests.noisy:agent", LOG_LEVEL="DEBUG") as running:
        wait_until(lambda: phases(running).count("ready") == workers)
        for _ in range(2):
            answer = running.http.post("/chat", json={"message": CANARY}, headers={"X-Other": CANARY})
            assert answer.json()["answer"] == "done"
        assert running.http.get(f"/{CANARY}?{CANARY}").status_code == 404
        running.process.send_signal(signal.SIGTERM)
        running.process.wait(START_S)
        text = running.log.read_text()
    lines = lines_of(text)
    assert CANARY not in text
    assert sorted(phases(running)) == sorted(["warming", "ready", "draining", "stopped"] * workers)
    assert all(line["elapsed_ms"] >= 0 for line in lines if line["event"] == "phase changed")
    assert {line["was"] for line in lines if line["event"] == "phase changed"} == {
        *("cold", "warming", "ready", "draining")
    }
    events = [line["event"] for line in lines]
    assert events.count("Application startup complete.") == workers
    assert noises(lines) == NOISES


def phases(running: Server) -> list[str]:
    return [line["phase"] for line in lines_of(running.log.read_text()) if line["event"] == "phase changed"]


def noises(lines: Iterable[Line]) -> set[tuple[str, str]]:
    """Return what is told of the noises that the agent makes: the event, and its class where there is one."""
    quiet = ("app.lifecycle", "app.main", "app.middleware", "app.turn_log", "uvicorn.error")
    told = [line for line in lines if line["logger"] not in quiet]
    return {(line["event"], line.get("warning") or line.get("exception", {}).get("type", "")) for line in told}


@pytest.mark.parametrize("entry", ["handler", "streaming"])
def test_every_line_on_lambda_is_json(tmp_path: Path, entry: str) -> None:
    event = http_api_event("POST", "/chat", b'{"message": "canary-7f3a"}', {"content-type": "application/json"})
    if entry == "handler":
        text = invoked(tmp_path, event)
    else:
        settings = environment(AWS_LAMBDA_FUNCTION_NAME="", AGENT="tests.noisy:agent", LOG_LEVEL="DEBUG")
        function = Function([sys.executable, "-m", "app.lambda_runtime"], tmp_path, settings)
        with in_thread(function) as running:
            httpx2.post(f"{running.url}{INVOKE}", json=event, timeout=START_S).raise_for_status()
            text = running.log.read_text()
    lines = lines_of(text)
    assert CANARY not in text
    assert [line["phase"] for line in lines if line["event"] == "phase changed"] == ["warming", "ready"]
    assert noises(lines) == NOISES


def invoked(folder: Path, event: object) -> str:
    """Return what the handler writes, its errors too, while it answers one event."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.invoke"],
        input=json.dumps([10_000, event]) + "\n",
        cwd=folder,
        env=environment(AGENT="tests.noisy:agent", LOG_LEVEL="DEBUG"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=START_S,
        check=True,
    )
    lines = done.stdout.splitlines(keepends=True)
    assert ["statusCode" in line for line in lines if line.startswith("RESULT ")] == [True]
    return "".join(line for line in lines if not line.startswith("RESULT "))


AGENTS_THAT_DO_NOT_OPEN = f"""
class Agent:
    async def __aenter__(self):
        raise ValueError("{CANARY}")

    async def __aexit__(self, *exc):
        raise ValueError("{CANARY}")

    async def __call__(self, turn):
        yield "never"


class Late(Agent):
    async def __aenter__(self):
        return self


agent, late = Agent(), Late()
"""


@pytest.mark.parametrize("command", [CONTAINER, PLAIN], ids=["python -m app", "uvicorn"])
def test_an_agent_that_cannot_be_opened_is_told_without_its_text(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "closed.py").write_text(AGENTS_THAT_DO_NOT_OPEN)
    port = ["--port", str(free_port())] if command is PLAIN else []
    done = subprocess.run(
        [*command, *port],
        cwd=tmp_path,
        env=environment(AGENT="closed:agent", PORT=str(free_port())),
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )
    assert done.returncode != 0
    told = [line for line in lines_of(done.stdout + done.stderr) if line["logger"] == "app.clients"]
    assert [line["exception"]["type"] for line in told] == ["ValueError"]
    assert CANARY not in done.stdout + done.stderr


def test_an_agent_that_cannot_be_closed_is_told_without_its_text(tmp_path: Path) -> None:
    (tmp_path / "closed.py").write_text(AGENTS_THAT_DO_NOT_OPEN)
    with server(CONTAINER, tmp_path, AGENT="closed:late") as running:
        running.process.send_signal(signal.SIGTERM)
        running.process.wait(START_S)
        text = running.log.read_text()
    assert [line["exception"]["type"] for line in lines_of(text) if line["logger"] == "app.clients"] == ["ValueError"]
    assert CANARY not in text


def test_bad_settings_are_named_on_a_line(tmp_path: Path) -> None:
    done = subprocess.run(
        PLAIN,
        cwd=tmp_path,
        env=environment(AGENT_MAX_STEPS=CANARY),
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )
    named, unhandled = lines_of(done.stdout + done.stderr)
    assert named["problems"] == ["AGENT_MAX_STEPS must be a whole number from 1 to 50"]
    assert unhandled["exception"]["type"] == "ConfigurationError"
    assert CANARY not in done.stdout + done.stderr
