"""What the app holds open while it serves: the store's connections and the agent's."""

from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Self

from app.sessions import SessionStore


class Clients:
    """The store and, where it holds something open too, the agent. Both can be opened again once they are closed."""

    def __init__(self, store: SessionStore, agent: object) -> None:
        self._store = store
        self._agent = agent
        self._opened = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as opening:
            await opening.enter_async_context(self._store)
            if isinstance(self._agent, AbstractAsyncContextManager):
                await opening.enter_async_context(self._agent)
            self._opened = opening.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._opened.aclose()

    async def open(self) -> None:
        """Open them for good, or until `close`."""
        await self.__aenter__()

    async def close(self) -> None:
        """Close their connections. Nothing may use them now."""
        await self.__aexit__()
