"""The address of a store that a trial can take away."""

import asyncio
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit

from tests.machine import free_port

PIECE_BYTES = 65_536


class Door:
    """An address before `endpoint`. Nobody listens until `stall`, which answers no request, or `let_in`."""

    def __init__(self, endpoint: str = "") -> None:
        self.port = free_port()
        self.met = 0
        self._target = urlsplit(endpoint).port
        self._open = False
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._cut()
        if self._server:
            self._server.close()

    async def stall(self) -> None:
        """Take connections and answer nothing."""
        self._open = False
        await self._listen()

    async def let_in(self) -> None:
        """Cut what waits, and pass on what comes from now."""
        self._open = True
        self._cut()
        await self._listen()

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._take, "127.0.0.1", self.port)

    def _cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.met += 1
        self._writers.add(writer)
        with suppress(OSError):
            if self._open:
                there, thither = await asyncio.open_connection("127.0.0.1", self._target)
                await asyncio.gather(_pump(reader, thither), _pump(there, writer))
            else:
                while await reader.read(PIECE_BYTES):
                    pass
        self._writers.discard(writer)
        writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while piece := await reader.read(PIECE_BYTES):
            writer.write(piece)
            await writer.drain()
    writer.close()
