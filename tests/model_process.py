"""Whole processes of the service over a fake model."""

import contextlib
import json
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from tests.entry_points import Client, HTTPClient, Server, handler, server
from tests.fake_model import FakeModel, Request, in_thread
from tests.machine import wait_until
from tests.model_script import Gate, Script, says
from tests.with_model import KEY, SSE

UVICORN = [sys.executable, "-m", "uvicorn", "app:app"]


@dataclass
class Service:
    """A server process whose agent talks with the model."""

    running: Server
    model: FakeModel

    @property
    def client(self) -> Client:
        """A client of the process."""
        return HTTPClient(self.running.log.parent, self.running.http)

    def script(self, *script: Script) -> None:
        self.model.script[:] = script
        self.model.requests.clear()

    @contextlib.contextmanager
    def stream(self, session: str) -> Iterator[Iterator[str]]:
        """Take a turn and yield its lines as they come."""
        body = {"message": "hello", "session_id": session}
        with (
            httpx2.Client(base_url=self.running.http.base_url, timeout=10) as http,
            http.stream("POST", "/chat", json=body, headers={"Accept": SSE}) as response,
        ):
            yield response.iter_lines()

    def send(self, session: str, accept: str) -> socket.socket:
        """Send a turn and read nothing; the caller closes the connection."""
        body = json.dumps({"message": "hello", "session_id": session})
        head = f"POST /chat HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nContent-Type: application/json\r\n"
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        connection.connect(("127.0.0.1", self.running.port))
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        return connection

    def turns(self, session: str) -> list[Any]:
        answer = self.running.http.get(f"/sessions/{session}")
        return list(answer.json().get("turns", []))

    def said(self, words: int) -> Request:
        """Wait until the model has sent so many deltas, and return the request they answer."""
        wait_until(lambda: bool(self.model.requests) and deltas(self.model.requests[-1]) >= words)
        return self.model.requests[-1]


def deltas(request: Request) -> int:
    return sum(isinstance(step, dict) and step["type"] == "content_block_delta" for step in request.sent)


@contextlib.contextmanager
def service(folder: Path, **variables: str) -> Iterator[Service]:
    """Yield a service under uvicorn."""
    with (
        in_thread() as model,
        server(UVICORN, folder, **variables_for(model), **variables) as running,
    ):
        yield Service(running, model)


def variables_for(model: FakeModel) -> dict[str, str]:
    """Return the environment of a service whose agent talks with the model."""
    return {
        "ANTHROPIC_API_KEY": KEY,
        "ANTHROPIC_BASE_URL": model.url,
        "AGENT_TOOLS": "tests.model_tools:tools",
        "AGENT_INSTRUCTIONS": "canary-instructions",
        "LOG_LEVEL": "DEBUG",
    }


@contextlib.contextmanager
def uvicorn_with(folder: Path, variables: Mapping[str, str]) -> Iterator[Client]:
    """Yield a client of the service under uvicorn."""
    with server(UVICORN, folder, **variables) as running:
        yield HTTPClient(folder, running.http)


@contextlib.contextmanager
def handler_with(folder: Path, variables: Mapping[str, str]) -> Iterator[Client]:
    """Yield a client of the Lambda handler."""
    with handler(folder, **variables) as client:
        yield client


def heard_while_it_speaks(http: httpx2.Client, model: FakeModel) -> list[str]:
    """Return the words of a streamed turn, of which the model says none before the one before it was heard."""
    gates = [Gate(), Gate()]
    model.script[:] = [says("one", gates[0], " two", gates[1], " three")]
    body = {"message": "hello", "session_id": "chunks"}
    with http.stream("POST", "/chat", json=body, headers={"Accept": SSE}) as response:
        words = (json.loads(line.removeprefix("data: "))["text"] for line in response.iter_lines() if "text" in line)
        heard = []
        for gate in gates:
            heard.append(next(words))
            assert not model.requests[-1].answered
            gate.set()
        return [*heard, next(words)]
