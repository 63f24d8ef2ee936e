"""What a turn costs on the wire to DynamoDB, at any length of its session."""

import json
from collections.abc import Sequence

import pytest

from app.sessions import SessionKey
from tests.conformance.stores.rig import WINDOW, WireRig, numbers, take_turn
from tests.faults import Call

pytestmark = pytest.mark.anyio

# What lists a session, in the commit of its first turn.
LISTED = len('"principal":{"S":"principal"},"created":{"N":"1764036123.456"},')


async def calls_of_turn(rig: WireRig, number: int) -> Sequence[Call]:
    """Let the session grow to the turn before, take that turn, and return the requests it made."""
    rig.grow(number - 1)
    rig.faults.calls.clear()
    assert (await take_turn(rig.claims(), "x" * 1000)).number == number
    return list(rig.faults.calls)


def written(calls: Sequence[Call], number: int) -> list[int]:
    """Return the bytes of each write, without the digits of the turn's own number."""
    return [len(call.body) - len(str(number)) for call in calls if call.operation != "newest"]


def read(calls: Sequence[Call], number: int) -> int:
    """Return the bytes that the one read answered, without the digits of the turns' numbers and of the last key's."""
    last = number - 1 - WINDOW
    digits = "".join(str(turn) for turn in (last, *range(last, number)))
    return calls[0].answer_bytes - len(digits)


async def test_a_turn_is_three_calls_and_its_writes_do_not_grow_with_its_session(wire_rig: WireRig) -> None:
    turns = {number: await calls_of_turn(wire_rig, number) for number in (1, 2, 100, 1000)}
    assert numbers(await wire_rig.items()) == list(range(1, 1001))
    for calls in turns.values():
        assert [call.operation for call in calls] == ["newest", "claim", "commit"]
    assert written(turns[2], 2) == written(turns[100], 100) == written(turns[1000], 1000)
    claim, commit = written(turns[2], 2)
    assert written(turns[1], 1) == [claim, commit + LISTED]
    assert read(turns[1000], 1000) == read(turns[100], 100)


async def test_a_replay_is_one_read(wire_rig: WireRig) -> None:
    await take_turn(wire_rig.claims(), req="key")
    wire_rig.faults.calls.clear()
    await take_turn(wire_rig.claims(), req="key")
    assert wire_rig.faults.operations() == ["newest"]


async def test_the_read_is_strongly_consistent(wire_rig: WireRig) -> None:
    """No local server serves stale reads, so the suite could not miss this otherwise."""
    await take_turn(wire_rig.claims())
    assert json.loads(wire_rig.faults.calls[0].body)["ConsistentRead"] is True


async def test_numbers_are_one_strongly_consistent_query(wire_rig: WireRig) -> None:
    """And no GetItem, for which the role has no permission."""
    await wire_rig.store.numbers(SessionKey("principal", "~counter"), 7)
    [call] = wire_rig.faults.calls
    assert call.operation == "numbers"
    assert json.loads(call.body)["ConsistentRead"] is True
