"""What the SQLite file promises beyond the port: it outlives its processes and is shared by them."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import IO

import pytest

from app.errors import StoreRefused, StoreUnavailable
from app.sessions.sqlite import BUSY_S, SQLiteStore
from tests.conformance.stores.rig import KEEP_S, KEY, Clock, numbers, on_sqlite, take_turn
from tests.conformance.stores.writer import LEASE_S, WAIT_S

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[3]
WRITERS = 4
TURNS = 5


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.db"


async def test_turns_survive_a_restart(path: Path) -> None:
    async with on_sqlite(path) as rig:
        turn = await take_turn(rig.claims())
    async with on_sqlite(path) as rig:
        assert await rig.transcript() == [turn]


async def test_opening_the_file_forgets_what_expired_and_nothing_else(path: Path) -> None:
    async with on_sqlite(path) as rig:
        await take_turn(rig.claims(clock=Clock(-KEEP_S - 60)))
        kept = await take_turn(rig.claims())
    async with on_sqlite(path) as rig:
        assert await rig.transcript() == [kept]
        assert kept.number == 2
        assert (await take_turn(rig.claims())).number == 3


async def test_a_counter_survives_a_restart_until_it_expires(path: Path) -> None:
    now = int(time.time())
    async with SQLiteStore(path) as store:
        for window, expires in ((1, now - 60), (2, now + 60)):
            await store.add(KEY, window, {"turns": 1, "microusd": 5}, expires)
    async with SQLiteStore(path) as store:
        assert [await store.numbers(KEY, window) for window in (1, 2)] == [{}, {"turns": 1, "microusd": 5}]


async def test_a_file_of_an_older_version_counts(path: Path) -> None:
    async with on_sqlite(path) as rig:
        turn = await take_turn(rig.claims())
    with closing(sqlite3.connect(path)) as old:
        old.execute("DROP TABLE numbers")
    async with on_sqlite(path) as rig:
        assert await rig.store.add(KEY, 1, {"turns": 1}, int(time.time()) + 60) == {"turns": 1}
        assert await rig.transcript() == [turn]


async def test_opening_waits_for_another_that_is_just_opening(path: Path) -> None:
    """A new file is switched to WAL, for which SQLite itself does not wait."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.executescript("CREATE TABLE other (id); BEGIN IMMEDIATE;")
        async with SQLiteStore(path) as store:
            ping = asyncio.create_task(store.ping())
            _, waiting = await asyncio.wait([ping], timeout=BUSY_S / 10)
            assert waiting == {ping}
            other.execute("COMMIT")
            await ping


async def test_opening_gives_up_on_a_file_that_stays_locked(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.executescript("CREATE TABLE other (id); BEGIN IMMEDIATE;")
        async with SQLiteStore(path) as store:
            with pytest.raises(
                StoreUnavailable, match=r"^the SQLite session file cannot be used: SQLITE_BUSY$"
            ) as caught:
                await store.ping()
    assert not isinstance(caught.value, StoreRefused)  # it may be free in a moment


async def test_a_write_waits_for_another_process_so_long_and_no_longer(path: Path) -> None:
    async with SQLiteStore(path) as store:
        await store.ping()
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            began = time.monotonic()
            with pytest.raises(StoreUnavailable, match="SQLITE_BUSY"):
                await store.delete(KEY)
            assert BUSY_S * 0.9 <= time.monotonic() - began < BUSY_S + 1


async def test_a_file_that_can_never_be_used_is_said_so_with_the_kind_of_error(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database, and longer than its header would be" * 10)
    for path, told in (
        (tmp_path / "absent" / "sessions.db", "the SQLite session file cannot be used: SQLITE_CANTOPEN"),
        (tmp_path / "text", "the SQLite session file cannot be used"),
    ):
        async with SQLiteStore(path) as store:
            for _ in range(2):
                with pytest.raises(StoreRefused) as caught:
                    await store.ping()
                assert str(caught.value) == told


async def test_a_store_that_could_not_be_opened_is_opened_when_it_can_be(tmp_path: Path) -> None:
    async with SQLiteStore(tmp_path / "later" / "sessions.db") as store:
        with pytest.raises(StoreRefused):
            await store.ping()
        (tmp_path / "later").mkdir()
        await store.ping()


async def test_an_acknowledged_turn_is_on_the_disk_and_a_closed_store_holds_nothing(path: Path) -> None:
    async with on_sqlite(path) as rig:
        await take_turn(rig.claims())
        with closing(sqlite3.connect(path)) as other:
            assert other.execute("SELECT turn, length(body) > 0 FROM turns").fetchall() == [(1, 1)]
        assert path.with_name("sessions.db-wal").exists()
    assert not path.with_name("sessions.db-wal").exists()  # which the last connection takes with it


@contextmanager
def writer(path: Path, name: int) -> Iterator[subprocess.Popen[str]]:
    """Start a process that will take its turns when it is told to, and wait for its end."""
    command = [sys.executable, "-m", "tests.conformance.stores.writer", str(path), str(name), str(TURNS)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
            process.wait(WAIT_S)
        finally:
            process.kill()


def stream(file: IO[str] | None) -> IO[str]:
    assert file is not None
    return file


async def test_processes_share_a_file_and_are_killed_without_loss(path: Path) -> None:
    """Each of them dies holding the session, so the others go on when its lease is over."""
    with ExitStack() as stack:
        processes = [stack.enter_context(writer(path, name)) for name in range(WRITERS)]
        assert [stream(process.stdout).readline() for process in processes] == ["ready\n"] * WRITERS
        for process in processes:
            stream(process.stdin).write("begin\n")
            stream(process.stdin).flush()
    assert [process.returncode for process in processes] == [-signal.SIGKILL] * WRITERS

    clock = Clock(LEASE_S + 1)
    async with on_sqlite(path) as rig:
        stored = await rig.transcript()
        assert (await take_turn(rig.claims(clock=clock))).number == WRITERS * TURNS + 1
    assert numbers(stored) == list(range(1, WRITERS * TURNS + 1))
    assert len({turn.message for turn in stored}) == WRITERS * TURNS
    for n, turn in enumerate(stored):
        assert turn.answer == "".join(f"[{done.message}]" for done in stored[:n])
