"""Cancelling a turn: what its holder sees of that, and what who cancelled is told."""

import asyncio

import pytest

from app.errors import LeaseLost, SessionNotFound
from app.sessions import SessionKey
from app.sessions.claims import CANCEL_S, Claims, Standing
from tests.conformance.stores.rig import (
    KEEP_S,
    KEY,
    LEASE_S,
    LIMIT_S,
    Clock,
    Rig,
    answered,
    claimed,
    take_turn,
)

pytestmark = pytest.mark.anyio

COMMIT_S = 1.0


def later(seconds: float = LIMIT_S) -> float:
    return asyncio.get_running_loop().time() + seconds


async def until_cancelled(claims: Claims, rig: Rig) -> None:
    """Return when the lease of the session's open turn has been shortened."""
    async with asyncio.timeout(LIMIT_S):
        while (await rig.items())[-1].lease == claims.clock() + LEASE_S:
            await asyncio.sleep(0.01)


async def test_a_claim_stands_until_somebody_wants_its_end(rig: Rig) -> None:
    claims = rig.claims(clock=Clock())
    await take_turn(claims)
    claim = await claimed(claims)
    assert await claims.standing(claim) is Standing.HELD
    cancelling = asyncio.create_task(claims.cancel(KEY, later()))
    await until_cancelled(claims, rig)
    assert await claims.standing(claim) is Standing.CANCELLED
    await claims.commit(claim, answered(claim), COMMIT_S)
    assert await cancelling == answered(claim)
    assert await claims.standing(claim) is Standing.HELD


async def test_a_claim_that_was_given_back_or_deleted_is_gone(rig: Rig) -> None:
    claims = rig.claims()
    await take_turn(claims)
    claim = await claimed(claims)
    await claims.release(claim)
    assert await claims.standing(claim) is Standing.GONE
    claim = await claimed(claims)
    await rig.store.delete(KEY)
    assert await claims.standing(claim) is Standing.GONE


async def test_a_claim_that_another_run_took_over_is_taken(rig: Rig) -> None:
    clock = Clock()
    claims = rig.claims(clock=clock)
    claim = await claimed(claims)
    clock.advance(LEASE_S)
    taker = await claimed(claims)
    assert await claims.standing(claim) is Standing.TAKEN
    assert await claims.standing(taker) is Standing.HELD
    await claims.commit(taker, answered(taker), COMMIT_S)
    await take_turn(claims)
    assert await claims.standing(claim) is Standing.TAKEN


@pytest.mark.parametrize(
    ("lease_s", "left_s"), [(LEASE_S, CANCEL_S), (CANCEL_S + 0.5, CANCEL_S - 0.5), (1.0, 0.0)], ids=str
)
async def test_a_cancelled_lease_ends_soon_and_earlier_than_before(rig: Rig, lease_s: float, left_s: float) -> None:
    claims = rig.claims(clock=Clock())
    claim = await claimed(claims, lease_s=lease_s)
    cancelling = asyncio.create_task(claims.cancel(KEY, later()))
    async with asyncio.timeout(LIMIT_S):
        while (items := await rig.items()) == [claim.item]:
            await asyncio.sleep(0.01)
    assert [(item.run, item.lease) for item in items] == [(claim.item.run, claims.clock() + left_s)]
    assert await claims.standing(claim) is Standing.CANCELLED
    await claims.release(claim)
    assert await cancelling is None


async def test_a_turn_whose_holder_does_not_react_is_taken_from_it(rig: Rig) -> None:
    claims = rig.claims()
    first = await take_turn(claims)
    claim = await claimed(claims)
    assert await claims.cancel(KEY, later(-1)) is None
    with pytest.raises(LeaseLost):
        await claims.commit(claim, answered(claim), COMMIT_S)
    assert await rig.transcript() == [first]


async def test_who_cancels_does_not_wait_for_the_next_turn(rig: Rig) -> None:
    clock = Clock()
    claims = rig.claims(clock=clock)
    await claimed(claims)
    cancelling = asyncio.create_task(claims.cancel(KEY, later()))
    await until_cancelled(claims, rig)
    clock.advance(LEASE_S)
    await claimed(claims)
    assert await cancelling is None


async def test_where_nothing_runs_there_is_nothing_to_cancel(rig: Rig) -> None:
    clock = Clock()
    claims = rig.claims(clock=clock)
    with pytest.raises(SessionNotFound):
        await claims.cancel(KEY, later())
    turn = await take_turn(claims)
    assert await claims.cancel(KEY, later()) is None
    with pytest.raises(SessionNotFound):
        await claims.cancel(SessionKey(KEY.principal, "other"), later())
    assert await rig.transcript() == [turn]
    clock.advance(KEEP_S)
    with pytest.raises(SessionNotFound):
        await claims.cancel(KEY, later())
