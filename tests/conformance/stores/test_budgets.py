"""Budgets over every store: no more turns begin than fit, and whatever fails, nothing is counted too low."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

import pytest

from app import turn_log
from app.agents import Agent, OpenTurn
from app.budgets import BUSY_RETRY_S, DAY_S, USAGE, Budgets, Limit, Reservation
from app.errors import QuotaExceeded, StoreUnavailable, UsageNotCounted
from app.events import AgentEvent, Turn, Usage
from app.running import RunningTurn
from app.sessions import SessionKey, SessionStore
from app.turns import TurnRequest, TurnService
from tests.conformance.stores.rig import KEY, LIMIT_S, Clock, Rig, WireRig, end, outcome, together
from tests.faults import STORE_ATTEMPTS, SUDDEN, Fault, Operation

pytestmark = pytest.mark.anyio

REPLICAS = 4
TURN = Limit(100, 0.01)
USED = Usage(input_tokens=30, output_tokens=12, cached_tokens=5, steps=1, usd=0.000123)
SESSION = SessionKey(KEY.principal, KEY.session_id + USAGE)
DAY = SessionKey(KEY.principal, USAGE)


def budgets(
    rig: Rig,
    *,
    turn: Limit = TURN,
    session: Limit = Limit(),  # noqa: B008 frozen
    day: Limit = Limit(),  # noqa: B008 frozen
    store: SessionStore | None = None,
    clock: Callable[[], float] | None = None,
) -> Budgets:
    return Budgets(rig.claims(store, clock=clock or Clock()), turn, session, day)


async def reserved(budgets: Budgets, key: SessionKey = KEY) -> Reservation:
    """Reserve for a turn, as a process does that is still running, hangs or died."""
    reservation = Reservation(budgets, key)
    await reservation.reserve()
    return reservation


async def of_session(rig: Rig) -> dict[str, int]:
    return dict(await rig.store.numbers(SESSION, 1))


def agent(*usages: Usage) -> Agent:
    async def using(turn: OpenTurn) -> AsyncIterator[AgentEvent]:
        for usage in usages:
            yield usage
        yield f"answer to {turn.message}"

    return using


def start(budgets: Budgets, agent: Agent, session: str = KEY.session_id, req: str | None = None) -> RunningTurn:
    """Start a turn as a request would."""
    deadline = asyncio.get_running_loop().time() + LIMIT_S
    request = TurnRequest(SessionKey(KEY.principal, session), "hello", req, 0.0, deadline)
    return TurnService(budgets.claims, agent, 1, turn_log.write, None, budgets).start(request)


async def test_of_a_crowd_that_reserves_together_exactly_those_that_fit_may(rig: Rig) -> None:
    """Each takes 200 of the day; the last one that finds less than all taken is let in."""
    stores = [await rig.replica() for _ in range(REPLICAS)]
    fit, clock = rig.crowd // 3, Clock()
    day = Limit(200 * fit - 1)
    asked = [Reservation(budgets(rig, day=day, store=stores[n % REPLICAS], clock=clock), KEY) for n in range(rig.crowd)]
    ends = await together(*[outcome(each.reserve()) for each in asked])
    refused = [each for each in ends if isinstance(each, QuotaExceeded)]
    assert (ends.count(None), len(refused)) == (fit, rig.crowd - fit)
    assert {each.retry_after_s for each in refused} == {BUSY_RETRY_S}
    assert (await budgets(rig, day=day, clock=clock).used_today(KEY.principal)).running_tokens == 200 * fit


async def test_what_was_used_takes_the_place_of_what_was_taken(rig: Rig) -> None:
    limited = budgets(rig, session=Limit(1000, 1.0), day=Limit(500))
    reservation = await reserved(limited)
    before = await limited.used_today(KEY.principal)
    assert await of_session(rig) == {"taken_tokens": 200, "taken_microusd": 20_000}
    assert (before.turns, before.running_tokens, before.running_usd, before.limit) == (0, 200, 0.02, Limit(500))
    await reservation.settle(USED)
    await reservation.settle(USED)  # which is no more
    used = {"turns": 1, "input_tokens": 30, "output_tokens": 12, "cached_tokens": 5, "microusd": 123}
    assert await of_session(rig) == {"taken_tokens": 42, "taken_microusd": 123} | used
    after = await limited.used_today(KEY.principal)
    assert (after.input_tokens, after.output_tokens, after.cached_tokens, after.usd) == (30, 12, 5, 0.000123)
    assert (after.turns, after.running_tokens, after.running_usd) == (1, 0, 0.0)


async def test_a_turn_may_use_what_every_budget_leaves_it(rig: Rig) -> None:
    limited = budgets(rig, session=Limit(1000, 0.025), day=Limit(390))
    first, second = [await reserved(limited, replace(KEY, session_id=each)) for each in ("one", "two")]
    assert first.limit == Limit(100, 0.01)
    assert second.limit == Limit(100, 0.01)
    await second.settle(Usage(input_tokens=180))
    third = await reserved(limited, replace(KEY, session_id="two"))
    assert third.limit == Limit(10, 0.01)
    await third.settle(Usage(usd=0.0249))
    assert (await reserved(limited, replace(KEY, session_id="two"))).limit == Limit(10, 0.0001)


async def test_a_dollar_budget_alone_sets_no_tokens_aside_but_counts_them(rig: Rig) -> None:
    limited = budgets(rig, turn=Limit(usd=0.01), day=Limit(usd=1.0))
    reservation = await reserved(limited)
    assert reservation.limit == Limit(usd=0.01)
    await reservation.settle(USED)
    found = await limited.used_today(KEY.principal)
    assert (found.input_tokens, found.usd, found.running_tokens, found.running_usd) == (30, 0.000123, 0, 0.0)
    assert (await reserved(budgets(rig, day=Limit(50)))).limit == Limit(8, 0.01)


async def test_a_budget_that_is_used_up_is_told_with_the_end_of_its_day(rig: Rig) -> None:
    clock = Clock()
    left_s = DAY_S - clock() % DAY_S
    limited = budgets(rig, day=Limit(42), clock=clock)
    await (await reserved(limited)).settle(USED)
    with pytest.raises(QuotaExceeded) as refused:
        await reserved(limited)
    assert refused.value.retry_after_s == left_s
    clock.advance(left_s - 0.25)
    with pytest.raises(QuotaExceeded) as refused:
        await reserved(limited)
    assert refused.value.retry_after_s == 1
    clock.advance(0.25)
    await reserved(limited)


async def test_a_session_that_has_used_its_budget_up_never_goes_on_and_takes_nothing_of_the_day(rig: Rig) -> None:
    clock = Clock()
    limited = budgets(rig, session=Limit(42), day=Limit(1000), clock=clock)
    await (await reserved(limited)).settle(USED)
    clock.advance(3 * DAY_S)
    refused = Reservation(limited, KEY)
    with pytest.raises(QuotaExceeded) as error:
        await refused.reserve()
    await refused.settle(Usage())
    assert error.value.retry_after_s is None
    found = await limited.used_today(KEY.principal)
    assert (found.turns, found.running_tokens) == (0, 0)
    await reserved(limited, replace(KEY, session_id="other"))


async def test_the_budgets_of_another_principal_are_others(rig: Rig) -> None:
    limited = budgets(rig, session=Limit(1), day=Limit(1))
    await reserved(limited)
    await reserved(limited, replace(KEY, principal="principal2"))
    with pytest.raises(QuotaExceeded):
        await reserved(limited)


async def test_a_turn_that_uses_more_than_it_took_takes_more_at_once(rig: Rig) -> None:
    limited = budgets(rig, session=Limit(1000), day=Limit(1000))
    reservation = await reserved(limited)
    await reservation.grow(Usage(input_tokens=200))
    assert (await of_session(rig))["taken_tokens"] == 200
    await reservation.grow(Usage(input_tokens=200, output_tokens=7))
    await reservation.grow(Usage(input_tokens=200, output_tokens=9, usd=5.0))
    assert (await of_session(rig))["taken_tokens"] == 209
    assert (await limited.used_today(KEY.principal)).running_tokens == 209
    await reservation.settle(Usage(input_tokens=200, output_tokens=10))
    assert (await of_session(rig))["taken_tokens"] == 210


@pytest.mark.parametrize("fault", SUDDEN, ids=lambda fault: fault.name)
@pytest.mark.parametrize("call", range(4), ids=["reserve", "grow", "settle", "none"])
async def test_whatever_becomes_of_a_call_what_is_taken_is_never_less_than_what_was_used(
    rig: Rig, call: int, fault: Fault
) -> None:
    """One call of a turn meets the fault in each of its attempts."""
    used = Usage(input_tokens=250)
    limited = budgets(rig, session=Limit(10_000))
    rig.faults.plan("add", *[None] * call, *[fault] * STORE_ATTEMPTS)
    await outcome(end(start(limited, agent(used))))
    rig.faults.end()
    before = (await of_session(rig)).get("taken_tokens", 0)
    await end(start(limited, agent(used), "other"))
    after = await rig.store.numbers(replace(SESSION, session_id="other" + USAGE), 1)
    assert after["taken_tokens"] == 250
    ran = call > 0  # what took nothing asked no model
    assert before >= (250 if ran else 0)


async def test_a_settlement_whose_reply_is_lost_is_not_sent_again(rig: Rig) -> None:
    limited = budgets(rig, session=Limit(1000))
    reservation = await reserved(limited)
    rig.faults.plan("add", Fault.REPLY_LOST)
    await reservation.settle(USED)
    assert (await of_session(rig))["taken_tokens"] == 42


async def test_a_settlement_that_fails_leaves_what_was_taken(rig: Rig) -> None:
    reservation = await reserved(budgets(rig, session=Limit(1000)))
    rig.faults.plan("add", Fault.BROKEN)
    await reservation.settle(USED)
    assert await of_session(rig) == {"taken_tokens": 200}


async def test_usage_that_no_store_could_count_is_cut(rig: Rig) -> None:
    limited = budgets(rig, session=Limit(10**12, 10.0**6))
    for _ in range(2):
        reservation = Reservation(limited, KEY)
        await outcome(reservation.reserve())
        await reservation.settle(Usage(10**30, 10**30, 10**30, 1, 1e300))
    assert (await of_session(rig))["input_tokens"] == 10**12


async def test_usage_in_parts_of_a_token_is_rounded_up(rig: Rig) -> None:
    reservation = await reserved(budgets(rig, session=Limit(1000, 1.0)))
    await reservation.settle(Usage(input_tokens=0.5, usd=0.0000001))  # type: ignore[arg-type]  # an agent may
    found = await of_session(rig)
    assert (found["input_tokens"], found["microusd"]) == (1, 1)


async def test_without_a_budget_of_the_day_nothing_is_counted(rig: Rig) -> None:
    limited = budgets(rig, session=Limit(1000))
    await (await reserved(limited)).settle(USED)
    assert await rig.store.numbers(DAY, int(limited.claims.clock() // DAY_S)) == {}
    with pytest.raises(UsageNotCounted):
        await limited.used_today(KEY.principal)


async def test_a_turn_that_waits_past_midnight_counts_where_it_begins(rig: Rig) -> None:
    clock = Clock()
    limited = budgets(rig, day=Limit(1000), clock=clock)
    waiting = Reservation(limited, KEY)
    clock.advance(DAY_S)
    await waiting.reserve()
    clock.advance(DAY_S)
    assert (await limited.used_today(KEY.principal)).running_tokens == 0
    await waiting.settle(USED)
    day = int(clock() // DAY_S)
    assert await rig.store.numbers(DAY, day) == {}
    assert (await rig.store.numbers(DAY, day - 1))["turns"] == 1


@pytest.mark.parametrize("operation", ["commit", "newest", "claim"])
async def test_a_turn_that_fails_gives_back_what_it_did_not_use(rig: Rig, operation: Operation) -> None:
    limited = budgets(rig, day=Limit(10_000))
    rig.faults.plan(operation, *[Fault.BROKEN] * 40)
    failed = asyncio.create_task(outcome(end(start(limited, agent(USED)))))
    async with asyncio.timeout(LIMIT_S):
        while rig.faults.met(Fault.BROKEN) < STORE_ATTEMPTS:
            await asyncio.sleep(0.01)
    rig.faults.end()
    ended = await failed
    found = await limited.used_today(KEY.principal)
    assert found.running_tokens == 0
    assert found.input_tokens == (30 if isinstance(ended, Turn) else 0)
    assert isinstance(ended, Turn if operation == "commit" else StoreUnavailable)


async def test_a_turn_under_both_budgets_is_four_calls_more_and_a_replay_none(wire_rig: WireRig) -> None:
    limited = budgets(wire_rig, session=Limit(1000), day=Limit(90))

    async def calls() -> Sequence[Operation]:
        wire_rig.faults.calls.clear()
        await outcome(end(start(limited, agent(USED, USED), req="key")))
        return wire_rig.faults.operations()

    assert await calls() == ["newest", "claim", "add", "add", "commit", "add", "add"]
    assert await calls() == ["newest"]  # a replay
    await (await reserved(limited)).settle(Usage(input_tokens=48))
    wire_rig.faults.calls.clear()
    assert isinstance(await outcome(end(start(limited, agent(USED)))), QuotaExceeded)
    assert wire_rig.faults.operations() == ["newest", "claim", "add", "numbers", "release"]
