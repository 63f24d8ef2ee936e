"""The service behind each of its entry points, so that one conversation can be held with all of them."""

import base64
import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx2
from starlette.testclient import TestClient

from app.config import Settings
from app.main import create_app
from tests.lambda_runtime.front_door import in_thread
from tests.lambda_runtime.service import Function
from tests.machine import START_S, coverage, free_port, wait_until

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Answer:
    """A response, headers in lower case."""

    status: int
    headers: Mapping[str, str]
    body: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def slug(self) -> str:
        """The problem's slug."""
        return str(self.json["type"]).rpartition(":")[2]

    @property
    def events(self) -> list[tuple[str, Any]]:
        """The SSE events: name and data."""
        frames = [frame for frame in self.body.split("\n\n") if frame and not frame.startswith(":")]
        lines = [frame.split("\n") for frame in frames]
        return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in lines]


class Client(Protocol):
    """One way to the service."""

    def request(self, method: str, target: str, body: bytes = b"", headers: Mapping[str, str | bytes] = {}) -> Answer:
        """Make one request and wait for the whole answer."""

    def stored(self) -> int:
        """Return how many turns are in the session file, open ones too."""


@dataclass
class SessionFile:
    """The session file of a service that runs in `folder`."""

    folder: Path

    def stored(self) -> int:
        """Return how many turns are in it, open ones too; none before it is made."""
        if not (self.folder / "sessions.db").exists():
            return 0
        with contextlib.closing(sqlite3.connect(self.folder / "sessions.db")) as file:
            return int(file.execute("SELECT count(*) FROM turns").fetchone()[0])

    def damage(self, session_id: str) -> None:
        """Write over the stored turns of a session."""
        with contextlib.closing(sqlite3.connect(self.folder / "sessions.db")) as file, file:
            file.execute("UPDATE turns SET body = x'00' WHERE pk LIKE '%/' || ?", [session_id])


@dataclass
class HTTPClient(SessionFile):
    """Anything that speaks httpx2: the app in this process, or a server."""

    http: httpx2.Client

    def request(self, method: str, target: str, body: bytes = b"", headers: Mapping[str, str | bytes] = {}) -> Answer:
        raw = [
            (name.encode(), value if isinstance(value, bytes) else value.encode()) for name, value in headers.items()
        ]
        response = self.http.request(method, target, content=body, headers=raw)
        return Answer(response.status_code, {k.lower(): v for k, v in response.headers.items()}, response.text)


@dataclass
class HandlerClient(SessionFile):
    """`handler.handler` in a process of its own, fed HTTP API events (payload 2.0). `log` is what it has logged."""

    process: subprocess.Popen[str]
    log: list[str] = field(default_factory=list)

    def request(self, method: str, target: str, body: bytes = b"", headers: Mapping[str, str | bytes] = {}) -> Answer:
        texts = {
            name: value.decode("latin-1") if isinstance(value, bytes) else value for name, value in headers.items()
        }
        result = self.invoke(http_api_event(method, target, body, texts))
        content = result.get("body") or ""
        text = base64.b64decode(content).decode() if result.get("isBase64Encoded") else content
        return Answer(result["statusCode"], {k.lower(): v for k, v in result["headers"].items()}, text)

    def invoke(self, event: object, remaining_ms: object = 10_000) -> Any:
        """Invoke the handler with any event and return what it returned."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps([remaining_ms, event]) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:  # its own log lines stand between the results
            if line.startswith("RESULT "):
                return json.loads(line.removeprefix("RESULT "))
            self.log.append(line)
        raise AssertionError("the handler's process ended")


def http_api_event(method: str, target: str, body: bytes, headers: Mapping[str, str]) -> dict[str, Any]:
    """Return the event that API Gateway makes of a request."""
    url = urlsplit(target)
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": url.path,
        "rawQueryString": url.query,
        "headers": {"host": "api.example.com", **{name.lower(): value for name, value in headers.items()}},
        "requestContext": {
            "http": {"method": method, "path": url.path, "sourceIp": "192.0.2.1"},
            "stage": "$default",
        },
        "body": base64.b64encode(body).decode(),
        "isBase64Encoded": True,
    }


@contextlib.contextmanager
def asgi(folder: Path, **variables: str) -> Iterator[Client]:
    """The app in this process, its lifespan around it."""
    named: dict[str, Any] = {"SESSIONS_FILE": folder / "sessions.db", **variables}
    app = create_app(Settings(_env_file=None, **named))
    with TestClient(app, raise_server_exceptions=False) as http:
        client = HTTPClient(folder, http)
        wait_until(lambda: client.request("GET", "/readyz").status == 200)
        yield client


@contextlib.contextmanager
def uvicorn(folder: Path, **variables: str) -> Iterator[Client]:
    """`uvicorn app:app` as a user starts it."""
    with server([sys.executable, "-m", "uvicorn", "app:app"], folder, **variables) as running:
        yield HTTPClient(folder, running.http)


@contextlib.contextmanager
def handler(folder: Path, **variables: str) -> Iterator[HandlerClient]:
    """`handler.handler` in a fresh process."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "tests.invoke"],
        cwd=folder,
        env=environment(**variables),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield HandlerClient(folder, process)
    finally:
        with process:
            process.stdin.close()  # type: ignore[union-attr]  # a pipe, as asked for
            process.wait(START_S)


@contextlib.contextmanager
def streaming(folder: Path, **variables: str) -> Iterator[Client]:
    """`python -m app.lambda_runtime` in a Lambda environment, behind a Function URL that streams."""
    settings = environment(
        AWS_LAMBDA_FUNCTION_NAME="", **variables
    )  # on Lambda itself no session may be kept in a file
    function = Function([sys.executable, "-m", "app.lambda_runtime"], folder, settings)
    with in_thread(function) as running, httpx2.Client(base_url=running.url, timeout=START_S) as http:
        yield HTTPClient(folder, http)


ENTRY_POINTS: dict[str, Callable[..., contextlib.AbstractContextManager[Client]]] = {
    "asgi": asgi,
    "uvicorn": uvicorn,
    "handler": handler,
    "streaming": streaming,
}


@dataclass
class Server:
    """A running server process and a client of it."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    http: httpx2.Client = field(init=False)

    def __post_init__(self) -> None:
        self.http = httpx2.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=START_S)

    def ready(self) -> bool:
        """Return whether a new connection finds the server ready."""
        try:
            return httpx2.get(f"http://127.0.0.1:{self.port}/readyz", timeout=START_S).status_code == 200
        except httpx2.TransportError:
            return False


@contextlib.contextmanager
def server(command: list[str], folder: Path, **variables: str) -> Iterator[Server]:
    """Start a server on a free port in `folder`, wait until it is ready, and kill what is left of it."""
    port = free_port()
    at = ["--port", str(port)] if "uvicorn" in command else []
    log = folder / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, *at],
            cwd=folder,
            env=environment(PORT=str(port), **variables),
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    running = Server(process, port, log)
    try:
        wait_until(lambda: running.ready() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield running
    finally:
        running.http.close()
        if process.poll() is None:
            os.killpg(process.pid, 9)
        process.wait()


def environment(**variables: str) -> dict[str, str]:
    """Return the environment of a child: nothing of ours but what is named."""
    return {"PATH": os.defpath, "PYTHONPATH": str(ROOT), **coverage(), **variables}
