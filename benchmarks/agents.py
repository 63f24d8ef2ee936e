"""The measurements of agents: the built-in one beside the echo, the official SDK and the frameworks."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import TypeAlias

from benchmarks import measure, peers
from benchmarks.cases import VALGRIND, Effort, instructions
from benchmarks.measure import ROOT, Row, Sample, at_most, environment, ratios, serve

Ask: TypeAlias = Callable[..., float]

ECHO = "the same with echo"
OURS = "the built-in agent"
LOOPS = ("uvloop", "asyncio")  # of the server, and of the handler
PAUSE_MS = 1  # long enough that every token is read on its own
STEPS = 4
MORE = 4  # turns of ours for each of a framework's, whose are so much longer
AHEAD = 1.0  # a framework costs more than ours: far enough from it that no noise needs to be allowed for


def agent_cold_start(effort: Effort) -> Iterator[Row]:
    """The same service with `AGENT=claude` and with `AGENT=echo`: to its first answer, and imported only."""
    with (
        serve("dynamodb", "canned", variables=environment()) as table,
        serve("model", variables=environment()) as model,
    ):
        echo = environment(table.port) | {"AWS_LAMBDA_FUNCTION_NAME": "benchmark"}
        claude = echo | {"AGENT": "claude", "ANTHROPIC_BASE_URL": _url(model)}
        kinds: list[tuple[str, str, float | None]] = [
            ("first turn and its model call", "from benchmarks.invoke import once; once('handler')", 1.1)
        ]
        if effort.ungated:
            kinds += [("import only", "import os, handler; os._exit(0)", None)]
        for what, code, limit in kinds:
            measure.run(code, echo), measure.run(code, claude)  # compiles what is not compiled yet
            pairs = [(measure.run(code, echo)[0], measure.run(code, claude)[0]) for _ in range(effort.cold)]
            cpu = [case.cpu_s / floor.cpu_s for floor, case in pairs]
            peak = [case.peak_kib / floor.peak_kib for floor, case in pairs]
            yield at_most(f"cold start with claude, CPU: {what}", ECHO, cpu, limit)
            yield at_most(f"cold start with claude, peak memory: {what}", ECHO, peak)
        if effort.ungated and shutil.which(VALGRIND[0]):
            count = instructions("handler", claude) / instructions("handler", echo)
            yield at_most("cold start with claude, instructions: first turn and its model call", ECHO, [count])


def model_calls(effort: Effort) -> Iterator[Row]:
    """CPU of a model call and of a streamed token, our client beside the official SDK's."""
    version = version_of(("anthropic",))
    if version is None:
        yield Row("model call, CPU", "official SDK", "not installed")
        return
    kinds: list[tuple[str, str, float | None]] = [("sdk", "message put together", 0.5)]
    if effort.ungated:
        kinds += [("sdk_events", "events only", None)]
    for peer, what, limit in kinds:
        floor = f"official SDK {version}, {what}"
        for loop in LOOPS:
            with (
                serve("model", variables=environment()) as model,
                _worker(peer, model, loop) as theirs,
                _worker("client", model, loop) as ours,
            ):
                for case, found in _calls(theirs, ours, effort):
                    yield at_most(f"{case}, CPU, {loop}", floor, found, limit)


def _calls(theirs: Ask, ours: Ask, effort: Effort) -> Iterator[tuple[str, list[float]]]:
    calls = int(100 * effort.scale)
    yield "model call", ratios(partial(theirs, _said(1), calls), partial(ours, _said(1), calls), effort.warm)
    for how, tokens, pause_ms, rounds in [
        ("all at once", 2000, 0, effort.warm),
        ("one by one", 200, PAUSE_MS, effort.warm // 2),
    ]:
        floor, case = (_per_token(ask, int(tokens * effort.scale), pause_ms) for ask in (theirs, ours))
        yield f"streamed token, {how}", ratios(floor, case, rounds)


def frameworks(effort: Effort) -> Iterator[Row]:
    """What each framework needs beside the built-in agent for a turn, a tool step and its import, all on one model."""
    with serve("model", variables=environment()) as model, _worker("claude", model) as ours:
        for name, (make, packages) in peers.FRAMEWORKS.items():
            version, factory = version_of(packages), make.__name__
            if version is None:
                yield Row(f"turn, CPU: {name}", OURS, "not installed")
                continue
            with _worker(factory, model) as theirs:
                yield from _turn_and_step(f"{name} {version}", ours, theirs, effort)
            if effort.ungated:
                yield from _starts(f"{name} {version}", factory, model, effort)


def _turn_and_step(name: str, ours: Ask, theirs: Ask, effort: Effort) -> Iterator[Row]:
    turns = int(12 * effort.scale)
    found = ratios(partial(ours, _said(20), turns * MORE), partial(theirs, _said(20), turns), effort.cold)
    yield _ahead(f"turn, CPU: {name}", found)
    found = ratios(_per_step(ours, turns * MORE), _per_step(theirs, turns), effort.cold)
    yield _ahead(f"tool step, CPU: {name}", found)


def _starts(name: str, factory: str, model: measure.Server, effort: Effort) -> Iterator[Row]:
    """Yield what fresh processes need: CPU until the agent is made, memory until the end of its first turn."""
    starts = [(_start("claude", model), _start(factory, model)) for _ in range(max(effort.cold // 3, 1))]
    cpu, peak = ([(floor[index], case[index]) for floor, case in starts] for index in (0, 1))
    for what, pairs, unit in [("import", cpu, "{:.2f} s"), ("peak memory", peak, "{:.0f} MB")]:
        floor, case = (unit.format(median(side)) for side in zip(*pairs, strict=True))
        yield at_most(f"{what}: {name}, {case}", f"{OURS}, {floor}", [theirs / ours for ours, theirs in pairs])


def _start(factory: str, model: measure.Server) -> tuple[float, float]:
    code = f"from benchmarks.worker import first; first({factory!r}, {_url(model)!r})"
    usage, printed, _ = measure.run(code, with_peers())
    return float(printed), usage.peak_kib / 1024


def _ahead(case: str, found: list[float]) -> Row:
    row = at_most(case, OURS, found)
    return Row(case, OURS, row.figure, f"> {AHEAD:g}", AHEAD / median(found), allowed=1.0)


def _said(tokens: int, calls: int = 0, pause_ms: int = 0) -> str:
    return f"calls={calls} tokens={tokens} pause_ms={pause_ms}"


def _per_token(ask: Ask, tokens: int, pause_ms: int) -> Sample:
    """Return what samples the CPU that each token beyond the first costs."""
    return lambda: (ask(_said(1 + tokens, pause_ms=pause_ms), 2, at_once=2) - ask(_said(1), 4, at_once=2)) / tokens


def _per_step(ask: Ask, turns: int) -> Sample:
    """Return what samples the CPU of a step: a model call that asks for a tool, and the tool's run."""
    return lambda: (ask(_said(20, calls=STEPS), turns) - ask(_said(20), turns)) / STEPS


def _url(model: measure.Server) -> str:
    return f"http://127.0.0.1:{model.port}"


def with_peers() -> dict[str, str]:
    """Return the environment of workers, which also find what is in the folder PEERS, of `pip install --target`."""
    path = [str(ROOT), *filter(None, [os.environ.get("PEERS")])]
    return environment() | {"PYTHONPATH": os.pathsep.join(path), "PYDANTIC_AI_NO_BANNER": "1"}


def version_of(packages: tuple[str, ...]) -> str | None:
    """Return the version of the first of the packages, as workers see it; None where one is not installed."""
    code = f"from benchmarks.peers import version; print(version({packages!r}) or '')"
    return measure.run(code, with_peers())[1].strip() or None


@contextmanager
def _worker(factory: str, model: measure.Server, loop: str = LOOPS[0]) -> Iterator[Ask]:
    """Run an agent or a client in a process of its own; yield what asks it for the CPU of one of its turns."""
    code = f"from benchmarks.worker import work; work({factory!r}, {_url(model)!r}, {loop!r})"
    with subprocess.Popen(  # noqa: S603 our own code
        [sys.executable, "-c", code],
        env=with_peers(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        told, printed = child.stdin, child.stdout

        def ask(message: str, turns: int, at_once: int = 1) -> float:
            print(json.dumps([message, turns, at_once]), file=told, flush=True)
            return float(printed.readline()) if printed else 0.0

        yield ask
