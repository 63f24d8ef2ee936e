"""Functions on the tests' fake Lambda service, and servers, each asked by this process."""

import asyncio
import http.client
import json
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Server
from tests.lambda_runtime.service import Begun, Ended, Function, Service

GOOD = re.compile(rb'"statusCode": ?200')
LIMIT_S = 60.0
POLL_S = 0.002


@dataclass(frozen=True)
class Start:
    """What a process needed from its start to its first answer."""

    cpu_s: float
    wall_s: float


@dataclass(frozen=True)
class Answer:
    """An answer as it came: each piece with the seconds since the question."""

    pieces: Sequence[tuple[float, bytes]]
    whole_s: float

    def share(self, text: bytes) -> float:
        """Return the share of the whole time after which `text` was there."""
        buffer = b""
        for at_s, piece in self.pieces:
            buffer += piece
            if text in buffer:
                return at_s / self.whole_s
        raise RuntimeError(buffer.decode())


class Runtime:
    """A function that starts with the first question."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def ask(self, event: object) -> Answer:
        """Invoke it, and return what it answered."""
        began, pieces = time.perf_counter(), list[tuple[float, bytes]]()
        async with asyncio.timeout(LIMIT_S), aclosing(self._service.invoke(json.dumps(event).encode())) as answer:  # type: ignore[type-var]
            async for piece in answer:
                now = time.perf_counter() - began
                if isinstance(piece, Ended):
                    break
                if not isinstance(piece, Begun):
                    pieces.append((now, piece))
        if not GOOD.search(b"".join(text for _, text in pieces)):
            raise RuntimeError(f"{self._service.function.command}: {piece!r} after {pieces}")
        return Answer(pieces, now)

    def cpu_s(self) -> float:
        """Return the CPU time of its processes so far."""
        [process] = [each.process for each in self._service.environments]
        assert process
        return sum(each.cpu_s() for each in (Server(process.pid, 0), *children(process.pid)))

    async def cpu_per_invocation(self, event: object, invocations: int) -> float:
        """Return the seconds of CPU that each of so many invocations cost, one after the other."""
        before = self.cpu_s()
        for _ in range(invocations):
            await self.ask(event)
        return (self.cpu_s() - before) / invocations


def children(pid: int) -> list[Server]:
    """Return the processes that the threads of a process have started."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [Server(int(child), 0) for each in lists for child in each.read_text().split()]


@asynccontextmanager
async def function(command: Sequence[str], variables: Mapping[str, str]) -> AsyncIterator[Runtime]:
    """Give a function to ask, and end its process with the block."""
    with tempfile.TemporaryDirectory() as folder:
        service = Service(Function(command, Path(folder), variables, timeout_s=LIMIT_S))
        try:
            yield Runtime(service)
        finally:
            await service.stop()


async def start_function(command: Sequence[str], variables: Mapping[str, str], event: object) -> Start:
    """Start a function with its first question."""
    async with function(command, variables) as runtime:
        answer = await runtime.ask(event)
        return Start(runtime.cpu_s(), answer.whole_s)


def start_server(module: str, path: str, body: bytes, variables: Mapping[str, str]) -> Start:
    """Start `python -m MODULE` on PORT, and ask it until it answers well."""
    port, began = free_port(), time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as cwd,
        tempfile.TemporaryFile() as err,
        subprocess.Popen(  # noqa: S603 our own modules
            [sys.executable, "-m", module],
            env={**variables, "PORT": str(port)},
            cwd=cwd,
            stdout=subprocess.DEVNULL,
            stderr=err,
        ) as child,
    ):
        try:
            while not _answers(port, path, body):
                if time.perf_counter() - began > LIMIT_S or child.poll() is not None:
                    err.seek(0)
                    raise RuntimeError(f"{module} does not answer:\n{err.read().decode()}")
                time.sleep(POLL_S)
            return Start(Server(child.pid, port).cpu_s(), time.perf_counter() - began)
        finally:
            child.kill()


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def _answers(port: int, path: str, body: bytes) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
    try:
        connection.request("POST", path, body, {"content-type": "application/json"})
        return connection.getresponse().status == http.HTTPStatus.OK
    except ConnectionError:
        return False
    finally:
        connection.close()
