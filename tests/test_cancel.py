"""`POST /sessions/{id}/cancel`: stops the running turn, in whatever process, and answers when it has settled."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from app.agents import OpenTurn
from app.auth import ANONYMOUS
from app.config import Settings
from app.events import AgentEvent, ToolCall
from app.running import WATCH_S
from app.sessions import SessionKey
from app.sessions.claims import CANCEL_S
from tests import agents
from tests.fake_model import until
from tests.in_process import App, Outage, warm
from tests.memory_store import MemoryStore
from tests.model_script import Fault, broken
from tests.with_model import goes_on, talking

pytestmark = pytest.mark.anyio

LIMIT_S = 20.0


class Talking:
    """Say a word, if asked to, and go on until the turn is ended; `ended` tells that it was."""

    def __init__(self, *said: AgentEvent) -> None:
        self.said = said
        self.begun, self.ended = asyncio.Event(), asyncio.Event()

    async def __call__(self, _: OpenTurn) -> AsyncIterator[AgentEvent]:
        try:
            for each in self.said:
                yield each
            self.begun.set()
            await asyncio.Event().wait()
        finally:
            self.ended.set()


@contextlib.asynccontextmanager
async def two_replicas(settings: Settings, agent: Talking) -> AsyncIterator[tuple[App, App]]:
    """Yield two apps that share nothing but their store; the first runs `agent`."""
    store = MemoryStore()
    async with warm(settings, store=store, agent=agent) as one, warm(settings, store=store) as other:
        yield one, other


async def cancel(app: App, session: str = "s") -> dict[str, object]:
    async with asyncio.timeout(LIMIT_S):
        answer = await app.request("POST", f"/sessions/{session}/cancel")
    assert answer.status == 200
    return dict(answer.json)


async def test_a_turn_is_stopped_from_another_replica_and_what_it_said_is_stored(settings: Settings) -> None:
    agent = Talking("half a word", ToolCall("1", "clock", {}))
    async with two_replicas(settings, agent) as (one, other):
        turn = asyncio.create_task(one.chat("hello"))
        await agent.begun.wait()
        assert await cancel(other) == {"session_id": "s", "turn": 1, "stop_reason": "cancelled"}
        answer = await turn
        assert (answer.status, answer.json["answer"], answer.json["stop_reason"]) == (200, "half a word", "cancelled")
        assert agent.ended.is_set()
        assert await other.messages() == ["hello"]
        assert (await other.chat("again")).json["turn"] == 2


async def test_of_a_turn_that_said_nothing_nothing_is_stored_and_its_client_is_told(settings: Settings) -> None:
    agent = Talking()
    async with two_replicas(settings, agent) as (one, other):
        turn = asyncio.create_task(one.chat("hello"))
        await agent.begun.wait()
        assert await cancel(other) == {"session_id": "s", "turn": None, "stop_reason": None}
        answer = await turn
        assert (answer.status, answer.slug) == (409, "cancelled")
        assert agent.ended.is_set()
        assert (await other.chat("again")).json["turn"] == 1


async def test_a_stream_ends_with_done_and_says_that_it_was_cancelled(settings: Settings) -> None:
    agent = Talking("half a word")
    async with two_replicas(settings, agent) as (one, other):
        stream = asyncio.create_task(one.chat("hello", accept="text/event-stream"))
        await agent.begun.wait()
        await cancel(other)
        name, done = (await stream).events[-1]
    assert (name, done["answer"], done["stop_reason"]) == ("done", "half a word", "cancelled")


async def test_the_holder_notices_within_two_seconds(settings: Settings) -> None:
    agent = Talking("half a word")
    async with two_replicas(settings, agent) as (one, other):
        turn = asyncio.create_task(one.chat("hello"))
        await agent.begun.wait()
        asked = asyncio.create_task(cancel(other))
        async with asyncio.timeout(WATCH_S + 0.5):
            await agent.ended.wait()
        await asyncio.gather(asked, turn)


async def test_a_turn_of_a_process_that_died_is_taken_from_it(settings: Settings) -> None:
    """Long before its lease ends: a session that hangs can be used again."""
    store, agent = MemoryStore(), Talking()
    async with warm(settings, store=store, agent=agent) as dead, warm(settings, store=store) as other:
        turn = asyncio.create_task(dead.chat("hello"))
        await agent.begun.wait()
        for timer in next(iter(dead.lifecycle._turns))._timers:  # noqa: SLF001 as a process that does not run any more
            timer.cancel()
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert await cancel(other) == {"session_id": "s", "turn": None, "stop_reason": None}
        assert CANCEL_S <= loop.time() - began < CANCEL_S + 2
        assert (await other.chat("again")).json["turn"] == 1
        turn.cancel()


async def test_a_holder_that_does_not_react_stores_nothing_any_more(settings: Settings) -> None:
    """Who cancelled was told so."""
    store, agent = MemoryStore(), agents.Gated()
    async with warm(settings, store=store, agent=agent) as slow, warm(settings, store=store) as other:
        turn = asyncio.create_task(slow.chat("hello"))
        await agent.begun.wait()
        for timer in next(iter(slow.lifecycle._turns))._timers:  # noqa: SLF001 as a process that is held up
            timer.cancel()
        assert await cancel(other) == {"session_id": "s", "turn": None, "stop_reason": None}
        agent.gate.set()
        answer = await turn
        assert (answer.status, answer.slug) == (409, "lease-lost")
        assert await other.messages() == []


async def test_a_turn_that_another_run_took_over_is_stopped(settings: Settings) -> None:
    store, agent, key = MemoryStore(), Talking("half a word"), SessionKey(ANONYMOUS, "s")
    async with warm(settings, store=store, agent=agent) as app:
        turn = asyncio.create_task(app.chat("hello"))
        await agent.begun.wait()
        [held] = await store.newest(key, 1)
        assert await store.claim(key, replace(held, run="another"), held.run)
        async with asyncio.timeout(LIMIT_S):
            answer = await turn
        assert (answer.status, answer.slug) == (409, "lease-lost")
        assert agent.ended.is_set()
        assert [item.run for item in await store.newest(key, 1)] == ["another"]


@pytest.mark.parametrize("path", ["/sessions/s/cancel", "/sessions/s/cancel/"], ids=["the path", "with a slash"])
async def test_an_absent_session_is_not_found(settings: Settings, path: str) -> None:
    async with warm(settings) as app:
        answer = await app.request("POST", path)
    assert (answer.status, answer.slug) == (404, "not-found")


async def test_where_nothing_runs_nothing_is_stopped(settings: Settings) -> None:
    async with warm(settings) as app:
        await app.chat("hello")
        assert await cancel(app) == {"session_id": "s", "turn": None, "stop_reason": None}
        assert await app.messages() == ["hello"]


async def test_a_bad_session_id_is_refused(settings: Settings) -> None:
    async with warm(settings) as app:
        answer = await app.request("POST", "/sessions/a b/cancel")
    assert (answer.status, answer.slug) == (422, "validation-failed")


async def test_a_store_that_is_down_is_said_so(settings: Settings) -> None:
    async with warm(settings, store=Outage("newest")) as app:
        answer = await app.request("POST", "/sessions/s/cancel")
    assert (answer.status, answer.slug) == (503, "store-unavailable")


async def test_a_deleted_sessions_turn_is_stopped(settings: Settings) -> None:
    """Nothing that it says would be kept, and a model is paid for."""
    agent = Talking("half a word")
    async with two_replicas(settings, agent) as (one, other):
        turn = asyncio.create_task(one.chat("hello"))
        await agent.begun.wait()
        assert (await other.request("DELETE", "/sessions/s")).status == 204
        async with asyncio.timeout(LIMIT_S):
            answer = await turn
        assert (answer.status, answer.slug) == (409, "cancelled")
        assert agent.ended.is_set()
        assert await other.messages() == []


async def test_a_store_that_does_not_answer_the_look_ends_no_turn(settings: Settings) -> None:
    store, agent = Outage(), Talking("half a word")
    async with warm(settings, store=store, agent=agent) as app:
        turn = asyncio.create_task(app.chat("hello"))
        await agent.begun.wait()
        store.down.add("newest")
        async with asyncio.timeout(LIMIT_S):
            while store.asked.count("newest") < 3:  # one for the claim, two looks
                await asyncio.sleep(0.05)
        assert not agent.ended.is_set()
        store.down.clear()
        await cancel(app)
        assert (await turn).json["stop_reason"] == "cancelled"


async def test_the_models_call_is_stopped_and_the_session_goes_on() -> None:
    store = MemoryStore()
    async with (
        talking(broken("content_block_delta", Fault.STALL), store=store) as talk,
        warm(Settings(_env_file=None), store=store) as other,
    ):
        turn = asyncio.create_task(talk.ask())
        async with asyncio.timeout(LIMIT_S):
            await until(lambda: bool(talk.model.requests) and bool(talk.model.requests[0].sent))
        assert (await cancel(other))["stop_reason"] == "cancelled"
        assert (await turn).json["answer"] == "half"
        async with asyncio.timeout(LIMIT_S):
            await until(lambda: talk.model.requests[0].hung_up)
        await goes_on(talk)
