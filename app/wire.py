"""Requests and responses as they cross the wire. JSON is the fold of a turn's events, SSE their map."""

import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Annotated, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError, to_json

from app import strict_json
from app.errors import (
    ContentTooLarge,
    InvalidIdempotencyKey,
    NotAcceptable,
    ServiceError,
    ValidationFailed,
)
from app.events import Text, ToolCall, ToolResult, Turn, TurnDone, TurnEvent, TurnStarted
from app.problems import problem_of
from app.sessions import SessionStart

log = logging.getLogger(__name__)

Batches: TypeAlias = AsyncGenerator[Sequence[TurnEvent], None]

SESSION_ID = r"^[A-Za-z0-9_.:-]{1,128}$"
SESSION_CURSOR = r"^[0-9]{1,11}\.[0-9]{3}/[A-Za-z0-9_.:-]{1,128}$"  # when a session began, and its id
MAX_WAIT_S = 60  # of `Prefer: wait=N`; what asks for more waits this long
DEFAULT_PAGE, MAX_PAGE = 20, 100

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # all but tab, line feed and carriage return
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_SECONDS = re.compile(r"\d{1,6}(\.\d{1,6})?")
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})\"?(?=$|[,;\s])", re.IGNORECASE)


def _no_control_characters(text: str) -> str:
    if _CONTROL.search(text):
        raise PydanticCustomError("control_character", "control characters are not allowed")
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "a message must say something")
    return text


def reachable(session_id: str) -> str:
    """Return the session id; `.` and `..` are none, because clients and proxies take them out of a path."""
    if session_id in (".", ".."):
        raise PydanticCustomError("dots_only", "a session id cannot be a step in a path")
    return session_id


class ChatRequest(BaseModel):
    """The body of `POST /chat`. Without `session_id` the service makes a new session."""

    model_config = ConfigDict(extra="forbid", strict=True)

    message: Annotated[str, Field(min_length=1), AfterValidator(_no_control_characters), AfterValidator(_not_blank)]
    session_id: Annotated[str, Field(pattern=SESSION_ID), AfterValidator(reachable)] | None = None


class UsageBody(BaseModel):
    """What the turn consumed. `usd` is list price."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int
    steps: int
    usd: float


class ChatResponse(BaseModel):
    """A stored turn, as `POST /chat` answers it and as the SSE `done` event carries it."""

    answer: str
    session_id: str
    turn: int
    stop_reason: str
    usage: UsageBody


class TurnBody(BaseModel):
    """A turn in a transcript."""

    turn: int
    message: str
    answer: str
    stop_reason: str
    usage: UsageBody


class Transcript(BaseModel):
    """Turns of a session, oldest first. `before` asks for the page of older ones; null at the beginning."""

    session_id: str
    turns: list[TurnBody]
    before: int | None


class ListedSession(BaseModel):
    """A session in a list, and when it began."""

    session_id: str
    created: datetime


class Sessions(BaseModel):
    """Sessions, newest first. `before` asks for the page of older ones; null where there are none."""

    sessions: list[ListedSession]
    before: str | None


class Cancellation(BaseModel):
    """What is stored of the turn that was running; null where none was, or nothing of it is."""

    session_id: str
    turn: int | None
    stop_reason: str | None


def parse_cursor(before: str) -> SessionStart:
    """Return the session that ends the page before, of which only its place in the list is known."""
    created, _, session_id = before.partition("/")
    return SessionStart(session_id, float(created), expires=0)


def parse_chat(body: bytes, max_message_bytes: int) -> ChatRequest:
    """Return the request in `body`.

    Raises:
        MalformedJSON: it is not one strict JSON document.
        ValidationFailed: it does not fit `ChatRequest`.
        ContentTooLarge: the message is longer than `max_message_bytes` of UTF-8.
    """
    try:
        request = ChatRequest.model_validate(strict_json.parse(body))
    except ValidationError as exc:
        found = exc.errors(include_url=False, include_context=False, include_input=False)
        raise ValidationFailed([_place(each["loc"], each["type"]) for each in found]) from None
    if len(request.message.encode()) > max_message_bytes:
        raise ContentTooLarge
    return request


def parse_idempotency_key(values: Sequence[str]) -> str | None:
    """Return the key of the Idempotency-Key headers, without the quotes of RFC 8941 strings; None without a header."""
    if not values:
        return None
    key = values[0]
    if len(key) > len('""') and key[0] == key[-1] == '"':
        key = key[1:-1]
    if len(values) > 1 or not _IDEMPOTENCY_KEY.fullmatch(key):
        raise InvalidIdempotencyKey
    return key


def parse_wait(values: Iterable[str]) -> int:
    """Return the seconds of `Prefer: wait=N` (RFC 7240), at most MAX_WAIT_S; 0 without one. Others are ignored."""
    for value in values:
        if found := _WAIT.search(value):
            return min(int(found[1]), MAX_WAIT_S)
    return 0


def parse_timeout(values: Sequence[str]) -> float | None:
    """Return the seconds of `X-Request-Timeout`; None without it, or where it is no number above 0."""
    if not values or not _SECONDS.fullmatch(values[0]):
        return None
    return float(values[0]) or None


def wants_stream(accept: str) -> bool:
    """Return whether the caller takes SSE, which it must name and not like less than JSON.

    Raises:
        NotAcceptable: neither is accepted.
    """
    if accept in ("", "*/*", "application/json"):
        return False  # what nearly everybody sends
    weights = dict(map(_media_range, accept.split(",")))
    stream = weights.get("text/event-stream", 0.0)
    document = next((weights[each] for each in ("application/json", "application/*", "*/*") if each in weights), 0.0)
    if not stream and not document:
        raise NotAcceptable
    return stream > 0 and stream >= document


def chat_body(done: TurnDone) -> bytes:
    """Return the JSON of `ChatResponse` for a stored turn."""
    turn = done.turn
    return to_json(
        {
            "answer": turn.answer,
            "session_id": done.session_id,
            "turn": turn.number,
            "stop_reason": turn.stop_reason,
            "usage": turn.usage,
        }
    )


def transcript_body(session_id: str, turns: Sequence[Turn], before: int | None) -> bytes:
    """Return the JSON of `Transcript`."""
    bodies = [
        {
            "turn": turn.number,
            "message": turn.message,
            "answer": turn.answer,
            "stop_reason": turn.stop_reason,
            "usage": turn.usage,
        }
        for turn in turns
    ]
    return to_json({"session_id": session_id, "turns": bodies, "before": before})


def sessions_body(sessions: Sequence[SessionStart], last: SessionStart | None) -> bytes:
    """Return the JSON of `Sessions`; `last` ends a page after which there may be others."""
    listed = [
        {"session_id": each.session_id, "created": datetime.fromtimestamp(each.created, UTC)} for each in sessions
    ]
    return to_json({"sessions": listed, "before": f"{last.created:.3f}/{last.session_id}" if last else None})


def cancellation_body(session_id: str, turn: Turn | None) -> bytes:
    """Return the JSON of `Cancellation`."""
    number, reason = (turn.number, turn.stop_reason) if turn else (None, None)
    return to_json({"session_id": session_id, "turn": number, "stop_reason": reason})


async def fold(batches: Batches) -> TurnDone:
    """Return the event that ends a turn; raise the error that ended it instead."""
    last: TurnEvent | None = None
    async with aclosing(batches):
        async for batch in batches:
            last = batch[-1] if batch else last
    if not isinstance(last, TurnDone):
        raise TypeError("a turn ends with TurnDone or raises")
    return last


async def sse(batches: Batches) -> AsyncIterator[bytes]:
    """Yield the frames of a turn, those that are ready together in one chunk; ends with `done` or `error`."""
    try:
        async with aclosing(batches):
            async for batch in batches:
                yield b"".join(map(frame, batch)) or b": keep-alive\n\n"
    except Exception as exc:  # the status has been sent, so here is the edge where our own bugs end
        if not isinstance(exc, ServiceError):
            log.exception("stream failed")
        yield _frame(b"error", to_json(problem_of(exc), exclude_none=True))


def frame(event: TurnEvent) -> bytes:
    """Return one event as a Server-Sent Event."""
    match event:
        case Text():
            return _frame(b"delta", b'{"text":' + to_json(event.text) + b"}")
        case TurnStarted():
            return _frame(b"turn", to_json({"session_id": event.session_id, "turn": event.number}))
        case ToolCall():
            return _frame(b"tool_call", to_json({"id": event.id, "name": event.name, "args": event.args}))
        case ToolResult():
            return _frame(b"tool_result", to_json({"id": event.id, "ok": event.ok}))
        case TurnDone():
            return _frame(b"done", chat_body(event))


def _frame(name: bytes, data: bytes) -> bytes:
    return b"event: " + name + b"\ndata: " + data + b"\n\n"


def _place(loc: tuple[int | str, ...], kind: str) -> dict[str, object]:
    """Return where and which rule. The name of an unknown field is the caller's own text and is left out."""
    return {"loc": [] if kind == "extra_forbidden" else list(loc), "type": kind}


def _media_range(text: str) -> tuple[str, float]:
    media, *parameters = (part.strip().lower() for part in text.split(";"))
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return media, float(parameter[2:])
            except ValueError:
                return media, 0.0
    return media, 1.0
