"""Agents that behave badly in one way each, for `AGENT=tests.agents:name`."""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any

from app.agents import OpenTurn
from app.events import AgentEvent, State, Stop, ToolCall, ToolResult, Usage


async def slow(turn: OpenTurn) -> AsyncIterator[AgentEvent]:
    """Say one word, then wait the seconds that the message asks for, then say another."""
    yield "begun"
    await asyncio.sleep(float(turn.message))
    yield " ended"


async def silent(turn: OpenTurn) -> AsyncIterator[AgentEvent]:
    """Say nothing until the deadline is over."""
    await asyncio.sleep(turn.deadline)
    yield "too late"


async def stalled_tool(turn: OpenTurn) -> AsyncIterator[AgentEvent]:
    """Speak, ask for two tools, answer one, and never come back from the other."""
    yield "let me look"
    yield ToolCall("1", "clock", {})
    yield ToolResult("1", "noon")
    yield ToolCall("2", "weather", {"city": "Bonn"})
    await asyncio.sleep(turn.deadline)


async def raising(turn: OpenTurn) -> AsyncIterator[AgentEvent]:
    """Raise after the first word, with the user's words in the exception."""
    yield "so far so good"
    raise LookupError(turn.message)


async def counting(turn: OpenTurn) -> AsyncIterator[AgentEvent]:
    """Count the session's turns in the opaque state, and say what else it was handed."""
    count = int(turn.state or b"0") + 1
    yield State(str(count).encode())
    yield f"turn {count} after {[done.message for done in turn.history]}"
    yield Stop("max_steps", Usage(input_tokens=7, output_tokens=3, steps=turn.max_steps))


async def wordy(turn: OpenTurn) -> AsyncIterator[AgentEvent]:
    """Say as many words as the message asks for, without ever waiting."""
    for _ in range(int(turn.message)):
        yield "word "


async def foreign(turn: OpenTurn) -> AsyncIterator[AgentEvent]:
    """Yield something that is no event."""
    yield len(turn.message)  # type: ignore[misc]  # the point of it


def no_generator(turn: OpenTurn) -> str:
    """Return an answer instead of yielding one."""
    return turn.message


async def impatient(turn: OpenTurn) -> AsyncIterator[AgentEvent]:
    """Raise a TimeoutError of its own, long before the deadline."""
    yield "let me ask"
    raise TimeoutError(turn.message)


async def unserialisable(turn: OpenTurn) -> AsyncIterator[AgentEvent]:
    """Call a tool with what is no JSON: what the message names."""
    nothing: Any = {"object": turn, "nan": float("nan"), "surrogate": "\ud800", "bytes": b"", "key": {(1, 2): 3}}
    yield ToolCall("1", "clock", {"at": nothing[turn.message]})


async def half_a_character(_: OpenTurn) -> AsyncIterator[AgentEvent]:
    """Say half of a surrogate pair."""
    yield "so\ud83d"


async def threaded(turn: OpenTurn) -> AsyncIterator[AgentEvent]:
    """Leave a thread behind that never ends, as a blocked call does, and answer."""
    threading.Thread(target=threading.Event().wait).start()
    yield turn.message


async def never(_: OpenTurn) -> AsyncIterator[AgentEvent]:
    """Fail the test that lets it run."""
    yield "this agent was run"
    raise AssertionError


class Gated:
    """Say a word once the gate is open."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.gate = asyncio.Event()

    async def __call__(self, _: OpenTurn) -> AsyncIterator[AgentEvent]:
        self.begun.set()
        await self.gate.wait()
        yield "done"


async def lengthy(_: OpenTurn) -> AsyncIterator[AgentEvent]:
    """Say what compresses well into an item, and what a few of fill a response of Lambda."""
    yield "x" * 900_000


async def exiting(_: OpenTurn) -> AsyncIterator[AgentEvent]:
    """Try to end the process."""
    yield "bye"
    sys.exit(3)


async def other_loop(_: OpenTurn) -> AsyncIterator[AgentEvent]:
    """Take the current event loop away from this thread, as `asyncio.run` does wherever it is called."""
    yield "hello"
    asyncio.get_running_loop().call_soon(asyncio.set_event_loop, None)


async def moody(turn: OpenTurn) -> AsyncIterator[AgentEvent]:
    """Raise or be silent if the message says so, else say a word."""
    if turn.message == "raise":
        raise LookupError
    if turn.message == "be silent":
        await asyncio.sleep(turn.deadline)
    yield "word"


class Gathering:
    """Answer once as many turns as the message says are here together."""

    def __init__(self) -> None:
        self._here = 0
        self._changed = asyncio.Event()

    async def __call__(self, turn: OpenTurn) -> AsyncIterator[AgentEvent]:
        self._here += 1
        if self._here == int(turn.message):
            self._changed.set()
        await self._changed.wait()
        yield f"{self._here} at once"


gathering = Gathering()
