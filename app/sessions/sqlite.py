"""SessionStore in one SQLite file: the embedded default for a laptop.

Survives restarts, kill -9 and power cuts, is shared by the processes of one machine, forgets only what expired.
"""

import asyncio
import math
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self, TypeVar

from app.errors import StoreRefused, StoreUnavailable
from app.sessions import NONE, Numbers, SessionKey, SessionStart, TurnItem

T = TypeVar("T")

BUSY_S = 2.0  # how long one statement waits for another process's write
BUSY_PAUSE_S = 0.01  # a switch to WAL takes about as long
PRIMARY_CODE = 0xFF  # of SQLite's result codes; the rest tells kinds of one apart
SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;  -- an acknowledged turn survives a power cut too
CREATE TABLE IF NOT EXISTS turns (
    pk TEXT NOT NULL, turn INTEGER NOT NULL, run TEXT NOT NULL, req TEXT NOT NULL,
    expires INTEGER NOT NULL, lease REAL, body BLOB, created REAL,
    PRIMARY KEY (pk, turn)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS numbers (
    pk TEXT NOT NULL, turn INTEGER NOT NULL, name TEXT NOT NULL, value INTEGER NOT NULL, expires INTEGER NOT NULL,
    PRIMARY KEY (pk, turn, name)
) WITHOUT ROWID;
"""
INDEX = "CREATE INDEX IF NOT EXISTS begun ON turns (created, pk) WHERE created IS NOT NULL"
COLUMNS = "turn, run, req, expires, lease, body, created"


class SQLiteStore:
    """Turns in the file at `path`, which is made on first use.

    One connection on one thread, so that the loop never waits for a disk.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sqlite")
        self._connection: sqlite3.Connection | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    async def newest(self, key: SessionKey, limit: int, before: int | None = None) -> Sequence[TurnItem]:
        query = f"SELECT {COLUMNS} FROM turns WHERE pk = ? AND turn < ? ORDER BY turn DESC LIMIT ?"  # noqa: S608 constant
        below = before if before is not None else 2**63 - 1
        return await self._run(lambda db: [TurnItem(*row) for row in db.execute(query, (str(key), below, limit))])

    async def claim(self, key: SessionKey, item: TurnItem, dead_run: str | None = None) -> bool:
        if dead_run is None:
            return await self._write(
                "INSERT INTO turns (pk, turn, run, req, expires, lease) VALUES (?, ?, ?, ?, ?, ?)"
                " ON CONFLICT DO NOTHING",
                (str(key), item.turn, item.run, item.req, item.expires, item.lease),
            )
        return await self._write(
            "UPDATE turns SET run = ?, req = ?, expires = ?, lease = ?"
            " WHERE pk = ? AND turn = ? AND run = ? AND body IS NULL",
            (item.run, item.req, item.expires, item.lease, str(key), item.turn, dead_run),
        )

    async def commit(self, key: SessionKey, item: TurnItem) -> bool:
        return await self._write(
            "UPDATE turns SET expires = ?, lease = NULL, body = ?, created = ? WHERE pk = ? AND turn = ? AND run = ?",
            (item.expires, item.body, item.created, str(key), item.turn, item.run),
        )

    async def release(self, key: SessionKey, turn: int, run: str) -> None:
        await self._write(
            "DELETE FROM turns WHERE pk = ? AND turn = ? AND run = ? AND body IS NULL",
            (str(key), turn, run),
        )

    async def delete(self, key: SessionKey) -> None:
        await self._write("DELETE FROM turns WHERE pk = ?", (str(key),))

    async def list_sessions(
        self, principal: str, limit: int, before: SessionStart | None = None
    ) -> Sequence[SessionStart]:
        query = (
            "SELECT substr(pk, ?), created, expires FROM turns WHERE created IS NOT NULL AND substr(pk, 1, ?) = ?"
            " AND instr(substr(pk, ?), '/') = 0"  # of a principal that begins alike, the rest has a slash
            " AND (created, pk) < (?, ?) ORDER BY created DESC, pk DESC LIMIT ?"
        )
        owner = f"{principal}/"
        last = (before.created, owner + before.session_id) if before else (math.inf, "")
        values = (len(owner) + 1, len(owner), owner, len(owner) + 1, *last, limit)
        return await self._run(lambda db: [SessionStart(*row) for row in db.execute(query, values)])

    async def add(
        self, key: SessionKey, window: int, amounts: Numbers, expires: int, *, below: Numbers = NONE, once: bool = False
    ) -> Numbers | None:
        del once  # nothing is tried again here
        statement = (
            "INSERT INTO numbers (pk, turn, name, value, expires) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET value = value + excluded.value, expires = excluded.expires"
        )
        rows = [(str(key), window, name, amount, expires) for name, amount in amounts.items()]

        def work(db: sqlite3.Connection) -> Mapping[str, int] | None:
            with db:
                db.execute("BEGIN IMMEDIATE")
                held = _numbers(db, key, window)
                if any(held.get(name, 0) >= bound for name, bound in below.items()):
                    return None
                db.executemany(statement, rows)
            return {name: held.get(name, 0) + amount for name, amount in amounts.items()}

        return await self._run(work)

    async def numbers(self, key: SessionKey, window: int) -> Numbers:
        return await self._run(lambda db: _numbers(db, key, window))

    async def ping(self) -> None:
        await self._run(lambda db: db.execute("SELECT 1 FROM turns LIMIT 1").fetchall())

    async def _write(self, statement: str, values: tuple[object, ...]) -> bool:
        """Run one statement, which SQLite makes atomic, and return whether it changed anything."""
        return await self._run(lambda db: db.execute(statement, values).rowcount > 0)

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(self._open()))
        except sqlite3.OperationalError as exc:
            raise _translated(exc) from exc
        except (sqlite3.Error, OSError, ValueError) as exc:
            raise StoreRefused("the SQLite session file cannot be used") from exc

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None)
            try:
                _prepare(connection)
            except sqlite3.Error:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _numbers(connection: sqlite3.Connection, key: SessionKey, window: int) -> dict[str, int]:
    query = "SELECT name, value FROM numbers WHERE pk = ? AND turn = ?"
    return dict(connection.execute(query, (str(key), window)).fetchall())


def _prepare(connection: sqlite3.Connection) -> None:
    """Make the tables where they are missing, and forget what expired.

    SQLite's own waiting does not cover the switch to WAL: of processes that open a new file at once, all but one may be
    told at once that it is locked (https://sqlite.org/c3ref/busy_handler.html). So here is a waiting of our own.
    """
    give_up = time.monotonic() + BUSY_S
    while True:
        try:
            connection.executescript(SCHEMA)
            _add_created(connection)
            break
        except sqlite3.OperationalError as exc:
            if not _is_busy(exc) or time.monotonic() > give_up:
                raise
        time.sleep(BUSY_PAUSE_S)
    for table in ("turns", "numbers"):
        connection.execute(f"DELETE FROM {table} WHERE expires < ?", (int(time.time()),))  # noqa: S608 constants


def _add_created(connection: sqlite3.Connection) -> None:
    """Give a file of an older version the column that lists sessions; those that it holds stay unlisted."""
    if "created" not in {row[1] for row in connection.execute("PRAGMA table_info(turns)")}:
        try:
            connection.execute("ALTER TABLE turns ADD COLUMN created REAL")
        except sqlite3.OperationalError as exc:
            if _is_busy(exc) or "duplicate column" not in str(exc):  # another process was faster
                raise
    connection.execute(INDEX)


def _is_busy(error: sqlite3.OperationalError) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & PRIMARY_CODE == sqlite3.SQLITE_BUSY


def _translated(error: sqlite3.OperationalError) -> StoreUnavailable:
    kind = StoreUnavailable if _is_busy(error) else StoreRefused
    return kind(f"the SQLite session file cannot be used: {getattr(error, 'sqlite_errorname', 'unknown')}")
