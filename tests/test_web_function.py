"""The service as a Lambda Web Function: the zip that is uploaded, hosted as Lambda hosts it, and `python -m app`."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from app.web_function import MARGIN_S, address
from tests.entry_points import ROOT, environment
from tests.machine import START_S, free_port, listens, wait_until
from tests.servers import Table, sessions_table

ENTRYPOINT = "asgi:app:app"  # AWS_LAMBDA_PYTHON_ENTRYPOINT
KILLED_AFTER_S = 1.0  # from SIGTERM, by Lambda


@pytest.fixture(scope="module")
def table() -> Iterator[Table]:
    with sessions_table() as table:
        yield table


@dataclass(frozen=True)
class WebFunction:
    """One environment, as Lambda reaches it: over HTTP, at the endpoint it named."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def answers(self) -> bool:
        try:
            return httpx2.get(f"{self.url}/healthz", timeout=START_S).status_code == 200
        except httpx2.TransportError:
            return False

    def phases(self) -> list[str]:
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line["phase"] for line in lines if line["event"] == "phase changed"]


def hosted(endpoint: str) -> list[str]:
    """Return the command of a server that hosts ENTRYPOINT, in the place of Lambda's own, of which nothing is known."""
    kind, _, target = ENTRYPOINT.partition(":")
    host, port = address(endpoint)
    return ["-m", "uvicorn", "--interface", f"{kind}3", "--lifespan", "on", "--host", host, "--port", str(port), target]


@contextmanager
def web_function(
    arguments: list[str], endpoint: str, table: Table, log: Path, package: Path | None = None, **variables: str
) -> Iterator[WebFunction]:
    """Start an environment and kill what is left of it.

    package: the folder that holds all there is; `-S` keeps every other package out
    """
    path = f"{ROOT}" if package is None else f"{package}{os.pathsep}{log.parent}"
    known: Mapping[str, str] = {"AGENT_TIMEOUT_S": "27", "AWS_LAMBDA_HTTP_ENDPOINT": endpoint, **table.settings}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *([] if package is None else ["-S"]), *arguments],
            cwd=log.parent,
            env=environment(**{**known, **variables}) | {"PYTHONPATH": path},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    running = WebFunction(process, f"http://{endpoint}", log)
    try:
        wait_until(lambda: running.answers() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield running
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def here() -> str:
    return f"127.0.0.1:{free_port()}"


def chat(running: WebFunction, session: str, message: str = "hello") -> httpx2.Response:
    document = {"message": message, "session_id": session}
    return httpx2.post(f"{running.url}/chat", json=document, timeout=30)


class Stream(threading.Thread):
    """One streamed turn in the background: its pieces and when each came."""

    def __init__(self, running: WebFunction, session: str, message: str) -> None:
        super().__init__(daemon=True)
        self._url, self._document = f"{running.url}/chat", {"message": message, "session_id": session}
        self.pieces: list[tuple[float, str]] = []
        self.begun = threading.Event()
        self.start()

    @property
    def text(self) -> str:
        return "".join(text for _, text in self.pieces)

    def run(self) -> None:
        accept = {"Accept": "text/event-stream"}
        with httpx2.stream("POST", self._url, json=self._document, headers=accept, timeout=30) as response:
            for text in response.iter_text():
                self.pieces.append((time.monotonic(), text))
                if "begun" in self.text:
                    self.begun.set()


@pytest.fixture(scope="module")
def zipped(package: Path, table: Table, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebFunction]:
    """The zip's content, and an agent beside it, hosted by a server that only knows the entry point."""
    endpoint, folder = here(), tmp_path_factory.mktemp("zipped")
    (folder / "agents.py").write_text((ROOT / "tests" / "agents.py").read_text())
    arguments, log, name = hosted(endpoint), folder / "log", "f"
    with web_function(
        arguments, endpoint, table, log, package, AGENT="agents:slow", AWS_LAMBDA_FUNCTION_NAME=name
    ) as running:
        yield running


def test_the_zip_serves_without_anything_else(zipped: WebFunction, package: Path, table: Table) -> None:
    assert [chat(zipped, "zip", "0").json()["turn"] for _ in range(3)] == [1, 2, 3]
    assert len(table.turns("zip")) == 3
    assert not list(package.glob("pytest*"))


def test_it_warms_up_by_itself(zipped: WebFunction) -> None:
    """Under Lambda's events it would wait for a call, because the process stands still between two of them."""
    wait_until(lambda: zipped.phases() == ["warming", "ready"], limit_s=5)


def test_a_stream_arrives_as_it_happens(zipped: WebFunction) -> None:
    stream = Stream(zipped, "stream", "1.5")
    stream.join()
    assert "begun" in stream.pieces[0][1] + stream.pieces[1][1]
    assert "event: done" in stream.pieces[-1][1]
    assert stream.pieces[-1][0] - stream.pieces[0][0] > 1.0


def test_it_takes_several_turns_at_once(zipped: WebFunction) -> None:
    began = time.monotonic()
    streams = [Stream(zipped, f"at-once-{number}", "2") for number in range(8)]
    assert all(stream.begun.wait(10) for stream in streams)
    running = httpx2.get(f"{zipped.url}/readyz").json()["running_turns"]
    for stream in streams:
        stream.join()
    assert running == 8
    assert ["event: done" in stream.text for stream in streams] == [True] * 8
    assert time.monotonic() - began < 8 * 2


@pytest.mark.parametrize("how", ["hosted", "python -m app"])
def test_a_signal_gives_every_turn_back_before_lambda_kills_it(
    how: str, zipped: WebFunction, package: Path, table: Table, tmp_path: Path
) -> None:
    """Its stream ends with a problem, and its session is free at once for the environment that comes next."""
    endpoint, session = here(), f"signal-{how[0]}"
    (tmp_path / "agents.py").write_text((ROOT / "tests" / "agents.py").read_text())
    arguments, where = (hosted(endpoint), package) if how == "hosted" else (["-m", "app"], None)
    with web_function(arguments, endpoint, table, tmp_path / "log", where, AGENT="agents:slow") as running:
        stream = Stream(running, session, "20")
        assert stream.begun.wait(10)
        began = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        status = running.process.wait(10)
        assert time.monotonic() - began < KILLED_AFTER_S
        stream.join()
        assert running.phases() == ["warming", "ready", "draining", "stopped"]
        assert status in (0, -signal.SIGTERM)  # plain uvicorn raises the signal again
    assert stream.text.rpartition("event: ")[2].startswith('error\ndata: {"type":"urn:agent-service:problem:shutting')
    assert chat(zipped, session, "0").json()["turn"] == 1


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", None), ("127.0.0.2", None), ("::1", "[::1]")])
def test_the_container_server_binds_exactly_the_endpoint(
    host: str, shown: str | None, table: Table, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        port = probe.getsockname()[1]
    other, endpoint, log = free_port(), f"{shown or host}:{port}", tmp_path / "log"
    with web_function(["-m", "app"], endpoint, table, log, HOST="127.0.0.3", PORT=str(other)) as running:
        assert chat(running, f"at-{port}").json()["answer"] == "You said: hello"
        assert not listens("127.0.0.3", other)
        assert not listens("127.0.0.4", port)


def test_a_stream_is_done_before_its_revision_would_cut_it(table: Table, tmp_path: Path) -> None:
    """With AGENT_TIMEOUT_S three seconds below `timeoutSeconds`, here 5."""
    slow = "tests.agents:slow"
    with web_function(["-m", "app"], here(), table, tmp_path / "log", AGENT_TIMEOUT_S="2", AGENT=slow) as running:
        began = time.monotonic()
        stream = Stream(running, "deadline", "60")
        stream.join()
    assert time.monotonic() - began < 2 + MARGIN_S
    done = json.loads(stream.text.rpartition("event: done\ndata: ")[2])
    assert (done["answer"], done["stop_reason"]) == ("begun", "deadline")
