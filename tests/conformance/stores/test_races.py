"""Many at once on one session. Each race shows that it overlapped: everybody had read before anybody wrote."""

import asyncio
from collections.abc import Sequence

import pytest

from app.errors import LeaseLost, SessionBusy
from app.events import Turn
from app.sessions.claims import Claim, Claims
from tests.conformance.stores.forwarding import ReadsTogether
from tests.conformance.stores.rig import (
    KEY,
    LEASE_S,
    LIMIT_S,
    Clock,
    Recorder,
    Rig,
    answered,
    claimed,
    outcome,
    take_turn,
    together,
)

pytestmark = pytest.mark.anyio

RACERS = 12
REPLICAS = 4


async def racers(rig: Rig, count: int, clock: Clock | None = None, window: int = 20) -> list[Claims]:
    """Return the claims of so many requests on a few replicas, none of which writes before all have read."""
    stores = [await rig.replica() for _ in range(REPLICAS)]
    barrier = asyncio.Barrier(count)
    reading = [ReadsTogether(stores[n % REPLICAS], barrier) for n in range(count)]
    return [rig.claims(store, window=window, clock=clock or Clock()) for store in reading]


async def race(claims: Sequence[Claims]) -> list[Claim]:
    """Claim with all at once and return who won; the others were told that the session is busy."""
    results = await together(*[outcome(each.claim(KEY, None, "hello", LEASE_S)) for each in claims])
    assert [r for r in results if not isinstance(r, Claim | SessionBusy)] == []
    return [result for result in results if isinstance(result, Claim)]


async def test_of_many_claims_of_a_new_turn_one_wins(rig: Rig) -> None:
    winners = await race(await racers(rig, RACERS))
    assert [winner.item for winner in winners] == await rig.items()


async def test_of_many_takers_one_wins(rig: Rig) -> None:
    clock = Clock()
    dead = await claimed(rig.claims(clock=clock))
    clock.advance(LEASE_S + 1)
    winners = await race(await racers(rig, RACERS, clock))
    assert [winner.item for winner in winners] == await rig.items()
    with pytest.raises(LeaseLost):
        await rig.claims().commit(dead, answered(dead), limit_s=1.0)


async def test_of_many_requests_with_one_key_one_runs_and_all_answer_the_same(rig: Rig) -> None:
    agent = Recorder()
    requests = await racers(rig, RACERS)
    turns = await together(*[take_turn(claims, agent=agent, req="key", wait_s=LIMIT_S / 2) for claims in requests])
    assert turns == [turns[0]] * RACERS
    assert await rig.transcript() == turns[:1]
    assert len(agent.seen) == 1


async def test_writers_that_wait_are_all_kept_and_each_saw_its_predecessors(rig: Rig) -> None:
    agent = Recorder()
    requests = await racers(rig, rig.crowd, window=rig.crowd)
    turns = await together(
        *[take_turn(claims, f"message {n}", agent=agent, wait_s=LIMIT_S - 1) for n, claims in enumerate(requests)]
    )
    stored = await rig.transcript()
    assert stored == sorted(turns, key=lambda turn: turn.number)
    assert [turn.number for turn in stored] == list(range(1, rig.crowd + 1))
    assert [(list(seen.history), seen.message) for seen in agent.seen] == [
        (stored[:n], turn.message) for n, turn in enumerate(stored)
    ]
    assert agent.peak == 1


async def test_writers_that_do_not_wait_are_kept_or_told(rig: Rig) -> None:
    agent = Recorder()
    requests = await racers(rig, RACERS)
    results = await together(*[outcome(take_turn(claims, agent=agent)) for claims in requests])
    kept = [result for result in results if isinstance(result, Turn)]
    told = [result for result in results if isinstance(result, SessionBusy)]
    assert len(kept) + len(told) == RACERS
    assert sorted(kept, key=lambda turn: turn.number) == await rig.transcript()
    assert agent.peak == 1
