"""Deletion and expiry."""

import pytest

from app.errors import LeaseLost
from tests.conformance.stores.rig import (
    KEEP_S,
    KEY,
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


async def test_a_delete_leaves_nothing(rig: Rig) -> None:
    for _ in range(3):
        await take_turn(rig.claims())
    await claimed(rig.claims())
    await rig.store.delete(KEY)
    assert await rig.items() == []


async def test_a_deleted_session_begins_again_at_one(rig: Rig) -> None:
    agent = Recorder()
    await take_turn(rig.claims(), req="key")
    await rig.store.delete(KEY)
    turn = await take_turn(rig.claims(), agent=agent, req="key")
    assert turn.number == 1
    assert list(agent.seen[0].history) == []


async def test_a_commit_after_a_delete_resurrects_nothing(rig: Rig) -> None:
    claims = rig.claims()
    await take_turn(claims)
    claim = await claimed(claims)
    await rig.store.delete(KEY)
    with pytest.raises(LeaseLost):
        await claims.commit(claim, answered(claim), limit_s=1.0)
    assert await rig.items() == []


async def test_a_commit_after_a_delete_leaves_the_new_session_alone(rig: Rig) -> None:
    """The numbers begin again, so the late commit finds another run's turn under its own number."""
    claims = rig.claims()
    claim = await claimed(claims)
    await rig.store.delete(KEY)
    turn = await take_turn(claims, "new")
    with pytest.raises(LeaseLost):
        await claims.commit(claim, answered(claim), limit_s=1.0)
    await claims.release(claim)
    assert await rig.transcript() == [turn]


async def test_a_turn_that_runs_during_a_delete_is_told_and_leaves_nothing(rig: Rig) -> None:
    gate, other = Gate(), await rig.replica()
    running = start(rig.claims(), agent=gate)
    await gate.started()
    await other.delete(KEY)
    gate.open()
    with pytest.raises(LeaseLost):
        await end(running)
    assert await rig.items() == []


async def test_an_expired_turn_is_invisible_and_its_number_is_not_used_again(rig: Rig) -> None:
    clock, agent = Clock(), Recorder()
    claims = rig.claims(clock=clock)
    await take_turn(claims)
    clock.advance(KEEP_S)
    turn = await take_turn(claims, agent=agent)
    assert list(agent.seen[0].history) == []
    assert numbers(await rig.items()) == [1, turn.number] == [1, 2]


async def test_a_turn_is_visible_until_it_expires(rig: Rig) -> None:
    clock, agent = Clock(), Recorder()
    claims = rig.claims(clock=clock)
    await take_turn(claims)
    clock.advance(KEEP_S / 2)
    kept = await take_turn(claims)
    clock.advance(KEEP_S / 2 + 1)
    await take_turn(claims, agent=agent)
    assert list(agent.seen[0].history) == [kept]


async def test_a_key_expires_with_its_turn(rig: Rig) -> None:
    clock = Clock()
    claims = rig.claims(clock=clock)
    await take_turn(claims, req="key")
    clock.advance(KEEP_S + 1)
    assert (await take_turn(claims, "another message", req="key")).number == 2


async def test_an_expired_open_turn_is_taken_over(rig: Rig) -> None:
    clock = Clock()
    claims = rig.claims(clock=clock)
    await claimed(claims)
    clock.advance(KEEP_S + 1)
    assert (await take_turn(claims)).number == 1
