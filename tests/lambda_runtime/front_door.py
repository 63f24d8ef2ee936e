"""The fake Lambda service over HTTP: a Function URL that streams, and the API that invokes a function with any event.

    python -m tests.lambda_runtime.front_door --port 9000 -- python -m app.lambda_runtime

serves a function that curl or a browser can talk to; tests run it in a thread.
"""

import argparse
import asyncio
import base64
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from tests.lambda_runtime import wire
from tests.lambda_runtime.service import Begun, Ended, Function, Piece, Service
from tests.machine import START_S

INVOKE = "/2015-03-31/functions/function/invocations"
PRELUDE_END = bytes(8)
NO_CONTENT = 204
THROTTLED = wire.answer(429, {"message": "Rate Exceeded."})


class FrontDoor:
    """Serves `service` at `url`. Enter it on the event loop that shall serve it."""

    def __init__(self, service: Service, port: int = 0) -> None:
        self.service = service
        self.url = ""
        self._port = port
        self._server: asyncio.Server
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self._port)
        self.url = "http://{}:{}".format(*self._server.sockets[0].getsockname())
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self.service.stop()
        await asyncio.sleep(0)  # what was closed notices

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            while request := await wire.read(reader):
                body = await request.body()
                event = body if request.target == INVOKE else json.dumps(url_event(request, body)).encode()
                # Not closed early: a function goes on when its client has left.
                pieces = self.service.invoke(event)
                async for data in _in_one(pieces) if request.target == INVOKE else _http(pieces):
                    if data is None:
                        writer.transport.abort()
                    elif not writer.is_closing():
                        writer.write(data)
                        with suppress(ConnectionError):
                            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def _in_one(pieces: AsyncIterator[Piece]) -> AsyncIterator[bytes]:
    """Yield the answer to a caller of `Invoke`: the function's bytes as they are."""
    buffer = b""
    async for piece in pieces:
        if isinstance(piece, Ended):
            failed = [("X-Amz-Function-Error", "Unhandled")] if piece.failure else []
            yield wire.answer(200, buffer or piece.document, failed)
            return
        if isinstance(piece, bytes):
            buffer += piece
    yield THROTTLED


async def _http(pieces: AsyncIterator[Piece]) -> AsyncIterator[bytes | None]:
    """Yield what goes to a client of the Function URL; None where its connection breaks."""
    response = _Response()
    async for piece in pieces:
        if isinstance(piece, Ended):
            yield response.end(failed=bool(piece.failure))
            return
        yield response.take(piece)
    yield THROTTLED


class _Response:
    """A function's answer on its way to an HTTP client."""

    def __init__(self) -> None:
        self._buffer = b""
        self._streaming = False
        self._prelude: dict[str, Any] | None = None

    def take(self, piece: Begun | bytes) -> bytes:
        """Return what can be sent now."""
        if isinstance(piece, Begun):
            self._streaming = piece.streaming
            return b""
        self._buffer += piece
        head = b""
        if self._streaming and self._prelude is None and PRELUDE_END in self._buffer:
            prelude, _, self._buffer = self._buffer.partition(PRELUDE_END)
            self._prelude = json.loads(prelude)
            head = _head(self._prelude)
        if self._prelude is None or self._is_empty(self._prelude):
            return b""
        data, self._buffer = self._buffer, b""
        return head + (wire.chunk(data) if data else b"")

    def end(self, *, failed: bool) -> bytes | None:
        """Return the rest; None where it must not look like an end."""
        if self._prelude is None:
            return wire.answer(502, b"Internal Server Error") if failed else _buffered(json.loads(self._buffer))
        if self._is_empty(self._prelude):
            return _head(self._prelude)
        return None if failed else b"0\r\n\r\n"

    def _is_empty(self, prelude: dict[str, Any]) -> bool:
        """Whether the response ends with its head, which must not come before the invocation has ended."""
        return bool(prelude["statusCode"] == NO_CONTENT)


def _head(prelude: dict[str, Any]) -> bytes:
    headers = [(name, value) for name, value in prelude["headers"].items() if name != "content-length"]
    cookies = [("set-cookie", cookie) for cookie in prelude["cookies"]]
    framing = [("transfer-encoding", "chunked")] if prelude["statusCode"] != NO_CONTENT else []
    return wire.head(prelude["statusCode"], [*headers, *cookies, *framing])


def _buffered(result: dict[str, Any]) -> bytes:
    body = result.get("body", "")
    data = base64.b64decode(body) if result.get("isBase64Encoded") else body.encode()
    headers = [(name, value) for name, value in result.get("headers", {}).items() if name != "content-length"]
    cookies = [("set-cookie", cookie) for cookie in result.get("cookies", [])]
    return wire.answer(result["statusCode"], data, [*headers, *cookies])


def url_event(request: wire.Request, body: bytes) -> dict[str, Any]:
    """Return the event that a Function URL makes of a request."""
    url = urlsplit(request.target)
    headers: dict[str, str] = {}
    for name, value in request.headers:
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    cookies = headers.pop("cookie", "")
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": url.path,
        "rawQueryString": url.query,
        "headers": {**headers, "host": "function.lambda-url.us-east-1.on.aws", "x-forwarded-proto": "https"},
        **({"cookies": cookies.split("; ")} if cookies else {}),
        "requestContext": {
            "http": {"method": request.method, "path": url.path, "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1"},
            "stage": "$default",
        },
        **({"body": base64.b64encode(body).decode()} if body else {}),
        "isBase64Encoded": bool(body),
    }


@dataclass(frozen=True)
class Running:
    """A service in a thread, and the event loop that is its own."""

    door: FrontDoor
    loop: asyncio.AbstractEventLoop
    log: Path

    @property
    def url(self) -> str:
        return self.door.url

    @property
    def report(self) -> list[str]:
        return self.door.service.report

    @property
    def pids(self) -> list[int]:
        """The processes of the environments that live."""
        return [each.process.pid for each in self.door.service.environments if each.process and each.alive]

    @property
    def busy(self) -> int:
        """How many invocations run."""
        return sum(len(each.running) for each in self.door.service.environments)

    @property
    def frozen(self) -> bool:
        """Whether every environment is frozen."""
        return all(each.frozen for each in self.door.service.environments)

    def stop(self) -> None:
        """Scale down to nothing, as Lambda does when nobody calls."""
        asyncio.run_coroutine_threadsafe(self.door.service.stop(), self.loop).result(START_S)


@contextlib.contextmanager
def in_thread(function: Function) -> Iterator[Running]:
    """Serve a function on an event loop in a thread of its own."""
    ready, found, leave = threading.Event(), list[Running](), list[asyncio.Event]()

    async def serve() -> None:
        leave.append(asyncio.Event())
        async with FrontDoor(Service(function)) as door:
            found.append(Running(door, asyncio.get_running_loop(), function.folder / "function.log"))
            ready.set()
            await leave[0].wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(START_S)
        yield found[0]
    finally:
        found[0].loop.call_soon_threadsafe(leave[0].set)
        thread.join(START_S)


async def main() -> None:
    """Serve the function that the arguments name until the process is ended."""
    parser = argparse.ArgumentParser(prog="python -m tests.lambda_runtime.front_door", description=__doc__)
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--environments", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=29)
    parser.add_argument("--freeze", action="store_true")
    parser.add_argument("--setting", action="append", default=[], help="NAME=value, of the function")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    function = Function(
        command=options.command,
        folder=Path.cwd(),
        settings=dict(each.split("=", 1) for each in options.setting),
        timeout_s=options.timeout,
        environments=options.environments,
        freeze=options.freeze,
    )
    async with FrontDoor(Service(function), options.port) as door:
        print(f"{door.url} serves the function; its log is function.log")
        await asyncio.Event().wait()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main())
