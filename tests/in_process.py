"""The app in this process and on the test's own event loop, with parts of the test's choosing."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx2
from fastapi import FastAPI

from app.config import Settings
from app.errors import StoreUnavailable
from app.main import create_app
from app.sessions import NONE, Numbers, SessionKey, SessionStart, TurnItem
from tests.entry_points import Answer
from tests.memory_store import MemoryStore


class Outage(MemoryStore):
    """A store whose named methods raise `error` for as long as they stand in `down`."""

    def __init__(self, *down: str) -> None:
        super().__init__()
        self.down = set(down)
        self.error: Exception = StoreUnavailable("no answer")
        self.asked: list[str] = []

    async def newest(self, key: SessionKey, limit: int, before: int | None = None) -> Sequence[TurnItem]:
        self._ask("newest")
        return await super().newest(key, limit, before)

    async def claim(self, key: SessionKey, item: TurnItem, dead_run: str | None = None) -> bool:
        self._ask("claim")
        return await super().claim(key, item, dead_run)

    async def commit(self, key: SessionKey, item: TurnItem) -> bool:
        self._ask("commit")
        return await super().commit(key, item)

    async def release(self, key: SessionKey, turn: int, run: str) -> None:
        self._ask("release")
        await super().release(key, turn, run)

    async def list_sessions(
        self, principal: str, limit: int, before: SessionStart | None = None
    ) -> Sequence[SessionStart]:
        self._ask("list_sessions")
        return await super().list_sessions(principal, limit, before)

    async def add(
        self, key: SessionKey, window: int, amounts: Numbers, expires: int, *, below: Numbers = NONE, once: bool = False
    ) -> Numbers | None:
        self._ask("add")
        return await super().add(key, window, amounts, expires, below=below, once=once)

    async def numbers(self, key: SessionKey, window: int) -> Numbers:
        self._ask("numbers")
        return await super().numbers(key, window)

    async def ping(self) -> None:
        self._ask("ping")

    def _ask(self, name: str) -> None:
        self.asked.append(name)
        if name in self.down:
            raise self.error


class App:
    """An app and a client of it."""

    def __init__(self, app: FastAPI) -> None:
        self.lifecycle = app.state.lifecycle
        self._http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test")

    async def request(self, method: str, path: str, **options: Any) -> Answer:
        """Make a request and wait for the whole answer."""
        response = await self._http.request(method, path, **options)
        return Answer(response.status_code, {k.lower(): v for k, v in response.headers.items()}, response.text)

    async def chat(self, message: str, session: str = "s", **headers: str) -> Answer:
        """Take a turn; of header names `_` stands for `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.request("POST", "/chat", json={"message": message, "session_id": session}, headers=named)

    async def messages(self, session: str = "s") -> list[str]:
        """Return what the stored turns of a session were asked; empty for no session."""
        answer = await self.request("GET", f"/sessions/{session}")
        return [turn["message"] for turn in answer.json["turns"]] if answer.status == 200 else []


@contextlib.asynccontextmanager
async def serving(settings: Settings, **parts: Any) -> AsyncIterator[App]:
    """Yield an app whose lifespan is around the block, not yet warm: `create_app(settings, **parts)`."""
    app = create_app(settings, **({"store": MemoryStore()} | parts))
    async with app.router.lifespan_context(app):
        yield App(app)


@contextlib.asynccontextmanager
async def warm(settings: Settings, **parts: Any) -> AsyncIterator[App]:
    """Yield a ready app: `create_app(settings, **parts)`."""
    async with serving(settings, **parts) as app:
        await app.lifecycle.warm_up()
        yield app
