"""The one ASGI middleware: request id, headers of every response, one debug line, and the net under everything."""

import asyncio
import logging
import os
import re
import time
from collections.abc import Iterator

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import telemetry
from app.cors import Cors
from app.errors import ShuttingDown
from app.lifecycle import Lifecycle, Phase
from app.problems import response_of

log = logging.getLogger(__name__)

HEADERS = {  # OWASP's REST Security Cheat Sheet; docs/http-hardening.md says what is left out, and why
    "X-Content-Type-Options": "nosniff",  # what is no script is never run as one
    "Cache-Control": "no-store",  # answers are a user's own
    "Referrer-Policy": "no-referrer",  # paths hold session ids
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",  # nothing here is a page
    "Cross-Origin-Resource-Policy": "same-origin",  # nor a picture or a script of somebody else's page
}
NO_CONTENT = Response(status_code=204)
OK = 200
DOCS = "/docs"  # the one page, in development: Swagger UI from its usual addresses
DOCS_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' https://cdn.jsdelivr.net; "
    "style-src 'unsafe-inline' https://cdn.jsdelivr.net; img-src data: https://fastapi.tiangolo.com; "
    "connect-src 'self'; frame-ancestors 'none'"
)
_RAW_HEADERS = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
_DOCS_HEADERS = list((dict(_RAW_HEADERS) | {b"content-security-policy": DOCS_POLICY.encode()}).items())
_REQUEST_ID = re.compile(rb"[A-Za-z0-9_.-]{1,128}")


class Shell:
    """Wraps the app below FastAPI's own error handling, so that it sees every response and every error."""

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle, cors: Cors | None = None) -> None:
        self._app = app
        self._lifecycle = lifecycle
        self._cors = cors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 an ASGI app
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id, cold_start = _request_id(scope), self._lifecycle.take_cold_start()
        token = telemetry.request_id.set(request_id)
        facts_token = telemetry.request_facts.set(_facts(scope, cold_start=cold_start))
        started = time.monotonic()
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    *self._headers(scope, status, request_id, cold_start=cold_start),
                ]
            await send(message)

        app = NO_CONTENT if self._cors and self._cors.is_preflight(scope) else self._app
        try:
            await app(scope, receive, send_with_headers)
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
            telemetry.request_facts.reset(facts_token)
            telemetry.request_id.reset(token)

    def _headers(
        self, scope: Scope, status: int, request_id: str, *, cold_start: bool
    ) -> Iterator[tuple[bytes, bytes]]:
        yield b"x-request-id", request_id.encode()
        yield from _DOCS_HEADERS if status == OK and scope["path"] == DOCS else _RAW_HEADERS
        if self._cors:
            yield from self._cors.headers(scope)
        if cold_start:
            yield b"x-cold-start", b"true"
        if self._lifecycle.phase is Phase.DRAINING:
            yield b"connection", b"close"


def problem_outside(error: Exception, request_id: str | None = None) -> Response:
    """Return the problem as the shell would have sent it, for what never reaches the app: under the id or a new one."""
    token = telemetry.request_id.set(request_id or _new_id())
    response = response_of(error)
    response.headers.update(HEADERS | {"X-Request-ID": telemetry.request_id.get() or ""})
    telemetry.request_id.reset(token)
    return response


def _request_id(scope: Scope) -> str:
    """Return the caller's id if it is well-formed, so that no header or log line can be forged; or a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return bytes(value).decode()
    return _new_id()


def _new_id() -> str:
    return os.urandom(16).hex()


def _facts(scope: Scope, *, cold_start: bool) -> dict[str, object]:
    """Return what every log line of the request says of it, beside its id."""
    facts: dict[str, object] = {"cold_start": cold_start}
    if trace_id := telemetry.current_trace_id() or telemetry.trace_id(scope["headers"]):
        facts["trace_id"] = trace_id
    invocation = getattr(scope.get("aws.context"), "aws_request_id", None)  # from the platform, not from the event
    if isinstance(invocation, str):
        facts["aws_request_id"] = invocation
    return facts


def _route(scope: Scope) -> str | None:
    """Return the route's template. The path itself holds session ids."""
    return getattr(scope.get("route"), "path", None)
