"""Stores that pass every call on, and step in where a race must happen."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Self

from app.sessions import NONE, Numbers, SessionKey, SessionStart, SessionStore, TurnItem

MEET_S = 30.0  # nobody waits as long; who does has lost the others


class Forwarding:
    """A store that is another one; what derives from it steps in somewhere."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        pass

    async def newest(self, key: SessionKey, limit: int, before: int | None = None) -> Sequence[TurnItem]:
        return await self._store.newest(key, limit, before)

    async def claim(self, key: SessionKey, item: TurnItem, dead_run: str | None = None) -> bool:
        return await self._store.claim(key, item, dead_run)

    async def commit(self, key: SessionKey, item: TurnItem) -> bool:
        return await self._store.commit(key, item)

    async def release(self, key: SessionKey, turn: int, run: str) -> None:
        await self._store.release(key, turn, run)

    async def delete(self, key: SessionKey) -> None:
        await self._store.delete(key)

    async def list_sessions(
        self, principal: str, limit: int, before: SessionStart | None = None
    ) -> Sequence[SessionStart]:
        return await self._store.list_sessions(principal, limit, before)

    async def add(
        self, key: SessionKey, window: int, amounts: Numbers, expires: int, *, below: Numbers = NONE, once: bool = False
    ) -> Numbers | None:
        return await self._store.add(key, window, amounts, expires, below=below, once=once)

    async def numbers(self, key: SessionKey, window: int) -> Numbers:
        return await self._store.numbers(key, window)

    async def ping(self) -> None:
        await self._store.ping()


class ReadsTogether(Forwarding):
    """A store whose first read is answered only when every party of the barrier has read: the race did overlap."""

    def __init__(self, store: SessionStore, barrier: asyncio.Barrier) -> None:
        super().__init__(store)
        self._barrier = barrier
        self._met = False

    async def newest(self, key: SessionKey, limit: int, before: int | None = None) -> Sequence[TurnItem]:
        items = await super().newest(key, limit, before)
        if not self._met:
            self._met = True
            async with asyncio.timeout(MEET_S):
                await self._barrier.wait()
        return items


class BeforeFirstClaim(Forwarding):
    """A store in which something happens between a request's read and its first claim."""

    def __init__(self, store: SessionStore, happen: Callable[[], Awaitable[object]]) -> None:
        super().__init__(store)
        self._happen = happen
        self.happened = False

    async def claim(self, key: SessionKey, item: TurnItem, dead_run: str | None = None) -> bool:
        if not self.happened:
            self.happened = True
            await self._happen()
        return await super().claim(key, item, dead_run)
