"""The two runtimes of Lambda, each under the Runtime API of the tests' fake service."""

import http.client
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import measure
from benchmarks.cases import MESSAGE, Effort
from benchmarks.measure import Row, Server, at_most, environment, ratios, serve
from tests.lambda_runtime.front_door import in_thread
from tests.lambda_runtime.service import Function

BUFFERED = (sys.executable, "-m", "awslambdaric", "handler.handler")
STREAMING = (sys.executable, "-m", "app.lambda_runtime")
FLOOR = "awslambdaric + Mangum"
HEADERS = {"Content-Type": "application/json", "Accept": "text/event-stream"}


@contextmanager
def _environment(command: tuple[str, ...], dynamodb_port: int, agent: str) -> Iterator[Server]:
    """Yield an environment that has been called once: the process, and the port of its Function URL."""
    settings = environment(dynamodb_port) | {"AGENT": agent}
    with (
        tempfile.TemporaryDirectory() as folder,
        in_thread(Function(command, Path(folder), settings, timeout_s=measure.WAIT_S)) as running,
    ):
        port = int(running.url.rpartition(":")[2])
        measure.get(port, "/healthz")
        [pid] = running.pids
        yield Server(pid, port)


def lambda_runtimes(effort: Effort) -> Iterator[Row]:
    """CPU of an invocation, Runtime API included, and when the first of 20 tokens comes."""
    requests = int(400 * effort.scale)
    with serve("dynamodb", "canned", variables=environment()) as table:
        with _environment(BUFFERED, table.port, "echo") as base, _environment(STREAMING, table.port, "echo") as ours:

            def cost(server: Server) -> float:
                before = server.cpu_s()
                for _ in range(requests):
                    _turn(server.port)
                return (server.cpu_s() - before) / requests

            found = ratios(lambda: cost(base), lambda: cost(ours), effort.warm)
            yield at_most("invocation, CPU: the runtime that streams", FLOOR, found)
        for name, command, limit in [("streaming", STREAMING, 0.2), (FLOOR, BUFFERED, None)]:
            with _environment(command, table.port, "benchmarks.ours:twenty") as server:
                shares = [first / whole for first, whole in (_turn(server.port) for _ in range(effort.cold))]
            yield at_most(f"first byte of 20 tokens in 1 s: {name}", "the whole stream", shares, limit)


def _turn(port: int) -> tuple[float, float]:
    """Take a turn and return when its first byte and its last one came, in seconds after the request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=measure.WAIT_S)
    began = time.monotonic()
    connection.request("POST", "/chat", MESSAGE, HEADERS)
    response = connection.getresponse()
    assert response.read(1)
    first = time.monotonic() - began
    last = response.read().rstrip().rpartition(b"data: ")[2]
    assert json.loads(last)["stop_reason"] == "end_turn"
    connection.close()
    return first, time.monotonic() - began
