"""A principal's list of sessions: those whose first turn is done, those that began last first."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from app.sessions import SessionKey, SessionStart, TurnItem
from app.sessions.sqlite import SQLiteStore
from tests.conformance.stores.rig import KEEP_S, KEY, Clock, Rig, claimed, take_turn

pytestmark = pytest.mark.anyio


async def begin(rig: Rig, clock: Clock, *session_ids: str, principal: str = "principal") -> None:
    """Take the first two turns of each session, a second after those of the one before."""
    for session_id in session_ids:
        key = SessionKey(principal, session_id)
        await take_turn(rig.claims(clock=clock), key=key)
        await take_turn(rig.claims(clock=clock), key=key)
        clock.advance(1)


async def ids(rig: Rig, limit: int = 10, before: SessionStart | None = None, principal: str = "principal") -> list[str]:
    return [each.session_id for each in await rig.store.list_sessions(principal, limit, before)]


async def test_sessions_come_newest_first_each_once(rig: Rig) -> None:
    await begin(rig, Clock(), "a", "c", "b")
    assert await ids(rig) == ["b", "c", "a"]


async def test_a_session_says_when_it_began_and_how_long_its_first_turn_is_kept(rig: Rig) -> None:
    clock = Clock()
    began = clock()
    await begin(rig, clock, "a")
    assert list(await rig.store.list_sessions("principal", 10)) == [SessionStart("a", began, int(began) + KEEP_S)]


async def test_pages_join_without_gap_or_repetition_even_of_sessions_of_one_moment(rig: Rig) -> None:
    clock = Clock()
    for number in range(7):
        await take_turn(rig.claims(clock=clock), key=SessionKey("principal", f"s{number}"))
        clock.advance(number // 5)
    found: list[SessionStart] = []
    for _ in range(5):
        found += await rig.store.list_sessions("principal", 2, found[-1] if found else None)
    assert sorted(each.session_id for each in found) == [f"s{number}" for number in range(7)]
    assert [each.created for each in found] == sorted((each.created for each in found), reverse=True)


async def test_another_principals_sessions_are_not_listed(rig: Rig) -> None:
    """Not even those of one whose name the first one's begins, or which is as long."""
    await begin(rig, Clock(), "mine")
    await begin(rig, Clock(), "theirs", principal="principal2")
    await begin(rig, Clock(), "theirs", principal="principle")
    assert await ids(rig) == ["mine"]
    assert await ids(rig, principal="nobody") == []


async def test_a_principal_may_hold_what_parts_it_from_its_session(rig: Rig) -> None:
    """As an ARN does. What is left of a key after the first part must not pass for a session of that part's."""
    for name in ("principal/admin", "principal/"):
        await begin(rig, Clock(), "mine", principal=name)
        assert await ids(rig) == []
        assert await ids(rig, principal=name) == ["mine"]


async def test_a_session_whose_first_turn_is_open_is_not_listed(rig: Rig) -> None:
    await claimed(rig.claims())
    assert await ids(rig) == []


async def test_a_deleted_session_is_not_listed(rig: Rig) -> None:
    await begin(rig, Clock(), "session")
    await rig.store.delete(KEY)
    assert await ids(rig) == []


async def test_a_file_of_an_older_version_is_kept_and_lists_what_begins_from_now_on(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as old:
        old.executescript(
            "CREATE TABLE turns (pk TEXT NOT NULL, turn INTEGER NOT NULL, run TEXT NOT NULL, req TEXT NOT NULL,"
            " expires INTEGER NOT NULL, lease REAL, body BLOB, PRIMARY KEY (pk, turn)) WITHOUT ROWID;"
            "INSERT INTO turns VALUES ('principal/session', 1, 'run', 'req', 9999999999, NULL, x'7b7d');"
        )
    item = TurnItem(1, "new", "req", int(time.time()) + KEEP_S, created=3.5)
    async with SQLiteStore(path) as store:
        assert [each.body for each in await store.newest(KEY, 1)] == [b"{}"]
        assert await store.claim(SessionKey("principal", "new"), item)
        assert await store.commit(SessionKey("principal", "new"), item)
        assert [each.session_id for each in await store.list_sessions("principal", 10)] == ["new"]
    async with SQLiteStore(path) as again:
        assert len(await again.list_sessions("principal", 10)) == 1
