"""The measurements, each a generator of rows."""

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from subprocess import DEVNULL

from benchmarks import measure
from benchmarks.dynamodb import forward
from benchmarks.measure import Client, Row, Server, at_least, at_most, counts, environment, exactly, ratios, serve

MESSAGE = b'{"message": "hello there"}'
SESSION = b'{"message": "hello there", "session_id": "benchmark"}'
HELLO = "FastAPI + Mangum hello"
INVOCATIONS = 100
ECHO_ALLOWED = 2.0  # 1.25 of what is reached, 0.47 of FastAPI with a log line for each turn; the target is missed
SERVICE_UNAVAILABLE = 503
LISTED = len('"principal":{"S":"anonymous"},"created":{"N":"1764036123.456"},')  # in the commit of a first turn
NUMBERS = 2  # the turn's number stands in both writes of a turn, and is longer the higher it is
SCHEMA = {
    "TableName": "sessions",
    "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "turn", "KeyType": "RANGE"}],
    "AttributeDefinitions": [
        {"AttributeName": "pk", "AttributeType": "S"},
        {"AttributeName": "turn", "AttributeType": "N"},
    ],
    "BillingMode": "PAY_PER_REQUEST",
}
VALGRIND = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]


@dataclass(frozen=True)
class Effort:
    """How much of everything."""

    cold: int = 11  # rounds of fresh processes
    warm: int = 15  # rounds of many requests
    scale: float = 1.0  # of the requests in a round
    growth: int = 10_000  # turns over which memory may not grow
    turns: tuple[int, ...] = (1, 100, 1000)
    ungated: bool = True  # measure the agents also where there is no target


def cold_start(effort: Effort) -> Iterator[Row]:
    """Fresh process to first answer: CPU, peak memory, instructions."""
    with serve("dynamodb", "canned", variables=environment()) as table:
        variables = environment(table.port) | {"AWS_LAMBDA_FUNCTION_NAME": "benchmark"}
        for name, module, limits in [
            ("ours", "handler", (1.6, 1.4)),
            ("usual stack", "benchmarks.usual", (None, None)),
        ]:
            _once("benchmarks.hello", variables), _once(module, variables)  # compiles what is not compiled yet
            pairs = [(_once("benchmarks.hello", variables), _once(module, variables)) for _ in range(effort.cold)]
            cpu = [case.cpu_s / floor.cpu_s for floor, case in pairs]
            peak = [case.peak_kib / floor.peak_kib for floor, case in pairs]
            yield at_most(f"cold start, CPU: {name}", HELLO, cpu, limits[0])
            yield at_most(f"cold start, peak memory: {name}", HELLO, peak, limits[1])
            if shutil.which(VALGRIND[0]):
                count = instructions(module, variables) / instructions("benchmarks.hello", variables)
                yield at_most(f"cold start, instructions: {name}", HELLO, [count])


def _once(module: str, variables: dict[str, str]) -> measure.Usage:
    return measure.run(f"from benchmarks.invoke import once; once({module!r})", variables)[0]


def instructions(module: str, variables: dict[str, str]) -> int:
    """Return the instructions from a fresh process to its first answer, which have next to no noise."""
    _, _, report = measure.run(f"from benchmarks.invoke import once; once({module!r})", variables, VALGRIND)
    return int(re.findall(r"I +refs: +([\d,]+)", report)[-1].replace(",", ""))


def warm_invocation(effort: Effort) -> Iterator[Row]:
    """An invocation through the handler against a direct call of the same app, and what a warm environment re-does."""
    for name, stack, limit in [("ours", "ours", 1.75), ("usual stack", "usual", None)]:
        code = f"from benchmarks.warm import warm; warm({stack!r}, {effort.warm}, {int(200 * effort.scale)})"
        found = json.loads(_last_line(measure.run(code, environment())[1]))
        yield at_most(f"warm invocation: {name}", "the same app, called directly", found, limit)
    for name, stack, goals in [("ours", "ours", (0, 1)), ("usual stack", "usual", (None, None))]:
        with serve("dynamodb", "canned", variables=environment()) as table:
            code = f"from benchmarks.warm import count; count({stack!r}, {INVOCATIONS}, {table.port})"
            opened, starts = json.loads(_last_line(measure.run(code, environment(table.port))[1]))
        for what, found, goal in [("new connections", opened, goals[0]), ("lifespan starts", starts, goals[1])]:
            row = exactly(f"{INVOCATIONS} invocations, {what}: {name}", "", found, f"= {goal}", met=found == goal)
            yield row if goal is not None else replace(row, target="", excess=None)


def _last_line(text: str) -> str:
    return text.splitlines()[-1]


@contextmanager
def _app(target: str, dynamodb_port: int | None = None, asked: Mapping[str, str] = {}) -> Iterator[Server]:
    with serve("server", f"benchmarks.{target}", variables={**environment(dynamodb_port), **asked}) as server:
        measure.wait_until(lambda: measure.get(server.port, "/readyz")[0] != SERVICE_UNAVAILABLE)
        yield server


def echo(effort: Effort) -> Iterator[Row]:
    """The full echo path under uvicorn against bare echoes."""
    requests = int(3200 * effort.scale)
    with (
        _app("floors:starlette_echo") as starlette,
        _app("floors:fastapi_echo") as fastapi,
        _app("ours:in_memory") as ours,
    ):
        case = partial(Client(ours, MESSAGE).cpu_per_request, requests)
        for name, floor, share in [("Starlette", starlette, 0.30), ("FastAPI", fastapi, 0.75)]:
            found = ratios(partial(Client(floor, MESSAGE).cpu_per_request, requests), case, effort.warm)
            yield at_least("echo under uvicorn, share of throughput", f"bare {name} echo", found, share, ECHO_ALLOWED)


def telemetry(effort: Effort) -> Iterator[Row]:
    """A turn of the echo that is measured and traced, against one that is only logged."""
    if not effort.ungated:
        return
    requests = int(3200 * effort.scale)
    with _app("floors:sink") as sink, _app("ours:in_memory") as ours:
        base = partial(Client(ours, MESSAGE).cpu_per_request, requests)
        for asked in ({"METRICS": "emf"}, {"METRICS": "prometheus"}, {"METRICS": "otlp"}, {"TRACES": "otlp"}):
            endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{sink.port}"}
            with _app("ours:in_memory", asked={**asked, **endpoint}) as observed:
                found = ratios(base, partial(Client(observed, MESSAGE).cpu_per_request, requests), effort.warm)
            [name] = [f"{name}={way}" for name, way in asked.items()]
            yield at_most(f"echo under uvicorn, CPU: {name}", "the same without", found)


def streams(effort: Effort) -> Iterator[Row]:
    """CPU per token of a stream; all streams have equally many tokens."""
    requests = int(80 * effort.scale)
    for name, floor, case in [
        ("SSE, per token: agent never waits", "floors:chunks", "ours:streaming"),
        ("SSE, per token: agent waits after each", "floors:waiting_chunks", "ours:streaming_waiting"),
    ]:
        with _app(floor) as raw, _app(case) as ours:
            base, turn = (
                partial(Client(each, MESSAGE, "text/event-stream", connections=4).cpu_per_request, requests)
                for each in (raw, ours)
            )
            found = ratios(base, turn, effort.warm)
            yield at_most(name, "raw ASGI chunks, same waits", found, 2.5)


def turn_over_dynamodb(effort: Effort) -> Iterator[Row]:
    """A whole HTTP turn with its three calls, answered by another process."""
    with ExitStack() as stack:
        table = stack.enter_context(serve("dynamodb", "canned", variables=environment()))
        floor = stack.enter_context(_app("floors:fastapi_echo"))
        echo = partial(Client(floor, MESSAGE).cpu_per_request, int(1600 * effort.scale))
        for name, target, requests, limit in [
            ("ours", "ours:build", 640, 10),
            ("usual stack", "usual:build", 128, None),
        ]:
            server = stack.enter_context(_app(target, table.port))
            case = partial(Client(server, MESSAGE).cpu_per_request, int(requests * effort.scale))
            yield at_most(
                f"HTTP turn over DynamoDB: {name}", "bare FastAPI echo", ratios(echo, case, effort.warm), limit
            )


def calls_and_bytes(effort: Effort) -> Iterator[Row]:
    """Turns 1, 100 and 1,000 of one session, counted on the wire."""
    with ExitStack() as stack:
        server, mode = "a table in memory", "table"
        if binary := os.environ.get("DYNOXIDE"):
            server, mode = "dynoxide", stack.enter_context(_dynoxide(binary))
        table = stack.enter_context(serve("dynamodb", mode, variables=environment()))
        client = Client(stack.enter_context(_app("ours:build", table.port)), SESSION, connections=1)
        asked = 0
        calls, written = [], []
        for turn in effort.turns:
            client.cpu_per_request(turn - asked - 1)
            before = counts(table.port)
            client.cpu_per_request(1)
            after = counts(table.port)
            asked = turn
            calls.append(after["calls"] - before["calls"])
            written.append(after["written"] - before["written"])
    floor = f"turns {effort.turns} of a session on {server}"
    yield exactly("DynamoDB calls of a turn", floor, calls, "= 3", met=set(calls) == {3})
    plain = {
        size - NUMBERS * len(str(turn)) - (LISTED if turn == 1 else 0)
        for turn, size in zip(effort.turns, written, strict=True)
    }
    target = f"equal, the turn's digits apart, and {LISTED} that list the session"
    yield exactly("bytes written by a turn", floor, written, target, met=len(plain) == 1)


@contextmanager
def _dynoxide(binary: str) -> Iterator[str]:
    """Run a real DynamoDB-compatible server with the table, and give its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with subprocess.Popen([binary, "serve", "--port", str(port)], stdout=DEVNULL, stderr=DEVNULL) as child:  # noqa: S603
        try:
            measure.wait_until(lambda: _listens(port))
            forward(port)("CreateTable", json.dumps(SCHEMA).encode())
            yield str(port)
        finally:
            child.terminate()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def memory(effort: Effort) -> Iterator[Row]:
    """Resident memory of the server over many turns of as many sessions, all over DynamoDB."""
    with serve("dynamodb", "canned", variables=environment()) as table, _app("ours:build", table.port) as server:
        client = Client(server, MESSAGE)
        client.cpu_per_request(2000)
        before_kib = server.resident_kib()
        client.cpu_per_request(effort.growth)
        grown_mib = (server.resident_kib() - before_kib) / 1024
    yield Row(
        f"memory grown over {effort.growth:,} turns, MB", "after 2,000 turns", f"{grown_mib:.2f}", "< 1", grown_mib
    )
