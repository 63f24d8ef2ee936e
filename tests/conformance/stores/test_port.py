"""What a SessionStore promises by itself, call by call (`app.sessions.SessionStore`)."""

import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from app.errors import StoreUnavailable
from app.sessions import SessionKey, SessionStore, TurnItem
from app.sessions.codec import MAX_BODY_BYTES
from app.sessions.dynamodb import DynamoDBStore
from app.sessions.sqlite import SQLiteStore
from tests.conformance.stores.rig import KEY, Rig, numbers, together
from tests.faults import APPLIED, SUDDEN, Fault, seeded
from tests.servers import CREDENTIALS, REGION

pytestmark = pytest.mark.anyio

NOW = int(time.time())
OPEN = TurnItem(turn=1, run="run", req="req", expires=NOW + 3600, lease=NOW + 30.5)
COUNTER, EXPIRES = SessionKey("principal", "~counter"), NOW + 3600
DONE = replace(OPEN, lease=None, body=b'{"message": "hello"}')


async def store_item(store: SessionStore, item: TurnItem) -> None:
    """Write the item as a run does: claimed, and committed if it is done."""
    assert await store.claim(KEY, replace(OPEN, turn=item.turn))
    if item.body is not None:
        assert await store.commit(KEY, item)


async def store_turns(store: SessionStore, count: int) -> None:
    for number in range(1, count + 1):
        await store_item(store, replace(DONE, turn=number))


async def test_a_session_nobody_used_is_empty(rig: Rig) -> None:
    assert list(await rig.store.newest(KEY, 10)) == []


@pytest.mark.parametrize("item", [OPEN, DONE], ids=["open", "done"])
async def test_an_item_reads_back_equal(rig: Rig, item: TurnItem) -> None:
    await store_item(rig.store, item)
    assert list(await rig.store.newest(KEY, 1)) == [item]


async def test_another_replica_reads_what_one_wrote(rig: Rig) -> None:
    assert await rig.store.claim(KEY, OPEN)
    assert list(await (await rig.replica()).newest(KEY, 1)) == [OPEN]


async def test_items_come_newest_first_up_to_the_limit(rig: Rig) -> None:
    await store_turns(rig.store, 12)  # two digits: the order is of numbers, not of texts
    assert numbers(list(await rig.store.newest(KEY, 4))) == [12, 11, 10, 9]


async def test_a_page_ends_below_the_turn_it_is_asked_for(rig: Rig) -> None:
    await store_turns(rig.store, 5)
    assert numbers(list(await rig.store.newest(KEY, 2, before=4))) == [3, 2]


async def test_a_claim_of_an_absent_turn_wins(rig: Rig) -> None:
    assert await rig.store.claim(KEY, OPEN) is True


@pytest.mark.parametrize("stored", [OPEN, DONE], ids=["open", "done"])
@pytest.mark.parametrize("run", ["run", "other"])
async def test_a_claim_of_a_present_turn_changes_nothing(rig: Rig, stored: TurnItem, run: str) -> None:
    """Not even the holder's own: a repeated claim that arrives late must not wipe what was committed since."""
    await store_item(rig.store, stored)
    assert await rig.store.claim(KEY, replace(OPEN, run=run, req="other")) is False
    assert await rig.items() == [stored]


async def test_a_takeover_from_the_holder_of_an_open_turn_wins(rig: Rig) -> None:
    taker = replace(OPEN, run="taker", req="other", lease=NOW + 60.0)
    await rig.store.claim(KEY, OPEN)
    assert await rig.store.claim(KEY, taker, dead_run=OPEN.run) is True
    assert await rig.items() == [taker]


async def test_a_takeover_from_another_run_changes_nothing(rig: Rig) -> None:
    await rig.store.claim(KEY, OPEN)
    assert await rig.store.claim(KEY, replace(OPEN, run="taker"), dead_run="somebody") is False
    assert await rig.items() == [OPEN]


async def test_a_takeover_of_a_done_turn_changes_nothing(rig: Rig) -> None:
    await store_turns(rig.store, 1)
    assert await rig.store.claim(KEY, replace(OPEN, run="taker"), dead_run=DONE.run) is False
    assert await rig.items() == [DONE]


async def test_a_takeover_of_an_absent_turn_changes_nothing(rig: Rig) -> None:
    assert await rig.store.claim(KEY, OPEN, dead_run="run") is False
    assert await rig.items() == []


async def test_a_commit_by_the_holder_closes_the_turn(rig: Rig) -> None:
    await rig.store.claim(KEY, OPEN)
    assert await rig.store.commit(KEY, DONE) is True
    assert await rig.items() == [DONE]


async def test_a_repeated_commit_is_harmless(rig: Rig) -> None:
    await rig.store.claim(KEY, OPEN)
    assert [await rig.store.commit(KEY, DONE), await rig.store.commit(KEY, DONE)] == [True, True]
    assert await rig.items() == [DONE]


@pytest.mark.parametrize("stored", [OPEN, DONE], ids=["open", "done"])
async def test_a_commit_by_another_run_changes_nothing(rig: Rig, stored: TurnItem) -> None:
    await store_item(rig.store, stored)
    assert await rig.store.commit(KEY, replace(DONE, run="other", body=b"{}")) is False
    assert await rig.items() == [stored]


async def test_a_commit_of_an_absent_turn_changes_nothing(rig: Rig) -> None:
    assert await rig.store.commit(KEY, DONE) is False
    assert await rig.items() == []


async def test_a_release_by_the_holder_removes_an_open_turn(rig: Rig) -> None:
    await rig.store.claim(KEY, OPEN)
    await rig.store.release(KEY, OPEN.turn, OPEN.run)
    assert await rig.items() == []


async def test_a_release_by_another_run_changes_nothing(rig: Rig) -> None:
    await rig.store.claim(KEY, OPEN)
    await rig.store.release(KEY, OPEN.turn, "other")
    assert await rig.items() == [OPEN]


async def test_a_release_never_removes_a_done_turn(rig: Rig) -> None:
    await store_turns(rig.store, 1)
    await rig.store.release(KEY, DONE.turn, DONE.run)
    assert await rig.items() == [DONE]


async def test_a_release_of_an_absent_turn_changes_nothing(rig: Rig) -> None:
    await rig.store.release(KEY, 1, "run")
    assert await rig.items() == []


async def test_a_delete_removes_every_item_of_the_session(rig: Rig) -> None:
    await store_turns(rig.store, 60)  # more than two batches of DynamoDB's
    await rig.store.claim(KEY, replace(OPEN, turn=61))
    await rig.store.delete(KEY)
    assert await rig.items() == []


async def test_a_delete_of_an_empty_session_is_harmless(rig: Rig) -> None:
    await rig.store.delete(KEY)
    assert await rig.items() == []


@pytest.mark.parametrize(
    "other",
    [
        SessionKey("principal", "session2"),
        SessionKey("principal", "sessio"),
        SessionKey("principal2", "session"),
        SessionKey("session", "principal"),
        SessionKey("principal", "Session"),
        SessionKey("principal/session", "s"),
        SessionKey("principal", "session%"),
    ],
    ids=str,
)
async def test_a_call_on_one_session_touches_no_other(rig: Rig, other: SessionKey) -> None:
    await store_turns(rig.store, 1)
    assert await rig.items(other) == []
    assert await rig.store.claim(other, OPEN)
    await rig.store.delete(other)
    assert await rig.items() == [DONE]


async def test_the_largest_body_fits_beside_the_longest_names(rig: Rig) -> None:
    key = SessionKey("p" * 1024, "s" * 128)
    item = replace(OPEN, turn=10**12, created=1_764_036_123.456, run="r" * 32, req="k" * 255)
    done = replace(item, lease=None, body=b"x" + seeded(1).randbytes(MAX_BODY_BYTES - 1))
    assert await rig.store.claim(key, item)
    assert await rig.store.commit(key, done)
    assert await rig.items(key) == [done]


async def test_a_counter_counts_every_call_once_whoever_counts_with_it(rig: Rig) -> None:
    stores = [await rig.replica() for _ in range(4)]
    values = await together(*[stores[n % 4].add(COUNTER, 7, {"turns": 1}, EXPIRES) for n in range(rig.crowd)])
    assert sorted(each["turns"] for each in values if each) == list(range(1, rig.crowd + 1))


@pytest.mark.parametrize(
    ("key", "window"),
    [(COUNTER, 8), (SessionKey("principal2", "~counter"), 7), (SessionKey("principal", "~other"), 7)],
    ids=["window", "principal", "name"],
)
async def test_another_counter_begins_by_itself(rig: Rig, key: SessionKey, window: int) -> None:
    assert [await count(rig) for _ in range(3)] == [1, 2, 3]
    assert await count(rig, key, window) == 1
    assert await count(rig) == 4
    assert [await rig.store.numbers(*each) for each in ((COUNTER, 7), (key, window))] == [{"turns": 4}, {"turns": 1}]


async def count(rig: Rig, key: SessionKey = COUNTER, window: int = 7) -> int | None:
    """Add one to a counter and return what it is now."""
    counted = await rig.store.add(key, window, {"turns": 1}, EXPIRES)
    return counted["turns"] if counted else None


async def test_a_counter_has_numbers_of_many_names_and_any_sign(rig: Rig) -> None:
    assert await rig.store.numbers(COUNTER, 7) == {}
    assert await rig.store.add(COUNTER, 7, {"turns": 1, "taken_tokens": 10**12}, EXPIRES) == {
        "turns": 1,
        "taken_tokens": 10**12,
    }
    assert await rig.store.add(COUNTER, 7, {"taken_tokens": -(10**12) - 5, "microusd": 0}, EXPIRES) == {
        "taken_tokens": -5,
        "microusd": 0,
    }
    assert await rig.store.numbers(COUNTER, 7) == {"turns": 1, "taken_tokens": -5, "microusd": 0}


async def test_what_nothing_is_added_to_is_told_too(rig: Rig) -> None:
    await rig.store.add(COUNTER, 7, {"turns": 3, "microusd": 5}, EXPIRES)
    assert await rig.store.add(COUNTER, 7, {"turns": 0, "microusd": 1}, EXPIRES) == {"turns": 3, "microusd": 6}
    assert await rig.store.add(COUNTER, 7, {"turns": 0}, EXPIRES) == {"turns": 3}


async def test_another_replica_reads_the_numbers_at_once(rig: Rig) -> None:
    other = await rig.replica()
    for expected in range(1, 6):
        await count(rig)
        assert await other.numbers(COUNTER, 7) == {"turns": expected}


@pytest.mark.parametrize(
    "bounds", [{"taken_tokens": 5}, {"taken_microusd": 7}, {"taken_tokens": 6, "taken_microusd": 1}], ids=str
)
async def test_what_has_reached_its_bound_takes_nothing_more(rig: Rig, bounds: dict[str, int]) -> None:
    await rig.store.add(COUNTER, 7, {"taken_tokens": 5, "taken_microusd": 7}, EXPIRES)
    amounts = {"taken_tokens": 1, "turns": 1}
    assert await rig.store.add(COUNTER, 7, amounts, EXPIRES, below=bounds) is None
    assert await rig.store.numbers(COUNTER, 7) == {"taken_tokens": 5, "taken_microusd": 7}


async def test_what_is_below_its_bound_takes_more_however_much(rig: Rig) -> None:
    assert await rig.store.add(COUNTER, 7, {"taken_tokens": 4}, EXPIRES, below={"taken_tokens": 5, "taken_microusd": 1})
    assert await rig.store.add(COUNTER, 7, {"taken_tokens": 90}, EXPIRES, below={"taken_tokens": 5}) == {
        "taken_tokens": 94
    }
    assert await rig.store.add(COUNTER, 7, {"taken_tokens": 90}, EXPIRES, below={"taken_tokens": 5}) is None
    assert await rig.store.add(COUNTER, 7, {"taken_tokens": 1}, EXPIRES) == {"taken_tokens": 95}


async def test_of_a_crowd_that_adds_below_a_bound_exactly_those_that_fit_may(rig: Rig) -> None:
    stores = [await rig.replica() for _ in range(4)]
    bound = 3 * (rig.crowd // 2) - 1  # reached by half of the crowd, at three each
    added = await together(
        *[
            stores[n % 4].add(COUNTER, 7, {"taken_tokens": 3}, EXPIRES, below={"taken_tokens": bound})
            for n in range(rig.crowd)
        ]
    )
    assert sum(each is not None for each in added) == rig.crowd // 2
    assert await rig.store.numbers(COUNTER, 7) == {"taken_tokens": 3 * (rig.crowd // 2)}


@pytest.mark.parametrize("fault", SUDDEN, ids=lambda fault: fault.name)
async def test_what_is_added_once_is_never_added_twice(rig: Rig, fault: Fault) -> None:
    """It is tried again only where it was refused before anything was written."""
    rig.faults.plan("add", fault)
    sure = fault is Fault.THROTTLED
    with nullcontext() if sure else pytest.raises(StoreUnavailable):
        await rig.store.add(COUNTER, 7, {"turns": 1}, EXPIRES, once=True)
    assert await rig.store.numbers(COUNTER, 7) == ({"turns": 1} if sure or fault in APPLIED else {})
    assert rig.faults.operations().count("add") == 1 + sure


@pytest.mark.parametrize("fault", SUDDEN, ids=lambda fault: fault.name)
async def test_one_fault_on_an_add_is_not_noticed_though_it_may_have_added_twice(rig: Rig, fault: Fault) -> None:
    rig.faults.plan("add", fault)
    added = await rig.store.add(COUNTER, 7, {"turns": 1}, EXPIRES)
    assert added == await rig.store.numbers(COUNTER, 7) == {"turns": 1 + (fault in APPLIED)}


async def test_a_counter_changes_no_session_and_is_not_listed(rig: Rig) -> None:
    await store_turns(rig.store, 1)
    await rig.store.add(COUNTER, 1, {"turns": 1}, EXPIRES)
    assert await rig.items() == [DONE]
    assert [each.session_id for each in await rig.store.list_sessions("principal", 10)] == []


async def test_a_ping_answers_and_changes_nothing(rig: Rig) -> None:
    assert await rig.store.claim(KEY, OPEN)
    await rig.store.ping()
    assert await rig.items() == [OPEN]


@pytest.fixture(params=["sqlite", "dynamodb"])
def unreachable(request: pytest.FixtureRequest, tmp_path: Path) -> SessionStore:
    if request.param == "sqlite":
        return SQLiteStore(tmp_path / "absent" / "sessions.db")
    return DynamoDBStore("sessions", REGION, CREDENTIALS, "http://127.0.0.1:1")


@pytest.mark.parametrize(
    "answer", [{}, {"Attributes": {}}, {"Attributes": {"turns": {"S": "1"}}}, {"Attributes": None}]
)
async def test_a_count_that_is_no_number_is_no_answer(answer: dict[str, object]) -> None:
    async def respond(_: web.BaseRequest) -> web.Response:
        return web.json_response(answer)

    runner = web.ServerRunner(web.Server(respond, access_log=None))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        async with DynamoDBStore(
            "sessions", REGION, CREDENTIALS, f"http://127.0.0.1:{runner.addresses[0][1]}"
        ) as store:
            with pytest.raises(StoreUnavailable):
                await store.add(COUNTER, 7, {"turns": 1}, EXPIRES)
    finally:
        await runner.cleanup()


async def test_an_unreachable_store_says_so_on_every_call(unreachable: SessionStore) -> None:
    async with unreachable as store:
        for call in (
            store.newest(KEY, 1),
            store.claim(KEY, OPEN),
            store.commit(KEY, DONE),
            store.release(KEY, 1, "run"),
            store.delete(KEY),
            store.add(COUNTER, 7, {"turns": 1}, EXPIRES),
            store.numbers(COUNTER, 7),
            store.ping(),
        ):
            with pytest.raises(StoreUnavailable):
                await call
