"""Callers that keep their connection, and notice when it breaks under a request."""

import asyncio
import json
from typing import Self

from tests.chaos.callers import Outcome

HEAD_END = b"\r\n\r\n"


class Kept:
    """One HTTP/1.1 connection that is used again. No library, because those hide a connection that broke."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def chat(self, session: str, message: str) -> Outcome:
        """Send a message and read the JSON answer; `cut` where the connection ended instead."""
        body = json.dumps({"message": message, "session_id": session})
        head = (
            f"POST /chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        )
        try:
            self._writer.write(f"{head}\r\n\r\n{body}".encode())
            return await self._answer()
        except (OSError, asyncio.IncompleteReadError):
            return Outcome(cut=True)

    async def _answer(self) -> Outcome:
        lines = (await self._reader.readuntil(HEAD_END)).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        body = await self._reader.readexactly(int(headers["content-length"]))
        return Outcome(int(lines[0].split(" ")[1]), headers, body.decode())

    def close(self) -> None:
        self._writer.close()
