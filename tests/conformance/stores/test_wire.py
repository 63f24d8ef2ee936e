"""What a turn costs on the wire to DynamoDB, at any length of its session."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from app.sessions import TurnItem
from tests.conformance.stores.faults import Call
from tests.conformance.stores.rig import KEY, WINDOW, Rig, numbers, take_turn, together

pytestmark = pytest.mark.anyio

AT_ONCE = 20


async def grow(rig: Rig, turns: int) -> None:
    """Let the session grow to so many turns, all like its newest one."""
    [like] = await rig.store.newest(KEY, 1)
    for first in range(like.turn + 1, turns + 1, AT_ONCE):
        await together(*[_put(rig, replace(like, turn=n)) for n in range(first, min(first + AT_ONCE, turns + 1))])


async def _put(rig: Rig, done: TurnItem) -> None:
    assert await rig.store.claim(KEY, replace(done, lease=1.0, body=None))
    assert await rig.store.commit(KEY, done)


async def calls_of_next_turn(rig: Rig, number: int) -> Sequence[Call]:
    rig.faults.calls.clear()
    assert (await take_turn(rig.claims(), "x" * 1000)).number == number
    return list(rig.faults.calls)


def written(calls: Sequence[Call], number: int) -> list[int]:
    """Return the bytes of each write, without the digits of the turn's own number."""
    return [call.body_bytes - len(str(number)) for call in calls if call.operation != "newest"]


async def test_a_turn_is_one_read_and_two_writes_of_the_same_size_at_any_number(dynamodb_rig: Rig) -> None:
    first = await calls_of_next_turn(dynamodb_rig, 1)
    assert [call.operation for call in first] == ["newest", "claim", "commit"]
    for number in (100, dynamodb_rig.longest):
        await grow(dynamodb_rig, number - 1)
        calls = await calls_of_next_turn(dynamodb_rig, number)
        assert [call.operation for call in calls] == ["newest", "claim", "commit"]
        assert written(calls, number) == written(first, 1)
        assert calls[0].body_bytes == first[0].body_bytes
    assert numbers(await dynamodb_rig.items()) == list(range(1, dynamodb_rig.longest + 1))


async def test_a_replay_is_one_read(dynamodb_rig: Rig) -> None:
    await take_turn(dynamodb_rig.claims(), req="key")
    dynamodb_rig.faults.calls.clear()
    await take_turn(dynamodb_rig.claims(), req="key")
    assert dynamodb_rig.faults.operations() == ["newest"]


async def test_a_read_is_bounded_by_the_window(dynamodb_rig: Rig) -> None:
    await take_turn(dynamodb_rig.claims(), "x" * 1000)
    await grow(dynamodb_rig, WINDOW * 2)
    assert len(await dynamodb_rig.store.newest(KEY, WINDOW)) == WINDOW
