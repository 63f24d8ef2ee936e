"""Requests refused, replies lost, processes that die: nothing acknowledged is lost, nothing is stored twice."""

import asyncio
from collections import Counter
from contextlib import suppress

import pytest

from app.errors import SessionBusy, SessionConflict, StoreUnavailable
from app.events import Turn
from app.sessions import SessionKey
from app.sessions import claims as claims_module
from app.sessions.claims import Claims
from tests.conformance.stores.rig import (
    KEY,
    LEASE_S,
    LIMIT_S,
    Clock,
    Recorder,
    Rig,
    WireRig,
    answered,
    claimed,
    numbers,
    take_turn,
    together,
)
from tests.faults import STORE_ATTEMPTS, SUDDEN, Fault, Operation, seeded

pytestmark = pytest.mark.anyio

OF_A_TURN: tuple[Operation, ...] = ("newest", "claim", "commit")


@pytest.mark.parametrize("fault", SUDDEN, ids=lambda fault: fault.name)
@pytest.mark.parametrize("operation", OF_A_TURN)
async def test_one_fault_on_any_call_of_a_turn_is_not_noticed(rig: Rig, operation: Operation, fault: Fault) -> None:
    """A lost reply of the claim is the subtle one: repeated, it is refused, and the turn is ours all the same."""
    first, agent = await take_turn(rig.claims()), Recorder()
    rig.faults.plan(operation, fault)
    turn = await take_turn(rig.claims(), agent=agent)
    assert rig.faults.met(fault) == 1
    assert await rig.transcript() == [first, turn]
    assert [list(seen.history) for seen in agent.seen] == [[first]]


@pytest.mark.parametrize("fault", SUDDEN, ids=lambda fault: fault.name)
async def test_one_fault_on_a_takeover_is_not_noticed(rig: Rig, fault: Fault) -> None:
    clock = Clock()
    claims = rig.claims(clock=clock)
    await claimed(claims)
    clock.advance(LEASE_S + 1)
    rig.faults.plan("claim", fault)
    turn = await take_turn(claims)
    assert rig.faults.met(fault) == 1
    assert await rig.transcript() == [turn]


async def test_a_run_that_recognised_its_claim_sees_a_whole_window(rig: Rig) -> None:
    """Its own open item stands in the page that was read again, and is no part of the history."""
    claims = rig.claims(window=3)
    turns = [await take_turn(claims) for _ in range(5)]
    rig.faults.plan("claim", Fault.REPLY_LOST)
    assert list((await claimed(claims)).history) == turns[-3:]


@pytest.mark.parametrize("fault", SUDDEN, ids=lambda fault: fault.name)
@pytest.mark.parametrize("operation", ["newest", "claim"])
async def test_a_request_that_the_store_never_answered_can_be_repeated_at_once(
    rig: Rig, operation: Operation, fault: Fault
) -> None:
    """Even if its claim was applied: it is given back, and nobody waits for its lease."""
    rig.faults.plan(operation, *[fault] * STORE_ATTEMPTS)
    with pytest.raises(StoreUnavailable):
        await take_turn(rig.claims(), req="key")
    turn = await take_turn(rig.claims(), req="key")
    assert rig.faults.met(fault) == STORE_ATTEMPTS
    assert await rig.transcript() == [turn]


async def test_a_claim_that_landed_in_the_last_attempt_is_given_back(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims_module, "ATTEMPTS", 1)
    rig.faults.plan("claim", Fault.REPLY_LOST)
    with pytest.raises(SessionBusy):
        await take_turn(rig.claims())
    assert await rig.items() == []


async def test_a_claim_that_landed_before_the_store_fell_silent_is_given_back(rig: Rig) -> None:
    rig.faults.plan("claim", Fault.REPLY_LOST)
    rig.faults.plan("newest", None, *[Fault.BROKEN] * STORE_ATTEMPTS)
    with pytest.raises(StoreUnavailable):
        await take_turn(rig.claims())
    assert await rig.items() == []


@pytest.mark.parametrize("fault", SUDDEN, ids=lambda fault: fault.name)
async def test_a_commit_is_tried_beyond_the_stores_own_attempts(rig: Rig, fault: Fault) -> None:
    agent = Recorder()
    rig.faults.plan("commit", *[fault] * (STORE_ATTEMPTS + 1))
    turn = await take_turn(rig.claims(), agent=agent)
    assert rig.faults.met(fault) == STORE_ATTEMPTS + 1
    assert await rig.transcript() == [turn]
    assert len(agent.seen) == 1


async def test_a_commit_that_is_never_answered_ends_at_its_limit(rig: Rig) -> None:
    claims = rig.claims(clock=Clock())
    claim = await claimed(claims)
    rig.faults.plan("commit", *[Fault.BROKEN] * 10 * STORE_ATTEMPTS)
    with pytest.raises(StoreUnavailable):
        await claims.commit(claim, answered(claim), limit_s=0.3)
    assert await rig.items() == [claim.item]


async def test_a_stored_turn_whose_commit_was_never_acknowledged_is_replayed(rig: Rig) -> None:
    claims, agent = rig.claims(), Recorder()
    claim = await claimed(claims, req="key")
    rig.faults.plan("commit", *[Fault.REPLY_LOST] * STORE_ATTEMPTS)
    with pytest.raises(StoreUnavailable):
        await claims.commit(claim, answered(claim), limit_s=0.0)
    await claims.release(claim)  # as the turn's task does on its way out
    assert await take_turn(claims, agent=agent, req="key") == answered(claim)
    assert agent.seen == []


async def test_a_release_is_tried_until_it_is_answered_and_then_no_more(rig: Rig) -> None:
    claims = rig.claims()
    claim = await claimed(claims)
    rig.faults.plan("release", *[Fault.BROKEN] * (STORE_ATTEMPTS + 1))
    await claims.release(claim, LIMIT_S)
    assert await rig.items() == []
    assert rig.faults.operations().count("release") == STORE_ATTEMPTS + 2


async def test_a_release_that_is_never_answered_is_let_be(rig: Rig) -> None:
    clock = Clock()
    claims = rig.claims(clock=clock)
    claim = await claimed(claims)
    rig.faults.plan("release", *[Fault.BROKEN] * STORE_ATTEMPTS)
    await claims.release(claim)
    assert await rig.items() == [claim.item]
    clock.advance(LEASE_S + 1)
    assert (await take_turn(claims)).number == 1


@pytest.mark.parametrize("fault", SUDDEN, ids=lambda fault: fault.name)
async def test_one_fault_on_a_delete_is_not_noticed(rig: Rig, fault: Fault) -> None:
    await take_turn(rig.claims())
    rig.faults.plan("delete", fault)
    await rig.store.delete(KEY)
    assert rig.faults.met(fault) == 1
    assert await rig.items() == []


async def test_one_hanging_call_of_each_kind_is_not_noticed(wire_rig: WireRig) -> None:
    """Three sessions at once, so that the three timeouts pass together."""
    agent = Recorder()
    keys = [SessionKey("principal", operation) for operation in OF_A_TURN]
    for operation in OF_A_TURN:
        wire_rig.faults.plan(operation, Fault.HUNG)
    turns = await together(*[take_turn(wire_rig.claims(), agent=agent, key=key) for key in keys])
    assert wire_rig.faults.met(Fault.HUNG) == len(OF_A_TURN)
    assert [await wire_rig.transcript(key) for key in keys] == [[turn] for turn in turns]
    assert len(agent.seen) == len(keys)


async def test_a_store_that_always_hangs_is_given_up(wire_rig: WireRig) -> None:
    wire_rig.faults.plan("newest", *[Fault.HUNG] * STORE_ATTEMPTS)
    with pytest.raises(StoreUnavailable):
        await take_turn(wire_rig.claims())
    assert wire_rig.faults.operations() == ["newest"] * STORE_ATTEMPTS


async def test_through_faults_no_key_runs_its_agent_twice(rig: Rig) -> None:
    """Each request is sent twice at once, to different replicas, and again until it is acknowledged."""
    agent = Recorder()
    replicas = [rig.claims(), rig.claims(await rig.replica())]

    async def send(claims: Claims, message: str) -> Turn:
        while True:
            with suppress(SessionConflict, StoreUnavailable):
                return await take_turn(claims, message, agent=agent, req=message, wait_s=LIMIT_S)

    rig.faults.at_random(seeded(63), rate=0.1)
    async with asyncio.timeout(2 * LIMIT_S):
        turns = await together(*[send(claims, f"message {n}") for n in range(10) for claims in replicas])
    rig.faults.at_random(seeded(63), rate=0)
    assert turns[::2] == turns[1::2]
    assert sorted(turns[::2], key=lambda turn: turn.number) == await rig.transcript()
    assert sorted(seen.message for seen in agent.seen) == [f"message {n}" for n in range(10)]
    assert min(rig.faults.met(fault) for fault in SUDDEN) > 0


class Client:
    """A client on one session that repeats each request until it is acknowledged, through processes that die."""

    def __init__(self, name: int, claims: Claims) -> None:
        self.acknowledged: list[Turn] = []
        self.events: Counter[str] = Counter()
        self._name = name
        self._claims = claims
        self._deaths = {0: ["before the commit"], 1: ["after the commit"]}.get(name % 4, [])

    async def take_turns(self, count: int) -> None:
        for number in range(count):
            message = f"message {number} of {self._name}"
            while not await self._request(message):
                await asyncio.sleep(0.01)

    async def _request(self, message: str) -> bool:
        """Try once, with the message as its own idempotency key, and return whether it was acknowledged."""
        try:
            claim = await self._claims.claim_or_wait(KEY, message, message, lease_s=0.5, wait_s=1.0)
            if isinstance(claim, Turn):
                self.events["replayed"] += 1
                return self._acknowledge(claim)
            if self._dies("before the commit"):
                return False
            turn = answered(claim, message, "".join(f"[{done.message}]" for done in claim.history))
            await self._claims.commit(claim, turn, limit_s=0.5)
        except (SessionConflict, StoreUnavailable) as error:
            self.events[type(error).__name__] += 1
            return False
        return not self._dies("after the commit") and self._acknowledge(turn)

    def _acknowledge(self, turn: Turn) -> bool:
        self.acknowledged.append(turn)
        return True

    def _dies(self, when: str) -> bool:
        if when not in self._deaths:
            return False
        self._deaths.remove(when)
        self.events[f"died {when}"] += 1
        return True


async def test_through_faults_and_crashes_every_acknowledged_turn_is_stored_once(rig: Rig) -> None:
    replicas = [rig.claims(await rig.replica(), window=60) for _ in range(4)]
    clients = [Client(n, replicas[n % 4]) for n in range(20)]
    rig.faults.at_random(seeded(60), rate=0.1)
    async with asyncio.timeout(100):
        await together(*[client.take_turns(3) for client in clients])
    rig.faults.at_random(seeded(60), rate=0)

    stored = await rig.transcript()
    acknowledged = [turn for client in clients for turn in client.acknowledged]
    assert sorted(acknowledged, key=lambda turn: turn.number) == stored
    assert numbers(stored) == list(range(1, 61))
    assert len({turn.message for turn in stored}) == 60
    for n, turn in enumerate(stored):
        assert turn.answer == "".join(f"[{done.message}]" for done in stored[:n])

    events = sum((client.events for client in clients), Counter[str]())
    assert (events["died before the commit"], events["died after the commit"]) == (5, 5)
    assert events["replayed"] >= 5
    assert min(rig.faults.met(fault) for fault in SUDDEN) > 0
