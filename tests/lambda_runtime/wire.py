"""HTTP/1.1 over asyncio's streams, as much as a fake Lambda service needs: trailers and single chunks, for example."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field


@dataclass
class Request:
    """A request whose head has been read, on the connection it came by."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    reader: asyncio.StreamReader
    trailers: dict[str, str] = field(default_factory=dict)

    def header(self, name: str, default: str = "") -> str:
        return dict(self.headers).get(name, default)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body in the pieces it comes in; after them the trailers are known."""
        if self.header("transfer-encoding").lower() != "chunked":
            if length := int(self.header("content-length", "0")):
                yield await self.reader.readexactly(length)
            return
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            yield await self.reader.readexactly(size)
            await self.reader.readexactly(2)
        while line := (await self.reader.readuntil(b"\r\n")).decode().strip():
            name, _, value = line.partition(":")
            self.trailers[name.lower()] = value.strip()

    async def body(self) -> bytes:
        return b"".join([chunk async for chunk in self.chunks()])


async def read(reader: asyncio.StreamReader) -> Request | None:
    """Return the next request on a connection; None when it has ended."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    first, *lines = head.split("\r\n")[:-2]
    method, target, _ = first.split(" ", 2)
    headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    return Request(method, target, headers, reader)


def head(status: int, headers: Iterable[tuple[str, object]]) -> bytes:
    """Return the head of a response."""
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def answer(status: int, body: bytes | dict[str, object] = b"", headers: Iterable[tuple[str, object]] = ()) -> bytes:
    """Return a whole response."""
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    return head(status, [*headers, ("content-length", len(data))]) + data


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
