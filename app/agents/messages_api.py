"""The Messages API over HTTP: one POST, its answer read as the stream of events it is.

https://platform.claude.com/docs/en/api/messages-streaming has the events,
https://platform.claude.com/docs/en/api/errors the errors. Events and content blocks stay the plain objects that arrive,
so that kinds which came after this code pass through.
"""

import asyncio
import json
import random
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from typing import Any, Self, TypeAlias

import aiohttp

from app.errors import (
    DeadlineExceeded,
    ModelFailed,
    ModelInvalid,
    ModelOverloaded,
    ModelRateLimited,
    ModelRejected,
    ModelUnpaid,
)

Event: TypeAlias = dict[str, Any]

VERSION = "2023-06-01"  # of the API; sent with every request
ATTEMPTS = 3
BACKOFF_S = 0.5
CONNECT_S = 5.0
STALL_S = 45.0  # the API pings a stream that it lets wait, so one that is silent for so long has died
LAST_BYTES_S = 0.1  # what ends the body comes with the last event; a connection that lacks it is not used again
MAX_EVENT_BYTES = 16 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024
IDLE_CONNECTION_S = 55
CONNECTIONS = 0  # no limit of its own: turns are limited elsewhere, and each holds one at most

SECONDS = re.compile(r"[0-9]{1,6}")  # of a Retry-After header
RATE_LIMITED = 429
REFUSED = {401, 402, 403}
# A limit on spending comes as 400 or 429 of a usual type, and only its text tells that waiting is no use.
UNPAID_TEXTS = ("spend limit", "usage limits", "credit balance")
UNPAID_TYPES = {"authentication_error", "billing_error", "permission_error"}
OVERLOADED_TYPES = {"overloaded_error", "api_error", "timeout_error"}


class MessagesAPI:
    """A client of the API at `base_url`, with an HTTP session of its own. Enter it before use.

    backoff_s: before the second attempt, doubled before the third; jittered down to the half
    stall_s:   of silence after which a stream has died
    """

    def __init__(self, base_url: str, key: str, *, backoff_s: float = BACKOFF_S, stall_s: float = STALL_S) -> None:
        self._url = f"{base_url.rstrip('/')}/v1/messages"
        self._headers = {"x-api-key": key, "anthropic-version": VERSION, "content-type": "application/json"}
        self._backoff_s = backoff_s
        self._stall_s = stall_s
        self._session: aiohttp.ClientSession  # from entering to leaving

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_S, sock_read=self._stall_s),
            connector=aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=IDLE_CONNECTION_S),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._session.close()

    async def stream(self, request: Mapping[str, object], deadline: float) -> AsyncGenerator[Event, None]:
        """Send `request` and yield the events of the answer, `message_stop` last.

        deadline: on the running event loop's clock; no wait passes it, no pause before another attempt either

        Makes up to ATTEMPTS attempts for what may pass, but none once content has been yielded. An attempt that is
        followed by another may have yielded `message_start`; so each begins the message anew.

        Raises:
            DeadlineExceeded: the deadline passed.
            ModelFailed: the API gave no answer; see its subclasses.
        """
        body = json.dumps(request, ensure_ascii=False).encode()
        for attempt in range(ATTEMPTS):
            shown = False
            try:
                async with aclosing(self._attempt(body, deadline)) as events:
                    async for event in events:
                        shown = shown or event["type"].startswith("content_block")
                        yield event
            except ModelFailed as exc:
                pause_s = self._pause_s(exc, attempt)
                if shown or pause_s is None or _now() + pause_s >= deadline:
                    raise
            else:
                return
            await asyncio.sleep(pause_s)

    def _pause_s(self, error: ModelFailed, attempt: int) -> float | None:
        """Return how long to wait before the next attempt; None where there is none, or where it would be no use."""
        if attempt == ATTEMPTS - 1 or error.retry_after_s is None:
            return None
        backoff_s: float = self._backoff_s * 2**attempt * random.uniform(0.5, 1.0)  # noqa: S311 jitter
        asked_s = vars(error).get("retry_after_s", 0)  # the API's own wish, not the class's advice to our callers
        return max(backoff_s, float(asked_s))

    async def _attempt(self, body: bytes, deadline: float) -> AsyncGenerator[Event, None]:
        """Yield the events of one attempt. Leaving it early closes the connection, which stops the model."""
        try:
            async with asyncio.timeout_at(deadline):
                response = await self._session.post(self._url, data=body, headers=self._headers, allow_redirects=False)
            async with response:
                if response.status != 200:  # noqa: PLR2004 any other one is an error
                    raise await _error_of(response, deadline)
                async with aclosing(_events(response, deadline)) as events:
                    async for event in events:
                        yield event
        except aiohttp.SocketTimeoutError as exc:
            raise ModelInvalid("the model's API fell silent") from exc
        except aiohttp.ClientPayloadError as exc:
            raise ModelInvalid("the model's answer was cut off") from exc
        except (aiohttp.ClientError, OSError) as exc:
            if type(exc) is TimeoutError:  # of `timeout_at`; aiohttp's own are subclasses
                raise DeadlineExceeded from exc
            raise ModelOverloaded(f"the model's API cannot be reached: {type(exc).__name__}") from exc


async def _events(response: aiohttp.ClientResponse, deadline: float) -> AsyncGenerator[Event, None]:
    """Yield the server-sent events of a response up to `message_stop`."""
    async with aclosing(_frames(response, deadline)) as frames:
        async for frame in frames:
            event = _parse(frame)
            if event is None:
                continue
            if event["type"] == "error":
                raise _failure(0, event)
            yield event
            if event["type"] == "message_stop":
                with suppress(TimeoutError, aiohttp.ClientError):
                    async with asyncio.timeout(LAST_BYTES_S):
                        await response.read()
                return
    raise ModelInvalid("the model's answer ended before its last event")


async def _frames(response: aiohttp.ClientResponse, deadline: float) -> AsyncGenerator[bytes, None]:
    buffer = b""
    while True:
        async with asyncio.timeout_at(deadline):
            chunk = await response.content.readany()
        if not chunk:
            return
        *frames, buffer = (buffer + chunk).replace(b"\r\n", b"\n").split(b"\n\n")
        if len(buffer) > MAX_EVENT_BYTES:
            raise ModelInvalid("an event of the model's answer has no end")
        for frame in frames:
            yield frame


def _parse(frame: bytes) -> Event | None:
    """Return the event in a frame; None where it carries no data, as a comment does."""
    data = b"\n".join(line[5:].strip() for line in frame.split(b"\n") if line.startswith(b"data:"))
    if not data:
        return None
    try:
        event = json.loads(data)
        if b"\\u" in data:  # an escape may be half of a surrogate pair, which no UTF-8 can carry on
            event = json.loads(json.dumps(event, ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        event = None
    if not isinstance(event, dict) or not isinstance(event.get("type"), str):
        raise ModelInvalid("an event of the model's answer is none")
    return event


async def _error_of(response: aiohttp.ClientResponse, deadline: float) -> ModelFailed:
    body = b""
    with suppress(aiohttp.ClientError):  # the status says most of it
        async with asyncio.timeout_at(deadline):
            while len(body) < MAX_ERROR_BYTES and (chunk := await response.content.readany()):
                body += chunk
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    asked = SECONDS.fullmatch(response.headers.get("retry-after", ""))
    final = response.headers.get("x-should-retry") == "false"
    return _failure(response.status, document, int(asked[0]) if asked else None, final=final)


def _failure(status: int, document: object, retry_after_s: int | None = None, *, final: bool = False) -> ModelFailed:
    """Return the error for a status, or in a stream (status 0) for an `error` event alone.

    The API's own text is read here and goes no further: it may repeat what was sent.
    """
    error = document.get("error") if isinstance(document, dict) else None
    kind, text = (error.get("type"), str(error.get("message")).lower()) if isinstance(error, dict) else (None, "")
    said = f"the model's API answered {status or 'in its stream'}"
    if status in REFUSED or kind in UNPAID_TYPES or any(each in text for each in UNPAID_TEXTS):
        return ModelUnpaid(said)
    if final:
        return ModelRejected(said)
    if status == RATE_LIMITED or kind == "rate_limit_error":
        return ModelRateLimited(said, retry_after_s)
    if status >= 500 or status == 408 or kind in OVERLOADED_TYPES:  # noqa: PLR2004 the server's errors
        return ModelOverloaded(said, retry_after_s)
    return ModelRejected(said)


def _now() -> float:
    return asyncio.get_running_loop().time()
