"""Processes under measurement, their CPU time, and ratios between two of them. Standard library only.

This process starts the others, so it stays small: a child's peak memory counts that of its parent until the exec.
"""

import http.client
import json
import math
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parent.parent
WAIT_S = 30.0  # for a server to start, and for any one answer
TOLERANCE = 1.25  # of a target: what noise may do on a busy machine
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
LAST_CHUNK = b"\r\n0\r\n\r\n"

Sample = Callable[[], float]


@dataclass(frozen=True)
class Row:
    """A line of the table.

    excess:  the figure as a multiple of its target, infinite for a count that differs; None without a target
    allowed: the excess at which `--check` fails
    """

    case: str
    floor: str
    figure: str
    target: str = ""
    excess: float | None = None
    allowed: float = TOLERANCE


def ratios(floor: Sample, case: Sample, rounds: int) -> list[float]:
    """Return case / floor of each round, the floor taken right before the case; one round goes unmeasured."""
    floor(), case()
    found = []
    for _ in range(rounds):
        base = floor()
        found.append(case() / base)
    return found


def at_most(case: str, floor: str, found: Sequence[float], target: float | None = None) -> Row:
    """Return the row of ratios that must not pass `target`."""
    figure = f"{median(found):.2f} ({min(found):.2f}-{max(found):.2f})"
    if target is None:
        return Row(case, floor, figure)
    return Row(case, floor, figure, f"<= {target:g}", median(found) / target)


def at_least(case: str, floor: str, found: Sequence[float], target: float, allowed: float) -> Row:
    """Return the row of a share: the inverse of the ratios, which must reach `target`."""
    row = at_most(case, floor, [1 / each for each in found])
    return Row(case, floor, row.figure, f">= {target:g}", target * median(found), allowed)


def exactly(case: str, floor: str, found: object, target: str, *, met: bool) -> Row:
    """Return the row of a count, which noise does not move: it is met or not."""
    return Row(case, floor, str(found), target, 1.0 if met else math.inf)


def environment(dynamodb_port: int | None = None) -> dict[str, str]:
    """Return the environment of every process here, floors included: production's, nothing of the caller's but PATH.

    Without a port there is no DynamoDB to reach.
    """
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "PYTHONHASHSEED": "0",
        "PYDANTIC_DISABLE_PLUGINS": "__all__",  # as in the image
        "ENVIRONMENT": "production",
        "AUTH": "none",
        "AGENT": "echo",  # which stands for any agent, where the agent is not what is measured
        "ANTHROPIC_API_KEY": "benchmark",  # production asks for one; the echo agent uses none
        "SESSIONS_TABLE": "sessions",
        "AWS_REGION": "eu-central-1",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": "benchmark",
        "AWS_SECRET_ACCESS_KEY": "benchmark",
        "AWS_ENDPOINT_URL_DYNAMODB": f"http://127.0.0.1:{dynamodb_port or 1}",
    }


@dataclass(frozen=True)
class Usage:
    """What a process used from its start to its end."""

    cpu_s: float
    peak_kib: float


def run(code: str, variables: dict[str, str], tool: Sequence[str] = ()) -> tuple[Usage, str, str]:
    """Run `code` in a fresh Python to its end; return its usage, output and error output."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryDirectory() as cwd:
        child = subprocess.Popen(  # noqa: S603 our own code
            [*tool, sys.executable, "-c", code], env=variables, cwd=cwd, stdout=out, stderr=err
        )
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        texts = [(file.seek(0), file.read().decode())[1] for file in (out, err)]
    if child.returncode:
        raise RuntimeError(f"{code} exited {child.returncode}:\n{texts[1]}")
    return Usage(used.ru_utime + used.ru_stime, used.ru_maxrss), texts[0], texts[1]


@dataclass(frozen=True)
class Server:
    """A server in a process of its own."""

    pid: int
    port: int

    def cpu_s(self) -> float:
        """Return the CPU time of all its threads so far."""
        return time.clock_gettime((~self.pid << 3) | 2)  # clock_getcpuclockid(3), as the C library makes it

    def resident_kib(self) -> int:
        """Return the memory that it occupies now."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0])


@contextmanager
def serve(module: str, *arguments: str, variables: dict[str, str]) -> Iterator[Server]:
    """Run `python -m benchmarks.MODULE FD ARGUMENTS` on a listening socket, until the block ends."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener, tempfile.TemporaryDirectory() as cwd:
        child = subprocess.Popen(  # noqa: S603 our own modules
            [sys.executable, "-m", f"benchmarks.{module}", str(listener.fileno()), *arguments],
            env=variables,
            cwd=cwd,
            stdout=subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
        )
        port = listener.getsockname()[1]
        listener.close()  # only the child listens, so a connection to a dead one is refused
        try:
            yield Server(child.pid, port)
        finally:
            child.terminate()
            child.wait(WAIT_S)


def get(port: int, path: str) -> tuple[int, bytes]:
    """Return status and body of a GET."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, body


def counts(port: int) -> dict[str, int]:
    """Return what the DynamoDB on `port` has counted."""
    found: dict[str, int] = json.loads(get(port, "/")[1])
    return found


def wait_until(ready: Callable[[], bool]) -> None:
    """Return once `ready` is true."""
    give_up = time.monotonic() + WAIT_S
    while not ready():
        if time.monotonic() > give_up:
            raise TimeoutError("a server does not get ready")
        time.sleep(0.05)


class Client:
    """Sends one request again and again, over `connections` that stay open, in waves of one each.

    A wave is answered whole before the next is sent, so every round gives a server the same work in the same order.
    """

    def __init__(self, server: Server, body: bytes, accept: str = "*/*", connections: int = 32) -> None:
        head = (
            "POST /chat HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            f"accept: {accept}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self._server = server
        self._request = head.encode() + body
        self._sockets = [socket.create_connection(("127.0.0.1", server.port), WAIT_S) for _ in range(connections)]

    def cpu_per_request(self, requests: int) -> float:
        """Send `requests` and return the seconds of CPU that the server spent on each."""
        waves = math.ceil(requests / len(self._sockets))
        before = self._server.cpu_s()
        for _ in range(waves):
            answer = self._ask(self._sockets)
            if not answer.startswith(b"HTTP/1.1 200 ") or b"event: error" in answer:
                raise RuntimeError(answer.decode())
        return (self._server.cpu_s() - before) / max(waves * len(self._sockets), 1)

    def _ask(self, sockets: Sequence[socket.socket]) -> bytes:
        """Send one wave and return its last answer."""
        for each in sockets:
            each.sendall(self._request)
        return [_answer(each) for each in sockets][-1]


def _answer(connection: socket.socket) -> bytes:
    data = bytearray()
    while not _is_whole(data):
        chunk = connection.recv(262_144)
        if not chunk:
            raise ConnectionError("the server closed the connection")
        data += chunk
    return bytes(data)


def _is_whole(data: bytearray) -> bool:
    head, _, body = data.partition(b"\r\n\r\n")
    if length := LENGTH.search(head):
        return len(body) >= int(length[1])
    return data.endswith(LAST_CHUNK)
