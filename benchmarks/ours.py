"""The service as it is, with a store that forgets and agents that only talk."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import islice
from typing import Self

from fastapi import FastAPI

from app.agents import Agent, OpenTurn
from app.events import AgentEvent
from app.main import build
from app.sessions import NONE, Numbers, SessionKey, SessionStart, TurnItem

__all__ = ["build"]

TOKENS = 500
SESSIONS = 100  # the newest ones; older sessions are forgotten, so that the store never grows


class MemoryStore:
    """A SessionStore in a dict, without the parts that no benchmark uses."""

    def __init__(self) -> None:
        self._sessions: dict[SessionKey, dict[int, TurnItem]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        pass

    async def newest(self, key: SessionKey, limit: int, before: int | None = None) -> Sequence[TurnItem]:
        items = self._sessions.get(key, {})
        return list(islice((each for each in reversed(items.values()) if not before or each.turn < before), limit))

    async def claim(self, key: SessionKey, item: TurnItem, dead_run: str | None = None) -> bool:
        if len(self._sessions) > SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        held = self._sessions.setdefault(key, {}).setdefault(item.turn, item)
        return held is item and dead_run is None

    async def commit(self, key: SessionKey, item: TurnItem) -> bool:
        held = self._sessions[key].get(item.turn)
        self._sessions[key][item.turn] = item
        return held is not None and held.run == item.run

    async def release(self, key: SessionKey, turn: int, run: str) -> None:
        raise NotImplementedError

    async def delete(self, key: SessionKey) -> None:
        raise NotImplementedError

    async def list_sessions(
        self, principal: str, limit: int, before: SessionStart | None = None
    ) -> Sequence[SessionStart]:
        raise NotImplementedError

    async def add(
        self, key: SessionKey, window: int, amounts: Numbers, expires: int, *, below: Numbers = NONE, once: bool = False
    ) -> Numbers | None:
        raise NotImplementedError

    async def numbers(self, key: SessionKey, window: int) -> Numbers:
        raise NotImplementedError

    async def ping(self) -> None:
        pass


async def tokens(_: OpenTurn) -> AsyncIterator[AgentEvent]:
    """Yield TOKENS without ever waiting."""
    for _token in range(TOKENS):
        yield " token"


async def waiting_tokens(_: OpenTurn) -> AsyncIterator[AgentEvent]:
    """Yield TOKENS and let others run after each."""
    for _token in range(TOKENS):
        yield " token"
        await asyncio.sleep(0)


def in_memory(agent: Agent | None = None) -> FastAPI:
    """Return the app that the environment describes, on a store in memory."""
    return build(MemoryStore(), agent)


def streaming() -> FastAPI:
    """Return the app with an agent that never waits."""
    return in_memory(tokens)


def streaming_waiting() -> FastAPI:
    """Return the app with an agent that waits after every token."""
    return in_memory(waiting_tokens)
