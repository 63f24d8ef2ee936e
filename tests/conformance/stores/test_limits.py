"""The limits of a principal over every store: as many turns run at once as may, on all replicas together."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from app import turn_log
from app.agents import OpenTurn
from app.agents.echo import echo
from app.errors import RateLimited, StoreUnavailable
from app.events import AgentEvent, Turn
from app.limits import KEEP_S, SLOT_ATTEMPTS, SLOTS, PrincipalLimits
from app.running import RunningTurn
from app.sessions import SessionKey, SessionStore, TurnItem
from app.sessions.claims import Claim
from app.turns import TurnRequest, TurnService
from tests.conformance.stores.forwarding import Forwarding, ReadsTogether
from tests.conformance.stores.rig import KEY, LEASE_S, LIMIT_S, Clock, Rig, WireRig, end, numbers, outcome, together
from tests.faults import STORE_ATTEMPTS, SUDDEN, Fault, Operation

pytestmark = pytest.mark.anyio

HELD = SessionKey(KEY.principal, SLOTS)
REPLICAS = 4
AT_ONCE = 5


class Crowd:
    """An agent whose runs end when they are let; `running` is how many there are, `peak` the most there were."""

    def __init__(self) -> None:
        self.running = self.peak = 0
        self._open = asyncio.Event()

    async def __call__(self, turn: OpenTurn) -> AsyncIterator[AgentEvent]:
        self.running += 1
        self.peak = max(self.peak, self.running)
        await self._open.wait()
        yield turn.message
        self.running -= 1

    def open(self) -> None:
        self._open.set()


def limits(
    rig: Rig,
    at_once: int | None = AT_ONCE,
    *,
    per_minute: int | None = None,
    store: SessionStore | None = None,
    clock: Callable[[], float] = time.time,
) -> PrincipalLimits:
    return PrincipalLimits(rig.claims(store, clock=clock), per_minute, at_once)


def start(
    limits: PrincipalLimits, session: str = "s", agent: Crowd | None = None, req: str | None = None
) -> RunningTurn:
    """Start a turn as a request would."""
    request = TurnRequest(
        SessionKey(KEY.principal, session), "hello", req, 0.0, asyncio.get_running_loop().time() + LIMIT_S
    )
    return TurnService(limits.claims, agent or echo, 1, turn_log.write, limits).start(request)


async def slot(limits: PrincipalLimits, principal: str = KEY.principal) -> Claim:
    """Take a slot and keep it, as a process does that is still running, hangs or died."""
    taken = await limits.take_slot(principal, LEASE_S)
    assert taken
    return taken


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not condition():
            await asyncio.sleep(0.01)


async def crowd(rig: Rig, at_once: int, agent: Crowd) -> Sequence[RunningTurn]:
    """Start turns on as many sessions as the rig's crowd, none of which takes a slot before all have looked for one."""
    stores = [await rig.replica() for _ in range(REPLICAS)]
    barrier = asyncio.Barrier(rig.crowd)
    reading = [ReadsTogether(stores[n % REPLICAS], barrier) for n in range(rig.crowd)]
    return [start(limits(rig, at_once, store=store), f"session-{n}", agent) for n, store in enumerate(reading)]


@pytest.mark.parametrize("share", [0.1, 1.0], ids=["tenth", "all"])
async def test_of_a_crowd_that_looked_together_as_many_run_as_may_and_the_rest_is_told(rig: Rig, share: float) -> None:
    agent, at_once = Crowd(), int(rig.crowd * share)
    turns = await crowd(rig, at_once, agent)
    results = [asyncio.create_task(outcome(end(turn))) for turn in turns]
    await until(lambda: agent.running + sum(each.done() for each in results) == rig.crowd)
    assert agent.running == at_once
    assert len(await rig.items(HELD)) == at_once
    agent.open()
    ended = [await each for each in results]
    assert sum(isinstance(each, Turn) for each in ended) == agent.peak == at_once
    assert sum(isinstance(each, RateLimited) for each in ended) == rig.crowd - at_once
    assert await rig.items(HELD) == []


async def test_slots_are_no_sessions_and_those_of_another_principal_are_others(rig: Rig) -> None:
    limited = limits(rig, 1)
    await slot(limited)
    await slot(limited, "principal2")
    assert list(await rig.store.list_sessions(KEY.principal, 10)) == []
    with pytest.raises(RateLimited):
        await limited.take_slot(KEY.principal, LEASE_S)


async def test_a_slot_whose_holder_died_is_free_when_its_lease_is_over(rig: Rig) -> None:
    clock = Clock()
    limited = limits(rig, 1, clock=clock)
    dead = await slot(limited)
    clock.advance(LEASE_S - 1)
    with pytest.raises(RateLimited):
        await limited.take_slot(KEY.principal, LEASE_S)
    clock.advance(1)
    taken = await slot(limited)
    await limited.claims.release(dead)  # a zombie's
    assert await rig.items(HELD) == [taken.item]


async def test_of_many_that_take_a_dead_holders_slot_one_has_it(rig: Rig) -> None:
    clock = Clock()
    await slot(limits(rig, 1, clock=clock))
    clock.advance(LEASE_S)
    barrier = asyncio.Barrier(REPLICAS)
    takers = [limits(rig, 1, store=ReadsTogether(await rig.replica(), barrier), clock=clock) for _ in range(REPLICAS)]
    results = await together(*[outcome(each.take_slot(KEY.principal, LEASE_S)) for each in takers])
    [taken] = [each for each in results if isinstance(each, Claim)]
    assert sum(isinstance(each, RateLimited) for each in results) == REPLICAS - 1
    assert await rig.items(HELD) == [taken.item]


async def test_slots_above_a_limit_that_was_lowered_hide_none_below_it(rig: Rig) -> None:
    """Not even one whose holder died."""
    clock = Clock()
    for turn in range(1, 7):
        ends = clock() + (LEASE_S if turn != 2 else 0)
        assert await rig.store.claim(HELD, TurnItem(turn, f"run-{turn}", "req", int(ends) + 60, ends))
    assert (await slot(limits(rig, 3, clock=clock))).item.turn == 2
    rig.faults.calls.clear()
    with pytest.raises(RateLimited):
        await limits(rig, 3, clock=clock).take_slot(KEY.principal, LEASE_S)
    assert rig.faults.operations() == ["newest"]  # which shows all that are held


async def test_a_slot_is_kept_for_an_hour_beyond_its_lease(rig: Rig) -> None:
    """Clocks differ, and what has expired may be removed at any moment."""
    clock = Clock()
    item = (await slot(limits(rig, 1, clock=clock))).item
    assert (item.lease, item.expires) == (clock() + LEASE_S, int(clock() + LEASE_S) + KEEP_S)


class Losing(Forwarding):
    """A store on which somebody else is always faster."""

    tries = 0

    async def claim(self, key: SessionKey, item: TurnItem, dead_run: str | None = None) -> bool:  # noqa: ARG002
        self.tries += 1
        return False


async def test_who_loses_one_slot_after_the_other_is_told_after_some(rig: Rig) -> None:
    store = Losing(rig.store)
    with pytest.raises(RateLimited):
        await limits(rig, 1, store=store).take_slot(KEY.principal, LEASE_S)
    assert store.tries == SLOT_ATTEMPTS


@pytest.mark.parametrize("fault", SUDDEN, ids=lambda fault: fault.name)
@pytest.mark.parametrize("operation", ["newest", "claim", "release"])
async def test_one_fault_on_any_call_for_a_slot_is_not_noticed(rig: Rig, operation: Operation, fault: Fault) -> None:
    limited = limits(rig, 1, clock=Clock())
    rig.faults.plan(operation, fault)
    taken = await slot(limited)
    assert await rig.items(HELD) == [taken.item]
    await limited.claims.release(taken)
    assert rig.faults.met(fault) == 1
    assert await rig.items(HELD) == []


async def test_a_slot_that_may_have_been_taken_is_given_back(rig: Rig) -> None:
    rig.faults.plan("claim", *[Fault.REPLY_LOST] * STORE_ATTEMPTS)
    with pytest.raises(StoreUnavailable):
        await limits(rig, 1).take_slot(KEY.principal, LEASE_S)
    assert await rig.items(HELD) == []


async def test_a_count_whose_reply_was_lost_counts_twice_and_one_that_was_refused_once(rig: Rig) -> None:
    rig.faults.plan("add", Fault.REPLY_LOST)
    assert (await limits(rig, per_minute=9).count(KEY.principal))["RateLimit"].startswith('"turns";r=7;')
    rig.faults.plan("add", Fault.THROTTLED)
    other = await limits(rig, per_minute=9).count("principal2")
    assert other["RateLimit"].startswith('"turns";r=8;')


async def test_a_limited_turn_is_four_calls_more_and_a_refused_one_one_or_two(wire_rig: WireRig) -> None:
    clock = Clock()
    limited = limits(wire_rig, 1, per_minute=3, clock=clock)

    async def calls() -> list[Operation]:
        wire_rig.faults.calls.clear()
        await outcome(end(start(limited, req="key")))
        return wire_rig.faults.operations()

    assert await calls() == ["add", "newest", "claim", "newest", "claim", "commit", "release"]
    assert await calls() == ["add", "newest", "claim", "newest", "release"]  # a replay
    await slot(limited)
    assert await calls() == ["add", "newest"]  # too many run
    assert await calls() == ["add"]  # too many began
    assert numbers(await wire_rig.items(SessionKey(KEY.principal, "s"))) == [1]
