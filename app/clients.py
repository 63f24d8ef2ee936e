"""What the app holds open while it serves: connections of the store, of the agent, of the authenticator."""

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any, Self

from app.errors import AgentFailed, AuthUnavailable, ServiceError, StoreUnavailable

log = logging.getLogger(__name__)


class Clients:
    """Those of the three that hold something open, in this order. They can be opened again once they are closed."""

    def __init__(self, store: object, agent: object, authenticator: object) -> None:
        self._parts = ((store, StoreUnavailable), (agent, AgentFailed), (authenticator, AuthUnavailable))
        self._opened = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Open them.

        Raises:
            StoreUnavailable, AgentFailed, AuthUnavailable: that part raised; leaving may raise them, too.
        """
        async with AsyncExitStack() as opening:
            for part, error in self._parts:
                if isinstance(part, AbstractAsyncContextManager):
                    await opening.enter_async_context(_held(part, error))
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


@asynccontextmanager
async def _held(client: AbstractAsyncContextManager[Any], error: type[ServiceError]) -> AsyncIterator[None]:
    """Open the client for the block."""
    with _withheld(error):
        await client.__aenter__()
    try:
        yield
    finally:
        with _withheld(error):
            await client.__aexit__(None, None, None)


@contextmanager
def _withheld(error: type[ServiceError]) -> Iterator[None]:
    """Log what the block raises and raise `error` instead: servers print what ends a lifespan, text and all."""
    try:
        yield
    except ServiceError:
        raise
    except Exception as exc:  # an agent is the user's code
        log.exception("a client cannot be opened or closed")
        raise error(f"it raised {type(exc).__name__}") from None
