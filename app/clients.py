"""What the app holds open while it serves: connections of the store, of the agent, of the authenticator."""

from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Self


class Clients:
    """Those of the parts that hold something open, in this order. They can be opened again once they are closed."""

    def __init__(self, *parts: object) -> None:
        self._parts = parts
        self._opened = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as opening:
            for part in self._parts:
                if isinstance(part, AbstractAsyncContextManager):
                    await opening.enter_async_context(part)
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
