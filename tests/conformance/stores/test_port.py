"""What a SessionStore promises by itself, call by call (`app.sessions.SessionStore`)."""

import time
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
from tests.faults import seeded
from tests.servers import CREDENTIALS, REGION

pytestmark = pytest.mark.anyio

NOW = int(time.time())
OPEN = TurnItem(turn=1, run="run", req="req", expires=NOW + 3600, lease=NOW + 30.5)
COUNTER = SessionKey("principal", "~counter")
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
    values = await together(*[stores[n % 4].count(COUNTER, 7, NOW + 3600) for n in range(rig.crowd)])
    assert sorted(values) == list(range(1, rig.crowd + 1))


@pytest.mark.parametrize(
    ("key", "window"),
    [(COUNTER, 8), (SessionKey("principal2", "~counter"), 7), (SessionKey("principal", "~other"), 7)],
    ids=["window", "principal", "name"],
)
async def test_another_counter_begins_by_itself(rig: Rig, key: SessionKey, window: int) -> None:
    assert [await rig.store.count(COUNTER, 7, NOW + 3600) for _ in range(3)] == [1, 2, 3]
    assert await rig.store.count(key, window, NOW + 3600) == 1
    assert await rig.store.count(COUNTER, 7, NOW + 3600) == 4


async def test_a_counter_changes_no_session_and_is_not_listed(rig: Rig) -> None:
    await store_turns(rig.store, 1)
    await rig.store.count(COUNTER, 1, NOW + 3600)
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


@pytest.mark.parametrize("answer", [{}, {"Attributes": {}}, {"Attributes": {"used": {"S": "1"}}}, {"Attributes": None}])
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
                await store.count(COUNTER, 7, NOW + 3600)
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
            store.count(COUNTER, 7, NOW + 3600),
            store.ping(),
        ):
            with pytest.raises(StoreUnavailable):
                await call
