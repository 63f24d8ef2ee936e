"""Agents of the service under trial, for `AGENT=tests.chaos.agents:name`."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from random import Random
from typing import Any

from app.agents import OpenTurn
from app.events import JSON, AgentEvent, State, ToolCall, ToolResult

RUNS = "runs.jsonl"  # in the working directory, which the replicas of a trial share
WORDS = 10
GATE = "gate"  # there, too


def _note(turn: OpenTurn, what: str) -> None:
    _append({"what": what, "session": turn.session_id, "message": turn.message, "at": time.time()})


def _append(line: dict[str, object]) -> None:
    """Append a line; a short one is written whole, whoever else writes."""
    with Path(RUNS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


async def witness(turn: OpenTurn) -> AsyncIterator[AgentEvent]:
    """Say which messages came before, word by word, in the seconds that the message asks for: `text|seconds`.

    The first character comes at once, so that a run that began has something to store at its deadline.
    """
    _note(turn, "began")
    seconds = float(turn.message.partition("|")[2] or 0)
    whole = json.dumps([done.message for done in turn.history])
    yield whole[0]
    words = whole[1:].split(" ")
    for number, word in enumerate(words):
        await asyncio.sleep(seconds / len(words))
        yield (" " if number else "") + word
    _note(turn, "ended")


async def steady(turn: OpenTurn) -> AsyncIterator[AgentEvent]:
    """Say some words, the first at once, spread over the seconds that the message asks for: `text|seconds`."""
    _note(turn, "began")
    seconds = float(turn.message.partition("|")[2] or 0)
    for _ in range(WORDS):
        yield "word "
        await asyncio.sleep(seconds / WORDS)
    _note(turn, "ended")


async def gated(turn: OpenTurn) -> AsyncIterator[AgentEvent]:
    """Answer once the gate is there."""
    _note(turn, "began")
    while not Path(GATE).exists():
        await asyncio.sleep(0.1)
    yield "done"


async def endless(turn: OpenTurn) -> AsyncIterator[AgentEvent]:
    """Say a word ten times a second until ended, or as `text|seconds`; to what begins with `silent`, no word."""
    _note(turn, "began")
    ends_at = time.monotonic() + float(turn.message.partition("|")[2] or "inf")
    try:
        while time.monotonic() < ends_at:
            if not turn.message.startswith("silent"):
                yield "word "
            await asyncio.sleep(0.1)
    finally:
        _note(turn, "ended")


def block() -> str:
    """Wait without giving way, as a client does that is not async."""
    time.sleep(2)
    return "done"


async def frail(turn: OpenTurn) -> AsyncIterator[AgentEvent]:
    """Do as the witness, but fail at the first try of a message that begins with `fails`."""
    if turn.message.startswith("fails") and not any(each["message"] == turn.message for each in runs(Path())):
        _note(turn, "began")
        raise RuntimeError
    async with aclosing(witness(turn)) as words:  # type: ignore[type-var]  # an async generator
        async for word in words:
            yield word


async def forever(session: str) -> str:
    """Never return."""
    _append({"what": "tool", "session": session})
    await asyncio.Event().wait()
    return "never"


def lookup(session: str) -> str:
    """Look something up."""
    return f"found in {session}"


tools: list[Callable[..., Any]] = [block, forever, lookup]


async def leaky(turn: OpenTurn) -> AsyncIterator[AgentEvent]:
    """Count this process's tasks, fail, or speak slowly, as the message asks for; else give it back."""
    match turn.message:
        case "count":
            yield str(len(asyncio.all_tasks()))
        case "fail":
            yield "so far"
            raise LookupError
        case "slow":
            for _ in range(5):
                yield "word "
                await asyncio.sleep(0.02)
        case _:
            yield turn.message


FLOATS: dict[str, JSON] = {"tenth": 0.1, "most": 1.7e308, "least": 5e-324, "negative": -0.0, "whole": 1e16}


async def sized(turn: OpenTurn) -> AsyncIterator[AgentEvent]:
    """Do what the message asks for in the size that it names: `kind size`; else say which messages came before."""
    kind, _, size = turn.message.partition(" ")
    match kind:
        case "answer":
            yield noise(int(size))
        case "plain":
            yield "x" * int(size)
        case "state":
            yield State(noise(int(size)).encode())
        case "tool" | "floats" | "nan":
            yield ToolCall("1", kind, FLOATS | {"at": float("nan") if kind == "nan" else 0.5})
            yield ToolResult("1", noise(int(size)))
        case "recall":
            last = turn.history[-1]
            yield json.dumps([last.message, len(last.answer), list(map(repr, last.tools))[:1], len(last.state)])
        case "word" | "hello":
            yield json.dumps([done.message for done in turn.history])


def noise(chars: int) -> str:
    """Return text that is always the same and hardly compresses."""
    return base64.b64encode(Random(1).randbytes(chars)).decode()[:chars]  # noqa: S311 nothing here is secret


def runs(folder: Path) -> list[dict[str, str]]:
    """Return what the agents of a trial noted, in order."""
    path = folder / RUNS
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
