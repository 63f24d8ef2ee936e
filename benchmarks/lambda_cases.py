"""The measurements of Lambda: cold starts, warm invocations and a stream, under the tests' fake service."""

import asyncio
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeAlias

from benchmarks.agents import version_of, with_peers
from benchmarks.cases import HELLO as BARE
from benchmarks.cases import MESSAGE, Effort
from benchmarks.invoke import CHAT, event
from benchmarks.measure import Row, at_most, environment, serve
from benchmarks.runtimes import Runtime, Start, free_port, function, start_function, start_server

Variables: TypeAlias = dict[str, str]

MANGUM, STREAMING = "awslambdaric and Mangum", "the streaming runtime"
ADAPTER = {mode: f"Web Adapter ({mode}) and uvicorn" for mode in ("buffered", "response_stream")}
COMMANDS = {
    MANGUM: [sys.executable, "-m", "awslambdaric", "handler.handler"],
    STREAMING: [sys.executable, "-m", "app.lambda_runtime"],
}
HELLO = f"{BARE}, awslambdaric"
HELLO_COMMAND = [sys.executable, "-m", "awslambdaric", "benchmarks/hello.handler"]
ASKED = event("POST", "/chat", CHAT)
WORD = b"event: delta"
TOKENS, PAUSE_MS = 20, 50
COLD = {MANGUM: 1.6, STREAMING: 1.8}  # targets, where there is one
WARM = {STREAMING: 1.5}
FIRST = {STREAMING: 0.25}  # the model's own first token takes a twelfth


@dataclass(frozen=True)
class Kind:
    """A way to run the service on Lambda."""

    name: str
    command: Sequence[str]
    variables: Variables


@contextmanager
def environments() -> Iterator[dict[str, Variables]]:
    """Give the environments of the service by its agent, echo or claude, both on canned servers."""
    with (
        serve("dynamodb", "canned", variables=environment()) as table,
        serve("model", variables=environment()) as model,
    ):
        echo = environment(table.port)
        claude = echo | {"AGENT": "claude", "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{model.port}"}
        yield {"echo": echo, "claude": claude}


def _kinds(variables: Variables) -> Iterator[Kind]:
    """Yield every way that there is on this machine."""
    for name, command in COMMANDS.items():
        yield Kind(name, command, variables)
    if binary := os.environ.get("WEB_ADAPTER"):
        command = ["sh", "-c", f"{shlex.quote(binary)} & exec {shlex.quote(sys.executable)} -m app"]
        for mode, name in ADAPTER.items():
            port = str(free_port())
            adapter = {"AWS_LWA_PORT": port, "AWS_LWA_READINESS_CHECK_PATH": "/readyz", "AWS_LWA_INVOKE_MODE": mode}
            yield Kind(name, command, {**variables, **adapter, "PORT": port})


def lambda_cold_start(effort: Effort) -> Iterator[Row]:
    """Process start to first answer, beside a hello on the same runtime client and that of bedrock-agentcore."""
    hello = event("GET", "/")
    with environments() as agents:
        echo = agents["echo"]
        for agent, variables in agents.items():
            if agent != "echo" and not effort.ungated:
                continue
            for kind in _kinds(variables):
                pairs = [
                    (
                        asyncio.run(start_function(HELLO_COMMAND, echo, hello)),
                        asyncio.run(start_function(kind.command, kind.variables, ASKED)),
                    )
                    for _ in range(1 + effort.cold)
                ]
                limit = COLD.get(kind.name) if agent == "echo" else None
                yield from starts(f"cold start, {agent}: {kind.name}", HELLO, pairs[1:], limit)  # the first may compile
        if effort.ungated:
            yield from _server_start(echo, effort)


def _server_start(variables: Variables, effort: Effort) -> Iterator[Row]:
    """Yield the same of servers: the container's, and the hello of bedrock-agentcore."""
    found = version_of(("bedrock-agentcore",))
    if found is None:
        yield Row("cold start of a server", "bedrock-agentcore hello", "not installed")
        return
    peers = variables | {"PYTHONPATH": with_peers()["PYTHONPATH"]}
    pairs = [
        (
            start_server("benchmarks.agentcore", "/invocations", MESSAGE, peers),
            start_server("app", "/chat", MESSAGE, variables),
        )
        for _ in range(1 + effort.cold)
    ]
    yield from starts("cold start of a server: python -m app, echo", f"bedrock-agentcore {found} hello", pairs[1:])


def starts(name: str, floor: str, pairs: Sequence[tuple[Start, Start]], limit: float | None = None) -> Iterator[Row]:
    """Yield the CPU and the seconds of starts, each behind its floor's."""
    cpu = [case.cpu_s / floor.cpu_s for floor, case in pairs]
    yield at_most(f"{name}, CPU", floor, cpu, limit)
    yield seconds(name, floor, [(floor.wall_s, case.wall_s) for floor, case in pairs])


def seconds(name: str, floor: str, pairs: Sequence[tuple[float, float]]) -> Row:
    """Return the row of times by the clock, each behind its floor's; the names tell the medians."""
    base, case = (median(side) for side in zip(*pairs, strict=True))
    return at_most(f"{name}, {case:.2f} s", f"{floor}, {base:.2f} s", [case / base for base, case in pairs])


def lambda_invocation(effort: Effort) -> Iterator[Row]:
    """CPU of a warm invocation, beside Mangum's on AWS's runtime client."""
    invocations = int(200 * effort.scale)
    with environments() as agents:
        floor, *cases = _kinds(agents["echo"])
        found = asyncio.run(_invocations([floor, *cases], invocations, effort.warm))
    for kind in cases:
        ratios = [case / base for base, case in zip(found[floor.name], found[kind.name], strict=True)]
        yield at_most(f"warm invocation: {kind.name}", floor.name, ratios, WARM.get(kind.name))


async def _invocations(kinds: Sequence[Kind], invocations: int, rounds: int) -> dict[str, list[float]]:
    """Return the CPU of an invocation by kind, of each round; in a round every kind has its turn."""
    found: dict[str, list[float]] = {kind.name: [] for kind in kinds}
    async with AsyncExitStack() as stack:
        runtimes: list[tuple[str, Runtime]] = []
        for kind in kinds:
            runtimes.append((kind.name, await stack.enter_async_context(function(kind.command, kind.variables))))
            await runtimes[-1][1].ask(ASKED)
        for _ in range(1 + rounds):
            for name, runtime in runtimes:
                found[name].append(await runtime.cpu_per_invocation(ASKED, invocations))
    return {name: cpu[1:] for name, cpu in found.items()}  # one round goes unmeasured


def lambda_stream(effort: Effort) -> Iterator[Row]:
    """When the first byte and the first token of a stream come, as shares of the time that all of it takes."""
    asked: dict[str, Any] = event("POST", "/chat", f'{{"message": "calls=0 tokens={TOKENS} pause_ms={PAUSE_MS}"}}')
    asked["headers"]["accept"] = "text/event-stream"
    with environments() as agents:
        for kind in _kinds(agents["claude"]):
            if not effort.ungated and kind.name not in FIRST:
                continue
            shares = asyncio.run(_shares(kind, asked, effort.cold))
            floor = f"the stream's {TOKENS} tokens, {PAUSE_MS} ms apart"
            yield at_most(f"first byte after: {kind.name}", floor, [first for first, _ in shares], FIRST.get(kind.name))
            yield at_most(f"first token after: {kind.name}", floor, [word for _, word in shares], FIRST.get(kind.name))


async def _shares(kind: Kind, asked: object, rounds: int) -> list[tuple[float, float]]:
    async with function(kind.command, kind.variables) as runtime:
        answers = [await runtime.ask(asked) for _ in range(1 + rounds)]
    return [(each.share(b""), each.share(WORD)) for each in answers[1:]]
