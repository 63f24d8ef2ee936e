"""Agents that break their contract: the turn fails as theirs, the session stays usable, the process lives."""

import asyncio
import dataclasses
import logging
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from typing import Any

import pytest

from app.agents import OpenTurn
from app.config import Settings
from app.events import AgentEvent, State, Stop, Text, ToolCall, ToolResult, Usage
from app.running import RunningTurn
from app.sessions import SessionKey
from app.sessions.codec import unpack
from tests.in_process import warm
from tests.memory_store import MemoryStore

pytestmark = pytest.mark.anyio


def nested(depth: int) -> list[Any]:
    document: list[Any] = []
    for _ in range(depth):
        document = [document]
    return document


WRONG: dict[str, Callable[[], list[Any]]] = {
    "unknown stop reason": lambda: [Stop("banana")],  # type: ignore[arg-type]
    "stop without a reason": lambda: [Stop(None)],  # type: ignore[arg-type]
    "usage that is none": lambda: [Stop("end_turn", {"prompt_tokens": 1})],  # type: ignore[arg-type]
    "usage that is no number": lambda: [Usage(usd=float("nan"))],
    "negative usage": lambda: [Usage(input_tokens=-1)],
    "usage above all numbers": lambda: [Usage(input_tokens=10**400)],
    "dollars above all numbers": lambda: [Usage(usd=10**400)],
    "state that is no bytes": lambda: [State("text")],  # type: ignore[arg-type]
    "call without a text as id": lambda: [ToolCall(1, "clock", {})],  # type: ignore[arg-type]
    "result that does not say whether it is ok": lambda: [ToolResult("1", 1, "yes")],  # type: ignore[arg-type]
    "result without a call": lambda: [ToolResult("1", "noon")],
    "two calls of one id": lambda: [ToolCall("1", "clock", {}), ToolCall("1", "clock", {})],
    "two results of one call": lambda: [ToolCall("1", "clock", {}), ToolResult("1", 1), ToolResult("1", 2)],
    "arguments nested too deeply to be read again": lambda: [ToolCall("1", "clock", nested(199))],
    "arguments nested too deeply to be written": lambda: [ToolCall("1", "clock", nested(5000))],
}


@pytest.mark.parametrize("name", WRONG)
async def test_an_event_that_no_turn_can_hold_fails_the_turn_and_not_the_session(settings: Settings, name: str) -> None:
    async def agent(turn: OpenTurn) -> AsyncIterator[AgentEvent]:
        yield "hello"
        for event in WRONG[name]() if turn.message == "wrong" else ():
            yield event

    async with warm(settings, agent=agent) as app:
        failed = await app.chat("wrong")
        assert (failed.status, failed.slug) == (502, "agent-failed")
        assert (await app.chat("right")).json["turn"] == 1
        assert await app.messages() == ["right"]


async def test_dollars_may_be_told_as_a_decimal_and_are_read_again(settings: Settings) -> None:
    """Prices are reckoned so; a turn that held one could not be read, and its session stayed damaged."""

    async def agent(_: OpenTurn) -> AsyncIterator[AgentEvent]:
        yield "hello"
        yield Usage(steps=1, usd=Decimal("0.125"))  # type: ignore[arg-type]

    async with warm(settings, agent=agent) as app:
        first = await app.chat("hello", idempotency_key="k")
        assert first.json["usage"]["usd"] == 0.125
        again = await app.chat("hello", idempotency_key="k")
        assert (again.status, again.body) == (200, first.body)
        assert await app.messages() == ["hello"]


@pytest.mark.parametrize("kind", [asyncio.CancelledError, SystemExit, KeyboardInterrupt, GeneratorExit, BaseException])
async def test_whatever_an_agent_raises_is_its_failure(settings: Settings, kind: type[BaseException]) -> None:
    async def agent(_: OpenTurn) -> AsyncIterator[AgentEvent]:
        yield "so far so good"
        raise kind

    async with warm(settings, agent=agent) as app:
        for _ in range(2):  # were the session still held, the second would be a 409
            failed = await app.chat("hello")
            assert (failed.status, failed.slug) == (502, "agent-failed")


async def test_an_agent_that_ends_in_the_middle_of_a_call_leaves_no_half_pair(settings: Settings) -> None:
    async def agent(_: OpenTurn) -> AsyncIterator[AgentEvent]:
        yield ToolCall("1", "clock", {})
        yield "bye"

    store = MemoryStore()
    async with warm(settings, agent=agent, store=store) as app:
        assert (await app.chat("hello")).json["answer"] == "bye"
        [item] = await store.newest(SessionKey("anonymous", "s"), 1)
    assert unpack(1, item.body or b"").tools == (ToolCall("1", "clock", {}), ToolResult("1", None, ok=False))


async def test_an_agent_that_does_not_obey_is_left_behind(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    released = asyncio.Event()

    async def stubborn(_: OpenTurn) -> AsyncIterator[AgentEvent]:
        yield "I stay"
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue
        yield " and stay"

    async with warm(settings.model_copy(update={"timeout_s": 1.0}), agent=stubborn) as app:
        cut = await app.chat("hello")
        assert (cut.json["answer"], cut.json["stop_reason"]) == ("I stay", "deadline")
        released.set()
        again = await app.chat("hello")
        assert (again.json["turn"], again.json["answer"]) == (2, "I stay and stay")
    assert [each.message for each in caplog.records if each.levelno == logging.ERROR] == [
        "an agent does not end and is left behind"
    ]


async def test_an_agent_that_is_left_behind_before_it_said_anything_goes_no_further(settings: Settings) -> None:
    """Its turn is settled, so nobody would count what it goes on to use."""
    released, ended, calls = asyncio.Event(), asyncio.Event(), 0

    async def stubborn(_: OpenTurn) -> AsyncIterator[AgentEvent]:
        nonlocal calls
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue
        try:
            for _call in range(3):
                calls += 1
                yield Usage(input_tokens=100 * calls, steps=calls)
        finally:
            ended.set()

    async with warm(settings.model_copy(update={"timeout_s": 1.0}), agent=stubborn) as app:
        assert (await app.chat("hello")).slug == "deadline-exceeded"
        released.set()
        async with asyncio.timeout(5):
            await ended.wait()
    assert calls == 1


@pytest.mark.parametrize("what", ["tools", "state"])
async def test_what_an_agent_does_is_bounded_like_what_it_says(settings: Settings, what: str) -> None:
    async def agent(_: OpenTurn) -> AsyncIterator[AgentEvent]:
        yield "hello"
        for number in range(2000):
            big = "x" * 1000
            if what == "state":
                yield State(big.encode() * 1001)
            yield ToolCall(str(number), "clock", big)

    async with warm(settings, agent=agent) as app:
        refused = await app.chat("hello")
        assert (refused.status, refused.slug) == (500, "response-too-large")
        assert await app.messages() == []


async def test_a_stored_turn_that_cannot_be_read_does_not_end_its_session(settings: Settings) -> None:
    class Damaging(MemoryStore):
        async def damage(self) -> None:
            key = SessionKey("anonymous", "s")
            [item] = await self.newest(key, 1)
            await self.commit(key, dataclasses.replace(item, body=b'{"message": 7'))

    store = Damaging()
    async with warm(settings, store=store) as app:
        await app.chat("first")
        await store.damage()
        assert (await app.chat("second")).json["turn"] == 2
        shown = await app.request("GET", "/sessions/s")
        assert (shown.status, shown.slug) == (500, "damaged-turn")
        assert (await app.request("DELETE", "/sessions/s")).status == 204


async def test_texts_that_nobody_reads_are_joined() -> None:
    async def speak(running: RunningTurn) -> None:
        for _ in range(10_000):
            running.emit(Text("word "))

    running = RunningTurn(speak, lambda _: None)
    await running.settled()
    events = [event async for batch in running.batches(heartbeat_s=1.0) for event in batch]
    assert "".join(event.text for event in events if isinstance(event, Text)) == "word " * 10_000
    assert len(events) < 100
