"""Leases and fencing: takeovers, runs that outlived their lease, clocks that are wrong, and requests that wait."""

import asyncio
import time

import pytest

from app.errors import LeaseLost, SessionBusy, TurnInProgress
from app.sessions.claims import Claim
from tests.conformance.stores.forwarding import BeforeFirstClaim
from tests.conformance.stores.rig import (
    KEEP_S,
    KEY,
    LEASE_S,
    Clock,
    Gate,
    Recorder,
    Rig,
    answered,
    claimed,
    end,
    numbers,
    start,
    take_turn,
)

pytestmark = pytest.mark.anyio

HOUR_S = 3600.0
COMMIT_S = 1.0
WAIT_S = 20.0


async def test_a_living_lease_is_respected(rig: Rig) -> None:
    clock = Clock()
    held = await claimed(rig.claims(clock=clock))
    clock.advance(LEASE_S - 1)
    with pytest.raises(SessionBusy):
        await take_turn(rig.claims(clock=clock))
    assert await rig.items() == [held.item]


async def test_a_dead_runs_turn_is_taken_over_under_its_number(rig: Rig) -> None:
    clock = Clock()
    claims = rig.claims(clock=clock)
    first = await take_turn(claims)
    await claimed(claims, req="key")
    clock.advance(LEASE_S + 1)
    taken = await take_turn(claims, "another")
    assert await rig.transcript() == [first, taken]
    assert taken.number == 2


async def test_a_retry_takes_its_own_dead_turn_over(rig: Rig) -> None:
    clock = Clock()
    claims = rig.claims(clock=clock)
    await claimed(claims, req="key")
    clock.advance(LEASE_S + 1)
    turn = await take_turn(claims, req="key")
    assert await rig.transcript() == [turn]


async def test_a_run_that_outlived_its_lease_still_commits_if_nobody_overtook_it(rig: Rig) -> None:
    clock = Clock()
    claims = rig.claims(clock=clock)
    slow = await claimed(claims)
    clock.advance(LEASE_S + 1)
    await claims.commit(slow, answered(slow), COMMIT_S)
    assert await rig.transcript() == [answered(slow)]


async def test_an_overtaken_run_cannot_commit(rig: Rig) -> None:
    """Neither while the taker runs nor after it committed."""
    clock = Clock()
    claims = rig.claims(clock=clock)
    zombie = await claimed(claims)
    clock.advance(LEASE_S + 1)
    taker = await claimed(claims)
    with pytest.raises(LeaseLost):
        await claims.commit(zombie, answered(zombie, answer="late"), COMMIT_S)
    await claims.commit(taker, answered(taker), COMMIT_S)
    with pytest.raises(LeaseLost):
        await claims.commit(zombie, answered(zombie, answer="late"), COMMIT_S)
    assert await rig.transcript() == [answered(taker)]


async def test_an_overtaken_run_cannot_release(rig: Rig) -> None:
    """Neither while the taker runs nor after it committed."""
    clock = Clock()
    claims = rig.claims(clock=clock)
    zombie = await claimed(claims)
    clock.advance(LEASE_S + 1)
    taker = await claimed(claims)
    await claims.release(zombie)
    assert await rig.items() == [taker.item]
    await claims.commit(taker, answered(taker), COMMIT_S)
    await claims.release(zombie)
    assert await rig.transcript() == [answered(taker)]


async def test_a_release_never_removes_the_runs_own_commit(rig: Rig) -> None:
    """A run that never heard of its commit gives the turn back."""
    claims = rig.claims()
    claim = await claimed(claims)
    await claims.commit(claim, answered(claim), COMMIT_S)
    await claims.release(claim)
    assert await rig.transcript() == [answered(claim)]


async def test_a_release_frees_the_session_at_once(rig: Rig) -> None:
    claims = rig.claims()
    await claims.release(await claimed(claims))
    assert (await take_turn(claims)).number == 1


async def test_a_commit_between_a_takers_read_and_its_claim_survives(rig: Rig) -> None:
    clock = Clock()
    claims = rig.claims(clock=clock)
    slow = await claimed(claims)
    clock.advance(LEASE_S + 1)
    store = BeforeFirstClaim(rig.store, lambda: claims.commit(slow, answered(slow), COMMIT_S))
    agent = Recorder()
    turn = await take_turn(rig.claims(store, clock=clock), agent=agent)
    assert store.happened
    assert await rig.transcript() == [answered(slow), turn]
    assert list(agent.seen[0].history) == [answered(slow)]


async def test_a_fast_clock_costs_a_run_and_no_turn(rig: Rig) -> None:
    right, fast = rig.claims(clock=Clock()), rig.claims(await rig.replica(), clock=Clock(HOUR_S - 60))
    robbed = await claimed(right)
    turn = await take_turn(fast)
    with pytest.raises(LeaseLost):
        await right.commit(robbed, answered(robbed), COMMIT_S)
    assert await rig.transcript() == [turn]


async def test_a_slow_clock_waits_longer_than_it_must(rig: Rig) -> None:
    dead = await claimed(rig.claims(clock=Clock()))
    clock = Clock(-HOUR_S)
    slow = rig.claims(await rig.replica(), clock=clock)
    with pytest.raises(SessionBusy):
        await take_turn(slow)
    assert await rig.items() == [dead.item]
    clock.advance(HOUR_S + LEASE_S + 1)
    assert (await take_turn(slow)).number == 1


async def test_replicas_with_skewed_clocks_take_turns_without_loss(rig: Rig) -> None:
    skews_s = (0.0, KEEP_S / 3, -KEEP_S / 3, 60.0, -60.0)
    replicas = [rig.claims(await rig.replica(), clock=Clock(skew_s)) for skew_s in skews_s]
    agent = Recorder()
    turns = [await take_turn(claims, agent=agent) for _ in range(2) for claims in replicas]
    assert await rig.transcript() == turns
    assert [list(seen.history) for seen in agent.seen] == [turns[:n] for n in range(len(turns))]


async def test_a_waiting_request_runs_when_the_session_is_free_and_sees_the_turn_before(rig: Rig) -> None:
    gate, agent = Gate(), Recorder()
    first = start(rig.claims(), "first", agent=gate)
    await gate.started()
    second = start(rig.claims(await rig.replica()), "second", agent=agent, wait_s=WAIT_S)
    await reads(rig, 4)
    gate.open()
    turns = [await end(first), await end(second)]
    assert numbers(turns) == [1, 2]
    assert list(agent.seen[0].history) == turns[:1]


async def test_a_waiting_retry_replays_the_turn_it_waited_for(rig: Rig) -> None:
    gate, agent = Gate(), Recorder()
    first = start(rig.claims(), agent=gate, req="key")
    await gate.started()
    second = start(rig.claims(await rig.replica()), agent=agent, req="key", wait_s=WAIT_S)
    await reads(rig, 4)
    gate.open()
    assert await end(first) == await end(second)
    assert agent.seen == []


async def test_a_waiting_request_takes_over_when_the_lease_ends(rig: Rig) -> None:
    clock = Clock()
    await claimed(rig.claims(clock=clock))
    waiting = start(rig.claims(clock=clock), wait_s=WAIT_S)
    await reads(rig, 4)
    clock.advance(LEASE_S)
    assert (await end(waiting)).number == 1


async def test_a_waiting_request_is_refused_when_its_time_is_up(rig: Rig) -> None:
    await claimed(rig.claims())
    began = time.monotonic()
    with pytest.raises(SessionBusy):
        await take_turn(rig.claims(), wait_s=0.3)
    assert time.monotonic() - began >= 0.3


async def test_a_waiting_retry_is_refused_with_its_own_reason(rig: Rig) -> None:
    await claimed(rig.claims(), req="key")
    with pytest.raises(TurnInProgress):
        await take_turn(rig.claims(), req="key", wait_s=0.1)


async def test_a_request_that_does_not_wait_is_refused_at_its_first_read(rig: Rig) -> None:
    await claimed(rig.claims())
    rig.faults.calls.clear()
    with pytest.raises(SessionBusy):
        await rig.claims().claim_or_wait(KEY, None, "hello", LEASE_S, wait_s=0.0)
    assert rig.faults.operations() == ["newest"]


async def test_waiting_polls_with_reads_only(rig: Rig) -> None:
    """Polling with the conditional write throttles the table and is billed as writes; so do too many reads."""
    await claimed(rig.claims())
    rig.faults.calls.clear()
    with pytest.raises(SessionBusy):
        await rig.claims().claim_or_wait(KEY, None, "hello", LEASE_S, wait_s=0.3)
    assert 2 < len(rig.faults.calls) <= 6  # after 25 to 50, 50 to 100, 100 to 200 ms …
    assert set(rig.faults.operations()) == {"newest"}


async def test_a_free_session_is_claimed_without_waiting(rig: Rig) -> None:
    clock = Clock()
    claim = await rig.claims(clock=clock).claim_or_wait(KEY, None, "hello", LEASE_S, WAIT_S)
    assert isinstance(claim, Claim)
    assert claim.item.lease == pytest.approx(clock() + LEASE_S, abs=1.0)
    assert rig.faults.operations() == ["newest", "claim"]


async def reads(rig: Rig, count: int) -> None:
    """Return when so many reads have been made: who polls has met the busy session by then."""
    async with asyncio.timeout(WAIT_S):
        while rig.faults.operations().count("newest") < count:
            await asyncio.sleep(0.01)
