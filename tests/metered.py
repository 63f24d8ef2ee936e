"""Turns of which the driver knows beforehand what they cost and come to, and what it counted of them itself."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from app.agents import OpenTurn
from app.errors import ModelOverloaded
from app.events import AgentEvent, Stop, ToolCall, ToolResult, Usage
from tests.in_process import App

ENDS = ("end_turn", "max_steps", "budget", "refusal", "agent-failed", "model-overloaded")
USD = 0.0625  # a sum of such is exact, in whatever order


async def metered(turn: OpenTurn) -> AsyncIterator[AgentEvent]:
    """Use what the message says, and come to the end that it names."""
    wanted = json.loads(turn.message)
    for step in range(1, wanted["steps"] + 1):
        yield "word "
        yield Usage(7 * step, 3 * step, 2 * step, step, USD * step)
        if step > 1:
            yield ToolCall(str(step), "clock", {})
            await asyncio.sleep(0)
            yield ToolResult(str(step), "noon")
    if wanted["end"] == "agent-failed":
        raise LookupError
    if wanted["end"] == "model-overloaded":
        raise ModelOverloaded
    yield Stop(wanted["end"])


def message(number: int) -> str:
    return json.dumps({"steps": number % 4, "end": ENDS[number % len(ENDS)]})


def streams(number: int) -> bool:
    return number % 5 < 2


async def take(app: App, number: int, counted: Counter[str], session: str | None = None, **headers: str) -> None:
    """Take one turn and count it by what the caller is told, and what it used by what was asked of it."""
    accept = "text/event-stream" if streams(number) else "application/json"
    answer = await app.chat(message(number), session or f"s-{number}", accept=accept, **headers)
    counted[f"turns {_outcome(answer)}"] += 1
    counted["streams"] += streams(number)
    replayed = answer.headers.get("idempotency-replayed") == "true"
    counted["replays"] += replayed
    counted["cold_starts"] += "x-cold-start" in answer.headers
    refused = _outcome(answer) in {"session-busy", "idempotency-key-reused"}
    if replayed or refused:
        return
    steps = number % 4
    counted["failures"] += _outcome(answer) in {"agent-failed", "model-overloaded"}
    for name, each in (("steps", 1), ("input_tokens", 7), ("cached_tokens", 2), ("output_tokens", 3)):
        counted[name] += each * steps
    counted["cost_usd in sixteenths"] += steps


def _outcome(answer: Any) -> str:
    if answer.headers["content-type"].startswith("text/event-stream"):
        name, data = answer.events[-1]
        return str(data["stop_reason"] if name == "done" else data["type"].rpartition(":")[2])
    return str(answer.json["stop_reason"] if answer.status == 200 else answer.slug)


async def load(app: App, turns: int) -> Counter[str]:
    """Take many turns at once, some of them twice, and return what the driver counted."""
    counted: Counter[str] = Counter()
    await take(app, 0, counted)  # by itself, so that it is known which one was the first
    for first in range(1, turns, 50):
        await asyncio.gather(*(take(app, number, counted) for number in range(first, min(first + 50, turns))))
    for number in (0, 1, 6, 7):  # ends that are stored
        for _ in range(3):
            await take(app, number, counted, f"again-{number}", idempotency_key="k")
    await take(app, 1, counted, "again-0", idempotency_key="k")  # another message
    return counted
