"""The one ASGI middleware: request id, headers of every response, one debug line, and the net under everything."""

import asyncio
import logging
import os
import re
import time
from collections.abc import Iterator

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import telemetry
from app.errors import ShuttingDown
from app.lifecycle import Lifecycle, Phase
from app.problems import response_of

log = logging.getLogger(__name__)

HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
_RAW_HEADERS = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
_REQUEST_ID = re.compile(rb"[A-Za-z0-9_.-]{1,128}")


class Shell:
    """Wraps the app below FastAPI's own error handling, so that it sees every response and every error."""

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle) -> None:
        self._app = app
        self._lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 an ASGI app
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        token = telemetry.request_id.set(request_id)
        started = time.monotonic()
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *self._headers(request_id)]
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception as exc:  # the other edge where anything may come: our own bugs
            log.exception("request failed")
            if status:
                raise  # the response has begun; the server cuts the connection
            await response_of(exc)(scope, receive, send_with_headers)
        except asyncio.CancelledError:  # the server's grace for connections is over
            if not status:
                await response_of(ShuttingDown())(scope, receive, send_with_headers)
            raise
        finally:
            elapsed_ms = round((time.monotonic() - started) * 1000)
            log.debug(
                "request finished",
                extra={"route": _route(scope), "status": status, "elapsed_ms": elapsed_ms},
            )
            telemetry.request_id.reset(token)

    def _headers(self, request_id: str) -> Iterator[tuple[bytes, bytes]]:
        yield b"x-request-id", request_id.encode()
        yield from _RAW_HEADERS
        if self._lifecycle.take_cold_start():
            yield b"x-cold-start", b"true"
        if self._lifecycle.phase is Phase.DRAINING:
            yield b"connection", b"close"


def _request_id(scope: Scope) -> str:
    """Return the caller's id if it is well-formed, so that no header or log line can be forged; or a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return bytes(value).decode()
    return os.urandom(16).hex()


def _route(scope: Scope) -> str | None:
    """Return the route's template. The path itself holds session ids."""
    return getattr(scope.get("route"), "path", None)
