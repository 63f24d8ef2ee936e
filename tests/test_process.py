"""How the process ends: real servers, real signals."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from app.lifecycle import SAME_SIGNAL_S
from tests.entry_points import Server, environment, server
from tests.machine import free_port, wait_until

CONTAINER = [sys.executable, "-m", "app"]
PLAIN = [sys.executable, "-m", "uvicorn", "app:app"]
NEVER_OPEN = """
import asyncio
import contextlib
import pathlib

class Agent(contextlib.AbstractAsyncContextManager):
    async def __aenter__(self):
        pathlib.Path("opening").touch()
        await asyncio.Event().wait()

    async def __aexit__(self, *exc):
        pass

    async def __call__(self, turn):
        yield "never"

agent = Agent()
"""
SLOW = {"AGENT": "tests.agents:slow"}
EXIT_S = 15.0
STOPPED_IN_A_FINALIZER = """
import signal
from app.agents.echo import echo as agent

class Held:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)

Held()
"""


class Call(threading.Thread):
    """One turn on a connection of its own, in the background."""

    def __init__(self, running: Server, message: str, accept: str = "application/json") -> None:
        super().__init__(daemon=True)
        self._running, self._message, self._accept = running, message, accept
        self.status = 0
        self.text = ""
        self.headers: dict[str, str] = {}
        self.first_byte = threading.Event()
        self.start()

    def run(self) -> None:
        with (
            httpx2.Client(timeout=30) as http,
            http.stream(
                "POST",
                f"http://127.0.0.1:{self._running.port}/chat",
                json={"message": self._message, "session_id": "s" + self._message},
                headers={"Accept": self._accept},
            ) as response,
        ):
            self.status, self.headers = response.status_code, dict(response.headers)
            for chunk in response.iter_text():
                self.text += chunk
                self.first_byte.set()


def turns_running(running: Server, count: int) -> Callable[[], bool]:
    return lambda: running.http.get("/readyz").json().get("running_turns") == count


def phases(running: Server) -> list[str]:
    lines = [json.loads(line) for line in running.log.read_text().splitlines() if line.startswith("{")]
    return [line["phase"] for line in lines if line["event"] == "phase changed"]


def test_a_turn_in_flight_is_finished_before_the_exit(tmp_path: Path) -> None:
    with server(CONTAINER, tmp_path, **SLOW) as running:
        calls = [Call(running, "1.0"), Call(running, "1.1", "text/event-stream")]
        wait_until(turns_running(running, 2))
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(EXIT_S) == 0
        for call in calls:
            call.join()
        assert [call.status for call in calls] == [200, 200]
        assert json.loads(calls[0].text)["answer"] == "begun ended"
        assert "event: done" in calls[1].text
        assert phases(running) == ["warming", "ready", "draining", "stopped"]


@pytest.mark.parametrize("delay_s", [0.5, 1.5])
def test_a_draining_process_says_so_and_serves_on_for_its_delay(tmp_path: Path, delay_s: float) -> None:
    with server(CONTAINER, tmp_path, DRAIN_DELAY_S=str(delay_s)) as running:
        started = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not running.ready())
        readiness = httpx2.get(f"http://127.0.0.1:{running.port}/readyz")
        turn = httpx2.post(f"http://127.0.0.1:{running.port}/chat", json={"message": "hello"})
        alive = httpx2.get(f"http://127.0.0.1:{running.port}/healthz")
        assert running.process.wait(EXIT_S) == 0
        assert time.monotonic() - started >= delay_s
    assert (readiness.status_code, readiness.json()["type"]) == (503, "urn:agent-service:problem:shutting-down")
    assert readiness.headers["retry-after"] == "1"
    assert (turn.status_code, turn.json()["answer"]) == (200, "You said: hello")
    assert alive.status_code == 200
    assert {each.headers["connection"] for each in (readiness, turn, alive)} == {"close"}


def test_a_turn_longer_than_the_grace_is_given_back(tmp_path: Path) -> None:
    with server(CONTAINER, tmp_path, SHUTDOWN_GRACE_S="3", **SLOW) as running:
        folded, streamed = Call(running, "60"), Call(running, "61", "text/event-stream")
        wait_until(turns_running(running, 2))
        started = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(EXIT_S) == 0
        assert time.monotonic() - started < 4.0
        folded.join()
        streamed.join()
    assert (folded.status, json.loads(folded.text)["type"]) == (503, "urn:agent-service:problem:shutting-down")
    assert folded.headers["retry-after"] == "1"
    assert streamed.text.rpartition("event: ")[2].startswith(
        'error\ndata: {"type":"urn:agent-service:problem:shutting-down"'
    )
    with server(CONTAINER, tmp_path) as again:  # the leases are gone: both sessions can be used at once
        for session in ("s60", "s61"):
            turn = again.http.post("/chat", json={"message": "hello", "session_id": session})
            assert (turn.status_code, turn.json()["turn"]) == (200, 1)


def test_a_second_signal_hurries(tmp_path: Path) -> None:
    with server(CONTAINER, tmp_path, DRAIN_DELAY_S="20", SHUTDOWN_GRACE_S="60", **SLOW) as running:
        call = Call(running, "30")
        wait_until(turns_running(running, 1))
        running.process.send_signal(signal.SIGTERM)
        running.process.send_signal(signal.SIGTERM)  # as to a process group, whose parent passes it on: the same one
        wait_until(lambda: not running.ready())
        since = time.monotonic()
        wait_until(lambda: time.monotonic() > since + SAME_SIGNAL_S)
        assert running.process.poll() is None
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(EXIT_S) == 0
        call.join()
    assert call.status == 503


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_process_ends_at_once(tmp_path: Path, number: signal.Signals) -> None:
    with server(CONTAINER, tmp_path, SHUTDOWN_GRACE_S="60") as running:
        started = time.monotonic()
        running.process.send_signal(number)
        assert running.process.wait(EXIT_S) == 0
        assert time.monotonic() - started < 3.0


def test_a_signal_that_was_held_back_is_obeyed(tmp_path: Path) -> None:
    """As the image's entry point starts it: process 1 would lose what comes before it handles signals."""
    with server(["env", "--block-signal=TERM", *CONTAINER], tmp_path) as running:
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(EXIT_S) == 0


def test_a_signal_in_the_middle_of_an_import_is_obeyed(tmp_path: Path) -> None:
    """Where it arrives in a finalizer, Python ignores what its handler raises."""
    (tmp_path / "stopped.py").write_text(STOPPED_IN_A_FINALIZER)
    variables = environment(AGENT="stopped:agent", PORT=str(free_port()))
    assert subprocess.run(CONTAINER, cwd=tmp_path, env=variables, timeout=EXIT_S, check=False).returncode == 0


def test_an_agent_that_does_not_open_can_be_ended(tmp_path: Path) -> None:
    (tmp_path / "closed.py").write_text(NEVER_OPEN)
    variables = environment(AGENT="closed:agent", PORT=str(free_port()))
    with subprocess.Popen(CONTAINER, cwd=tmp_path, env=variables) as process:
        wait_until((tmp_path / "opening").exists)
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(EXIT_S) == 0
        finally:
            process.kill()


def test_a_thread_that_never_ends_does_not_keep_the_process(tmp_path: Path) -> None:
    with server(CONTAINER, tmp_path, AGENT="tests.agents:threaded") as running:
        assert running.http.post("/chat", json={"message": "hello"}).status_code == 200
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(EXIT_S) == 0
        assert phases(running)[-1] == "stopped"


@pytest.mark.parametrize("workers", [1, 2])
def test_plain_uvicorn_drains_too(tmp_path: Path, workers: int) -> None:
    command = PLAIN if workers == 1 else [*PLAIN, "--workers", str(workers)]
    with server(command, tmp_path, DRAIN_DELAY_S="1", **SLOW) as running:
        wait_until(lambda: phases(running).count("ready") == workers)
        calls = [Call(running, f"1.{n}", "text/event-stream") for n in range(4)]
        for call in calls:
            assert call.first_byte.wait(10)
        running.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not running.ready())
        assert httpx2.get(f"http://127.0.0.1:{running.port}/readyz").status_code == 503
        running.process.wait(EXIT_S)
        for call in calls:
            call.join()
        assert ["event: done" in call.text for call in calls] == [True] * 4


def test_a_client_that_hangs_up_loses_no_turn(tmp_path: Path) -> None:
    with server(CONTAINER, tmp_path, **SLOW) as running:
        for accept in ("text/event-stream", "application/json"):
            with pytest.raises(httpx2.ReadTimeout), httpx2.Client(timeout=0.5) as http:
                http.post(
                    f"http://127.0.0.1:{running.port}/chat",
                    json={"message": "1", "session_id": "s"},
                    headers={"Accept": accept, "Prefer": "wait=5"},
                )
            wait_until(turns_running(running, 0))
        transcript = running.http.get("/sessions/s").json()
    assert [turn["answer"] for turn in transcript["turns"]] == ["begun ended"] * 2


def test_sessions_survive_a_restart(tmp_path: Path) -> None:
    for number in (1, 2):
        with server(CONTAINER, tmp_path) as running:
            turn = running.http.post("/chat", json={"message": "hello", "session_id": "s"})
            assert turn.json()["turn"] == number
            running.process.kill()  # not even a clean end is needed


def test_two_processes_share_the_sessions_of_a_machine(tmp_path: Path) -> None:
    with server(CONTAINER, tmp_path) as one, server(CONTAINER, tmp_path) as other:
        numbers = [
            each.http.post("/chat", json={"message": "hello", "session_id": "s"}).json()["turn"]
            for each in (one, other, one)
        ]
    assert numbers == [1, 2, 3]


def test_the_log_is_json_and_holds_nothing_that_a_user_wrote(tmp_path: Path) -> None:
    canaries = ["canary-message", "canary-session", "canary-key", "canary-header"]
    with server(CONTAINER, tmp_path, LOG_LEVEL="DEBUG", AGENT="tests.agents:raising") as running:
        failed = running.http.post(
            "/chat",
            json={"message": canaries[0], "session_id": canaries[1]},
            headers={"Idempotency-Key": canaries[2], "X-Other": canaries[3], "X-Request-ID": "request-1"},
        )
        running.http.get(f"/sessions/{canaries[1]}")
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(EXIT_S) == 0
        lines = [json.loads(line) for line in running.log.read_text().splitlines()]
    assert (failed.status_code, failed.json()["type"]) == (502, "urn:agent-service:problem:agent-failed")
    assert not [canary for canary in canaries if canary in running.log.read_text() + failed.text]
    closing = [line for line in lines if line["event"] == "turn finished"]
    assert [(line["problem"], line["level"], line["request_id"]) for line in closing] == [
        ("agent-failed", "error", "request-1")
    ]
