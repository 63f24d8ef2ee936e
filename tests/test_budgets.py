"""What a turn, a session, and a principal in a day may use: over HTTP, with any agent, and whatever ends a turn."""

import asyncio
import logging
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.trace import NoOpTracerProvider

from app.agents import Agent, OpenTurn
from app.auth import ANONYMOUS
from app.budgets import BUSY_RETRY_S, DAY_S, USAGE, Budgets, Limit, Reservation
from app.config import Settings
from app.events import AgentEvent, State, Stop, ToolCall, ToolResult, Usage
from app.sessions import NONE, Numbers, SessionKey
from app.sessions.claims import Claims
from app.sessions.codec import unpack
from app.sessions.sqlite import SQLiteStore
from app.telemetry import FACTS
from app.tracing import Traced
from tests import agents
from tests.conformance.stores.rig import Clock
from tests.entry_points import ENTRY_POINTS
from tests.in_process import App, Outage, warm
from tests.memory_store import MemoryStore
from tests.model_script import USAGE as MODEL_USAGE
from tests.model_script import always_another_call, says
from tests.test_auth_entry_points import API_KEYS, KEY, OTHER
from tests.test_silent_store import LIMIT_S, Silent
from tests.with_model import goes_on, talking

pytestmark = pytest.mark.anyio

SSE = "text/event-stream"
NOON = 20_000 * DAY_S + DAY_S / 2


def limited(settings: Settings, **limits: float) -> Settings:
    return settings.model_copy(update=limits)


class Noon(Clock):
    """Epoch seconds from a noon of UTC on."""

    def __init__(self) -> None:
        super().__init__()
        self._now = NOON


class Stepwise:
    """An agent whose model calls cost as many tokens, and which goes on until it is ended.

    calls: model calls that it made
    """

    def __init__(self, tokens: int = 40, usd: float = 0.0, most: int = 10) -> None:
        self.calls = 0
        self._step = Usage(tokens - 10, 10, 5, 1, usd)
        self._most = most

    async def __call__(self, turn: OpenTurn) -> AsyncIterator[AgentEvent]:
        for number in range(1, self._most + 1):
            self.calls += 1
            yield self.usage(number)
            async for event in self.step(turn, number):
                yield event

    async def step(self, turn: OpenTurn, number: int) -> AsyncIterator[AgentEvent]:
        yield turn.message[:number]

    def usage(self, steps: int) -> Usage:
        one = self._step
        return Usage(
            one.input_tokens * steps, one.output_tokens * steps, one.cached_tokens * steps, steps, one.usd * steps
        )


class WithTools(Stepwise):
    """Calls two tools in each step, whose results come one after the other."""

    async def step(self, turn: OpenTurn, number: int) -> AsyncIterator[AgentEvent]:
        yield turn.message
        for each in "ab":
            yield ToolCall(f"{number}{each}", "clock", {})
        for each in "ab":
            yield ToolResult(f"{number}{each}", "noon")


class Mute(WithTools):
    """Says nothing to its user."""

    async def step(self, turn: OpenTurn, number: int) -> AsyncIterator[AgentEvent]:
        if number > self._most:
            yield turn.message


class Careful(WithTools):
    """Ends by itself and leaves a state."""

    keeps_budget = True

    async def __call__(self, turn: OpenTurn) -> AsyncIterator[AgentEvent]:
        used = 0
        for number in range(1, self._most + 1):
            if turn.max_tokens is not None and used >= turn.max_tokens:
                break
            self.calls += 1
            used = self.usage(number).input_tokens + self.usage(number).output_tokens
            yield self.usage(number)
            async for event in self.step(turn, number):
                yield event
        yield State(b"state")
        yield Stop("budget")


class Clinging(WithTools):
    """Does not want to be ended."""

    async def __call__(self, turn: OpenTurn) -> AsyncIterator[AgentEvent]:
        try:
            async for event in super().__call__(turn):
                yield event
        finally:
            yield "I am not done"


@pytest.mark.parametrize(("limit", "calls"), [(1, 1), (40, 1), (41, 2), (80, 2), (81, 3)])
async def test_any_agent_ends_with_the_step_that_reaches_the_limit(settings: Settings, limit: int, calls: int) -> None:
    store, agent = MemoryStore(), WithTools()
    async with warm(limited(settings, max_tokens=limit), store=store, agent=agent) as app:
        answer = await app.chat("x")
        assert (await app.messages()) == ["x"]
    assert (answer.status, answer.json["stop_reason"], agent.calls) == (200, "budget", calls)
    assert answer.json["answer"] == "x" * calls
    assert answer.json["usage"]["steps"] == calls
    [item] = await store.newest(SessionKey(ANONYMOUS, "s"), 1)
    results = [each for each in unpack(1, item.body or b"").tools if isinstance(each, ToolResult)]
    assert [each.ok for each in results] == [True, True] * calls


@pytest.mark.parametrize(("usd", "calls"), [(0.001, 1), (0.0025, 1), (0.0026, 2)])
async def test_any_agent_ends_with_the_step_that_reaches_the_dollars(
    settings: Settings, usd: float, calls: int
) -> None:
    agent = WithTools(usd=0.0025)
    async with warm(limited(settings, max_cost_usd=usd), agent=agent) as app:
        assert (await app.chat("x")).json["stop_reason"] == "budget"
    assert agent.calls == calls


@pytest.mark.parametrize(("limit", "calls"), [(40, 2), (41, 3)])
async def test_an_agent_without_tools_makes_one_model_call_more_at_most(
    settings: Settings, limit: int, calls: int
) -> None:
    """That its step has ended shows when it tells the next one's usage."""
    agent = Stepwise()
    async with warm(limited(settings, max_tokens=limit), agent=agent) as app:
        answer = await app.chat("xyz")
    assert (answer.json["stop_reason"], agent.calls) == ("budget", calls)
    assert answer.json["answer"] == "xxy" if calls == 3 else "x"


@pytest.mark.parametrize("accept", ["application/json", SSE])
async def test_a_turn_that_reached_its_limit_is_stored_though_nothing_was_said(settings: Settings, accept: str) -> None:
    store = MemoryStore()
    async with warm(limited(settings, max_tokens=1), store=store, agent=Mute()) as app:
        answer = await app.chat("hello", accept=accept)
        assert await app.messages() == ["hello"]
    body = answer.events[-1][1] if accept == SSE else answer.json
    assert (answer.status, body["answer"], body["stop_reason"]) == (200, "", "budget")
    assert body["usage"]["input_tokens"] == 60


@pytest.mark.parametrize("traced", [False, True], ids=["", "traced"])
async def test_an_agent_that_ends_by_itself_keeps_its_state(settings: Settings, *, traced: bool) -> None:
    store, agent = MemoryStore(), Careful()
    used = Traced(agent, NoOpTracerProvider(), "mine", None) if traced else agent
    async with warm(limited(settings, max_tokens=41), store=store, agent=used) as app:
        answer = await app.chat("x")
    assert (answer.json["stop_reason"], agent.calls) == ("budget", 2)
    [item] = await store.newest(SessionKey(ANONYMOUS, "s"), 1)
    assert b"state" in (item.body or b"")


async def test_an_agent_that_does_not_want_to_end_is_ended(settings: Settings) -> None:
    async with warm(limited(settings, max_tokens=40), agent=Clinging()) as app, asyncio.timeout(LIMIT_S):
        answer = await app.chat("x")
    assert (answer.status, answer.json["answer"], answer.json["stop_reason"]) == (200, "x", "budget")


async def test_an_agent_that_counts_no_steps_is_ended_by_its_usage(settings: Settings) -> None:
    async def agent(_: OpenTurn) -> AsyncIterator[AgentEvent]:
        for number in range(1, 10):
            yield f"{number}"
            yield Usage(input_tokens=40 * number)

    async with warm(limited(settings, max_tokens=40), agent=agent) as app:
        answer = await app.chat("x")
    assert (answer.json["stop_reason"], answer.json["usage"]["input_tokens"]) == ("budget", 80)


async def test_usage_that_is_told_again_within_a_step_does_not_end_it(settings: Settings) -> None:
    async def agent(_: OpenTurn) -> AsyncIterator[AgentEvent]:
        yield Usage(input_tokens=40, steps=1)
        yield Usage(input_tokens=40, output_tokens=2, steps=1)
        yield "hello"

    async with warm(limited(settings, max_tokens=40), agent=agent) as app:
        answer = await app.chat("x")
    assert (answer.json["stop_reason"], answer.json["answer"]) == ("end_turn", "hello")


async def test_usage_that_falls_is_counted_at_its_highest(settings: Settings) -> None:
    """An agent tells the total so far. One that tells less than before has used no less."""

    async def agent(_: OpenTurn) -> AsyncIterator[AgentEvent]:
        yield Usage(500, 20, 5, 1, 0.25)
        yield Usage(10, 40, 0, 2, 0.0)
        yield Stop("end_turn", Usage(1, 1, 1, 1, 0.125))

    async with warm(limited(settings, max_tokens=900, daily_max_tokens=9000), agent=agent) as app:
        assert (await app.chat("x")).json["usage"] == {
            "input_tokens": 500,
            "output_tokens": 40,
            "cached_tokens": 5,
            "steps": 2,
            "usd": 0.25,
        }
        assert (await app.request("GET", "/usage")).json["input_tokens"] == 500


async def test_an_agent_that_is_ended_may_clean_up(settings: Settings) -> None:
    """It holds a connection, which it gives back with a wait."""
    steps: list[str] = []

    async def agent(_: OpenTurn) -> AsyncIterator[AgentEvent]:
        try:
            for number in range(1, 10):
                yield "x"
                yield Usage(input_tokens=40 * number, steps=number)
        finally:
            steps.append("begun")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            steps.append("done")

    async with warm(limited(settings, max_tokens=40), agent=agent) as app:
        assert (await app.chat("x")).json["stop_reason"] == "budget"
    assert steps == ["begun", "done"]


async def test_an_agent_that_cleans_up_for_ever_is_not_waited_for(settings: Settings) -> None:
    async def agent(_: OpenTurn) -> AsyncIterator[AgentEvent]:
        try:
            for number in range(1, 10):
                yield "x"
                yield Usage(input_tokens=40 * number, steps=number)
        finally:
            await asyncio.Event().wait()

    async with warm(limited(settings, max_tokens=40), agent=agent) as app:
        chat = asyncio.create_task(app.chat("x"))
        ended, _ = await asyncio.wait([chat], timeout=5)
    assert ended
    assert chat.result().json["stop_reason"] == "budget"


async def test_an_agent_is_told_what_it_may_use(settings: Settings) -> None:
    seen: list[OpenTurn] = []

    async def agent(turn: OpenTurn) -> AsyncIterator[AgentEvent]:
        seen.append(turn)
        yield Stop("end_turn", Usage(input_tokens=70, steps=1, usd=0.3))

    settings = limited(settings, max_tokens=50, max_cost_usd=0.5, session_max_tokens=110, daily_max_cost_usd=0.7)
    async with warm(settings, agent=agent) as app:
        await app.chat("hello")
        await app.chat("hello")
    assert [(each.max_tokens, each.max_usd) for each in seen] == [(50, 0.5), (40, 0.4)]


async def test_an_agent_without_limits_is_told_of_none(settings: Settings) -> None:
    seen: list[OpenTurn] = []

    async def agent(turn: OpenTurn) -> AsyncIterator[AgentEvent]:
        seen.append(turn)
        yield "hello"

    async with warm(settings, agent=agent) as app:
        await app.chat("hello")
    assert [(each.max_tokens, each.max_usd) for each in seen] == [(None, None)]


@pytest.mark.parametrize("accept", ["application/json", SSE])
async def test_a_session_that_used_its_budget_up_is_told_so_and_another_goes_on(
    settings: Settings, accept: str
) -> None:
    store, agent = MemoryStore(), WithTools()
    async with warm(limited(settings, max_tokens=30, session_max_tokens=100), store=store, agent=agent) as app:
        reasons = [(await app.chat("x")).json["stop_reason"] for _ in range(3)]
        refused = await app.chat("x", accept=accept)
        assert await app.messages() == ["x"] * 3
        assert (await app.chat("x", "other")).status == 200
        assert [item.turn for item in await store.newest(SessionKey(ANONYMOUS, "s"), 9)] == [3, 2, 1]
    assert reasons == ["budget"] * 3
    assert (refused.status, refused.slug, refused.json["retryable"]) == (429, "quota-exceeded", False)
    assert "retry-after" not in refused.headers


async def test_a_day_that_is_used_up_says_when_the_next_one_begins(settings: Settings) -> None:
    clock, agent = Noon(), WithTools()
    async with warm(limited(settings, max_tokens=30, daily_max_tokens=41), clock=clock, agent=agent) as app:
        assert [(await app.chat("x", f"s{n}")).status for n in range(3)] == [200, 200, 429]
        refused = await app.chat("x", "t", accept=SSE)
        assert (refused.status, refused.slug, refused.headers["retry-after"]) == (429, "quota-exceeded", "43200")
        assert refused.json["retryable"] is True
        clock.advance(DAY_S / 2 - 1)
        assert (await app.chat("x", "t")).headers["retry-after"] == "1"
        clock.advance(1)
        assert (await app.chat("x", "t")).status == 200


async def test_while_other_turns_hold_the_rest_of_a_day_it_is_tried_again_soon(settings: Settings) -> None:
    agent = agents.Gated()
    async with warm(limited(settings, max_tokens=30, daily_max_tokens=60), clock=Noon(), agent=agent) as app:
        first = asyncio.create_task(app.chat("hello"))
        await agent.begun.wait()
        refused = await app.chat("hello", "other")
        assert (refused.slug, refused.headers["retry-after"]) == ("quota-exceeded", str(BUSY_RETRY_S))
        running = (await app.request("GET", "/usage")).json["running"]
        assert running == {"tokens": 60, "cost_usd": 0.0}
        agent.gate.set()
        assert (await first).status == 200
        assert (await app.chat("hello", "other")).status == 200


async def test_a_replay_needs_no_budget(settings: Settings) -> None:
    limits = {"max_tokens": 30, "session_max_tokens": 40, "daily_max_tokens": 40}
    async with warm(limited(settings, **limits), agent=WithTools()) as app:
        first = await app.chat("x", idempotency_key="k")
        assert (await app.chat("x")).slug == "quota-exceeded"
        again = await app.chat("x", idempotency_key="k")
        assert (again.status, again.body) == (200, first.body)
        assert again.headers["idempotency-replayed"] == "true"
        assert (await app.request("GET", "/usage")).json["turns"] == 1


async def test_without_budgets_the_store_is_asked_what_it_always_was(settings: Settings) -> None:
    store = Outage()
    async with warm(limited(settings, max_tokens=30, max_cost_usd=1.0), store=store, agent=WithTools()) as app:
        assert (await app.chat("x")).status == 200
        answer = await app.request("GET", "/usage")
    assert store.asked == ["ping", "newest", "claim", "commit"]
    assert (answer.status, answer.slug) == (404, "usage-not-counted")
    assert "No daily budget is set" in answer.json["detail"]


async def test_the_caller_sees_what_it_has_used_in_the_day(settings: Settings) -> None:
    clock = Noon()
    limits = {"max_tokens": 30, "max_cost_usd": 0.5, "daily_max_tokens": 1000, "daily_max_cost_usd": 2.5}
    async with warm(limited(settings, **limits), clock=clock, agent=WithTools(usd=0.125)) as app:
        nothing = (await app.request("GET", "/usage")).json
        for session in "abc":
            await app.chat("x", session)
        answer = await app.request("GET", "/usage")
        clock.advance(DAY_S)
        assert (await app.request("GET", "/usage")).json == nothing | {
            "day": "2024-10-05",
            "resets_at": "2024-10-06T00:00:00Z",
        }
    assert answer.json == {
        "day": "2024-10-04",
        "resets_at": "2024-10-05T00:00:00Z",
        "turns": 3,
        "input_tokens": 90,
        "output_tokens": 30,
        "cached_tokens": 15,
        "cost_usd": 0.375,
        "running": {"tokens": 0, "cost_usd": 0.0},
        "limits": {"tokens": 1000, "cost_usd": 2.5},
    }
    counted = ("turns", "input_tokens", "output_tokens", "cached_tokens", "cost_usd")
    assert {name: nothing[name] for name in counted} == dict.fromkeys(counted, 0)


@pytest.mark.parametrize("budget", ["session_max_tokens", "daily_max_tokens"])
async def test_a_call_that_the_store_does_not_answer_begins_no_turn(settings: Settings, budget: str) -> None:
    store = Outage("add")
    async with warm(limited(settings, max_tokens=30, **{budget: 900}), store=store, agent=agents.never) as app:
        answer = await app.chat("x")
        assert (answer.status, answer.slug) == (503, "store-unavailable")
        assert await store.newest(SessionKey(ANONYMOUS, "s"), 1) == []


async def test_a_store_that_stops_answering_fails_a_turn_that_needs_more_than_it_took(settings: Settings) -> None:
    """Nobody could count what it goes on using, if its process died."""
    store, agent = Outage(), Stepwise(tokens=100)

    async def falls_silent(turn: OpenTurn) -> AsyncIterator[AgentEvent]:
        store.down.add("add")
        async for event in agent(turn):
            yield event

    async with warm(limited(settings, max_tokens=30, daily_max_tokens=900), store=store, agent=falls_silent) as app:
        answer = await app.chat("x")
    assert (answer.slug, agent.calls) == ("store-unavailable", 1)


async def test_a_turn_whose_process_slept_past_its_time_is_settled(settings: Settings) -> None:
    async def agent(_: OpenTurn) -> AsyncIterator[AgentEvent]:
        yield Usage(input_tokens=7, steps=1)
        time.sleep(2.5)  # noqa: ASYNC251 as where a machine stands still
        yield "late"

    async with warm(limited(settings, timeout_s=1.0, max_tokens=30, daily_max_tokens=900), agent=agent) as app:
        await app.chat("hello")
        used = (await app.request("GET", "/usage")).json
    assert (used["input_tokens"], used["running"]["tokens"]) == (7, 0)


async def test_a_turn_that_is_stopped_while_it_reserves_gives_back_what_it_took() -> None:
    """Its caller hung up, or the process drains: the store has added, and says so later."""

    class Late(MemoryStore):
        added, answer = asyncio.Event(), asyncio.Event()

        async def add(self, key: SessionKey, *arguments: Any, **options: Any) -> Numbers | None:
            numbers = await super().add(key, *arguments, **options)
            self.added.set()
            await self.answer.wait()
            return numbers

    store, key = Late(), SessionKey(ANONYMOUS, "s")
    budgets = Budgets(Claims(store, 1, 9), Limit(30), session=Limit(900), day=Limit(900))
    reservation = Reservation(budgets, key)
    reserving = asyncio.create_task(reservation.reserve())
    await store.added.wait()
    reserving.cancel()
    await asyncio.sleep(0)
    store.answer.set()
    with pytest.raises(asyncio.CancelledError):
        await reserving
    assert (await budgets.used_today(ANONYMOUS)).running_tokens == 60
    await reservation.settle(Usage())
    found = await budgets.used_today(ANONYMOUS)
    assert (found.running_tokens, found.turns) == (0, 0)


async def test_a_turn_that_is_stopped_does_not_wait_for_a_store_that_never_answers() -> None:
    store = Silent("add")
    reservation = Reservation(Budgets(Claims(store, 1, 9), Limit(30), day=Limit(900)), SessionKey(ANONYMOUS, "s"))
    reserving = asyncio.create_task(reservation.reserve())
    await store.begun.wait()
    reserving.cancel()
    ended, _ = await asyncio.wait([reserving], timeout=1)
    assert ended
    assert reserving.cancelled()


async def test_a_turn_that_used_what_it_took_asks_for_no_more(settings: Settings) -> None:
    store = Outage()

    async def agent(_: OpenTurn) -> AsyncIterator[AgentEvent]:
        yield Usage(input_tokens=60, steps=1)
        yield "hello"

    async with warm(limited(settings, max_tokens=30, daily_max_tokens=900), store=store, agent=agent) as app:
        assert (await app.chat("x")).status == 200
    assert store.asked == ["ping", "newest", "claim", "add", "commit", "add"]


async def test_counters_are_kept_as_long_as_a_session_and_a_day_longer_than_their_own(tmp_path: Path) -> None:
    used = Usage(input_tokens=70, steps=1)
    async with SQLiteStore(tmp_path / "sessions.db") as store:
        claims = Claims(store, 1, 3600, Noon())
        reservation = Reservation(Budgets(claims, Limit(30), Limit(900), Limit(900)), SessionKey("alice", "s"))
        await reservation.reserve()
        await reservation.grow(used)
        await reservation.settle(used)
        with closing(sqlite3.connect(tmp_path / "sessions.db")) as file:
            counters = file.execute("SELECT pk, turn, expires FROM numbers WHERE name = 'input_tokens'").fetchall()
    midnight = int(NOON + DAY_S / 2)
    assert sorted(counters) == [
        ("alice/s~usage", 1, int(NOON) + 3600),
        ("alice/~usage", int(NOON // DAY_S), midnight + DAY_S),
    ]


def test_what_has_no_limit_of_its_own_may_use_what_is_left() -> None:
    assert Limit(usd=1.0).within({"tokens": 5}) == Limit(5, 1.0)


@pytest.mark.parametrize("call", [1, 2], ids=["reserve", "settle"])
async def test_a_store_that_never_answers_is_not_waited_for(settings: Settings, call: int) -> None:
    class Later(Silent):
        async def _ask(self, name: str) -> None:
            if name != "add" or self.asked.count("add") == call - 1:
                await super()._ask(name)
            else:
                self.asked.append(name)

    store = Later("add")
    hasty = limited(settings, max_tokens=30, daily_max_tokens=900, timeout_s=1.0 if call == 1 else 60.0)
    async with warm(hasty, store=store, agent=WithTools()) as app:
        began = time.monotonic()
        async with asyncio.timeout(LIMIT_S):
            answer = await app.chat("x")
        took_s = time.monotonic() - began
    assert answer.status == (503 if call == 1 else 200)
    assert took_s < 5
    today = await MemoryStore.numbers(store, SessionKey(ANONYMOUS, USAGE), int(time.time() // DAY_S))
    assert dict(today) == ({} if call == 1 else {"taken_tokens": 60})


class SlowSettlement(MemoryStore):
    """Counts what was used only once it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.gate = asyncio.Event(), asyncio.Event()

    async def add(
        self, key: SessionKey, window: int, amounts: Numbers, expires: int, *, below: Numbers = NONE, once: bool = False
    ) -> Numbers | None:
        if once:
            self.begun.set()
            await self.gate.wait()
        return await super().add(key, window, amounts, expires, below=below, once=once)


async def test_a_turn_is_acknowledged_when_its_usage_is_counted(settings: Settings) -> None:
    """On Lambda nothing runs afterwards."""
    store = SlowSettlement()
    async with warm(limited(settings, max_tokens=30, daily_max_tokens=900), store=store, agent=WithTools()) as app:
        turn = asyncio.create_task(app.chat("x"))
        await store.begun.wait()
        assert [item.body is None for item in await store.newest(SessionKey(ANONYMOUS, "s"), 1)] == [False]
        assert not turn.done()
        store.gate.set()
        assert (await turn).status == 200
        assert (await app.request("GET", "/usage")).json["running"]["tokens"] == 0


async def failing(_: OpenTurn) -> AsyncIterator[AgentEvent]:
    yield Usage(input_tokens=7, steps=1)
    raise LookupError


async def waiting(turn: OpenTurn) -> AsyncIterator[AgentEvent]:
    yield Usage(input_tokens=7, steps=1)
    await asyncio.sleep(turn.deadline)
    yield "too late"


@pytest.mark.parametrize(
    ("agent", "headers", "slug"),
    [(failing, {}, "agent-failed"), (waiting, {"x_request_timeout": "0.2"}, "deadline-exceeded")],
    ids=["fails", "too late"],
)
async def test_a_turn_that_is_not_stored_has_used_what_it_used(
    settings: Settings, agent: Agent, headers: dict[str, str], slug: str
) -> None:
    async with warm(limited(settings, max_tokens=30, daily_max_tokens=900), agent=agent) as app:
        assert (await app.chat("x", **headers)).slug == slug
        found = (await app.request("GET", "/usage")).json
    assert (found["turns"], found["input_tokens"], found["running"]["tokens"]) == (1, 7, 0)


async def test_a_cancelled_turn_has_used_what_it_used(settings: Settings) -> None:
    async with warm(limited(settings, max_tokens=30, daily_max_tokens=900), agent=waiting) as app:
        turn = asyncio.create_task(app.chat("x"))
        async with asyncio.timeout(LIMIT_S):
            while (await app.request("GET", "/usage")).json["running"]["tokens"] == 0:
                await asyncio.sleep(0.01)
            await app.request("POST", "/sessions/s/cancel")
        assert (await turn).slug == "cancelled"
        found = (await app.request("GET", "/usage")).json
    assert found["running"]["tokens"] == 0


async def test_turns_that_are_stopped_with_their_process_are_settled(settings: Settings) -> None:
    store = MemoryStore()
    limits = {"max_tokens": 30, "daily_max_tokens": 900, "shutdown_grace_s": 3.0}
    async with warm(limited(settings, **limits), store=store, agent=waiting) as app:
        turn = asyncio.create_task(app.chat("x"))
        async with asyncio.timeout(LIMIT_S):
            while (await app.request("GET", "/usage")).json["running"]["tokens"] == 0:
                await asyncio.sleep(0.01)
            await app.lifecycle.drain(lambda: None)
        assert (await turn).slug == "shutting-down"
    today = await store.numbers(SessionKey(ANONYMOUS, USAGE), int(time.time() // DAY_S))
    assert (today["taken_tokens"], today["input_tokens"]) == (7, 7)


async def test_a_refusal_is_no_line_of_the_log_that_somebody_reads(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    async with warm(limited(settings, max_tokens=30, session_max_tokens=1), agent=WithTools()) as app:
        await app.chat("x")
        with caplog.at_level(logging.DEBUG, "app.turn_log"):
            await app.chat("x")
    [record] = [each for each in caplog.records if each.name == "app.turn_log"]
    assert (record.levelname, vars(record)[FACTS]["problem"]) == ("DEBUG", "quota-exceeded")


async def usage_of(app: App) -> Any:
    return (await app.request("GET", "/usage")).json


CALL = 105  # tokens of a model call: a hundred of input, five of output
COSTLY = always_another_call(usage=MODEL_USAGE | {"input_tokens": CALL - 5})


@pytest.mark.parametrize("budget", ["session_max_tokens", "daily_max_tokens"])
@pytest.mark.parametrize("limit", [1, 104, 105, 106, 500, 1050, 1051])
async def test_the_built_in_agent_makes_no_call_after_the_one_that_reaches_a_budget(budget: str, limit: int) -> None:
    """However its turns part the budget."""
    limits: Any = {"max_tokens": 250, budget: limit}
    async with talking(max_steps=50, **limits) as talk:
        talk.model.otherwise = COSTLY
        ended = [await talk.ask() for _ in range(12)]
        calls = len(talk.model.requests)
        assert (calls - 1) * CALL < limit <= calls * CALL
        assert ended[-1].slug == "quota-exceeded"
        assert {each.json["stop_reason"] for each in ended if each.status == 200} == {"budget"}
        await goes_on_elsewhere(talk, budget)


async def goes_on_elsewhere(talk: Any, budget: str) -> None:
    """Check that nothing but the budget stands in the way."""
    talk.model.otherwise = says("fine")
    assert (await talk.ask(session="other")).status == (200 if budget == "session_max_tokens" else 429)
    assert talk.model.refused == []


async def test_the_dollars_of_a_session_end_it() -> None:
    async with talking(max_cost_usd=0.001, session_max_cost_usd=0.002, max_steps=50) as talk:
        talk.model.otherwise = COSTLY  # 250 millionths of a dollar each
        ended = [await talk.ask() for _ in range(4)]
        assert len(talk.model.requests) == 8
        assert [each.status for each in ended] == [200, 200, 429, 429]


async def test_a_turn_that_met_a_budget_lets_its_session_go_on() -> None:
    async with talking(max_tokens=100, session_max_tokens=10_000) as talk:
        talk.model.otherwise = COSTLY
        assert (await talk.ask()).json["stop_reason"] == "budget"
        await goes_on(talk)


async def test_of_turns_that_begin_together_all_but_one_call_fit_into_the_day() -> None:
    limit = 1000
    async with talking(max_tokens=100, daily_max_tokens=limit, max_steps=50) as talk:
        talk.model.otherwise = COSTLY
        for _ in range(20):
            await asyncio.gather(*[talk.ask(session=f"s{n}") for n in range(20)])
        used = await usage_of(talk.app)
        calls = len(talk.model.requests)
    assert used["input_tokens"] + used["output_tokens"] == calls * CALL
    assert (calls - 1) * CALL < limit <= calls * CALL
    assert used["running"]["tokens"] == 0


SETTINGS = {
    "AGENT": "tests.agents:counting",  # ten tokens a turn
    "AGENT_MAX_TOKENS": "4",
    "DAILY_MAX_TOKENS": "15",
    "SESSION_MAX_TOKENS": "10",
}


@pytest.mark.parametrize("accept", ["application/json", SSE])
@pytest.mark.parametrize("entry", ENTRY_POINTS)
def test_every_entry_point_tells_of_budgets_alike(tmp_path: Path, entry: str, accept: str) -> None:
    head = {"content-type": "application/json", "accept": accept}
    with ENTRY_POINTS[entry](tmp_path, **SETTINGS) as client:
        bodies = [b'{"message":"hello","session_id":"%s"}' % each for each in (b"a", b"a", b"b", b"c")]
        answers = [client.request("POST", "/chat", each, head) for each in bodies]
        usage = client.request("GET", "/usage")
    assert [each.status for each in answers] == [200, 429, 200, 429]
    assert [each.slug for each in answers if each.status == 429] == ["quota-exceeded"] * 2
    assert "retry-after" not in answers[1].headers
    assert 1 <= int(answers[3].headers["retry-after"]) <= DAY_S
    assert usage.headers["content-type"] == "application/json"
    assert (usage.headers["x-content-type-options"], usage.headers["cache-control"]) == ("nosniff", "no-store")
    assert (usage.json["turns"], usage.json["input_tokens"], usage.json["limits"]["tokens"]) == (2, 14, 15)


def test_a_principal_uses_and_sees_its_own_budget_only(tmp_path: Path) -> None:
    with ENTRY_POINTS["asgi"](tmp_path, **SETTINGS, **API_KEYS) as client:

        def ask(key: str) -> list[int]:
            head = {"content-type": "application/json", "x-api-key": key}
            answers = [client.request("POST", "/chat", b'{"message":"hello"}', head) for _ in range(3)]
            return [each.status for each in answers]

        assert ask(KEY) == [200, 200, 429]
        seen = [client.request("GET", "/usage", headers={"x-api-key": each}).json["turns"] for each in (KEY, OTHER)]
        assert seen == [2, 0]
        assert ask(OTHER) == [200, 200, 429]


async def test_many_turns_of_one_session_and_day_add_up(settings: Settings) -> None:
    settings = limited(settings, max_tokens=30, max_cost_usd=1.0, session_max_tokens=10**6, daily_max_cost_usd=100.0)
    async with warm(settings, agent=WithTools(usd=0.000_007)) as app:
        ended = await asyncio.gather(*[app.chat("x", f"s{n}") for n in range(50)])
        found = await usage_of(app)
    assert Counter(each.status for each in ended) == {200: 50}
    assert (found["turns"], found["input_tokens"], found["output_tokens"]) == (50, 1500, 500)
    assert found["cost_usd"] == pytest.approx(0.00035)
    assert found["limits"] == {"tokens": None, "cost_usd": 100.0}
