"""Turns and probes over HTTP: parse, call, choose the rendering. Nothing is decided that the inside could decide."""

import asyncio
import uuid
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from app import wire
from app.caller import Caller
from app.deadline import lambda_remaining_s, turn_deadline
from app.errors import ContentTooLarge, MalformedJSON, RequestTimeout, UnsupportedMediaType
from app.events import TurnEvent, TurnStarted
from app.lifecycle import Lifecycle
from app.problems import documented
from app.running import RunningTurn
from app.sessions import SessionKey
from app.turns import TurnRequest, TurnService

ESCAPED_BYTES = 6  # JSON may spend \u0000 on one byte of a message
BODY_SLACK_BYTES = 4096  # of a body, for everything that is not the message
STREAM_HEADERS = {"X-Accel-Buffering": "no"}  # nginx would collect the stream
STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may be and take.

    timeout_s:          the longest a turn may take
    max_message_bytes:  of UTF-8
    body_s:             how long a body may take to arrive
    heartbeat_s:        silence on a stream after which a comment is sent
    stop_on_disconnect: cancel the turn of a caller that hangs up, instead of finishing it
    """

    timeout_s: float
    max_message_bytes: int
    body_s: float
    heartbeat_s: float
    stop_on_disconnect: bool

    @property
    def max_body_bytes(self) -> int:
        """The longest body that can hold the longest message, however it is escaped."""
        return ESCAPED_BYTES * self.max_message_bytes + BODY_SLACK_BYTES


class _Direct(APIRoute):
    """A route whose endpoint takes the request and gives the response: what FastAPI does in between costs as much."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        return self.endpoint


class Routes:
    """`/chat` and the probes, bound to what answers them."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        turns: TurnService,
        caller: Caller,
        limits: Limits,
    ) -> None:
        self._lifecycle = lifecycle
        self._turns = turns
        self._caller = caller
        self._limits = limits

    def add_to(self, router: APIRouter) -> None:
        """Add every path of the service, the busiest first, because they are tried in order."""
        router.add_api_route(
            "/chat",
            self.chat,
            methods=["POST"],
            route_class_override=_Direct,
            response_model=wire.ChatResponse,
            dependencies=self._caller.dependencies,  # for the description; `chat` does not wait for FastAPI
            responses=STREAM | documented(400, 401, 406, 408, 409, 413, 415, 422, 429, 500, 502, 503, 504),
            openapi_extra={
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": wire.ChatRequest.model_json_schema()}},
                }
            },
        )
        router.add_api_route("/healthz", self.healthz, methods=["GET"])
        router.add_api_route("/readyz", self.readyz, methods=["GET"], responses=documented(503))

    async def healthz(self) -> dict[str, str]:
        """Tell that the process can answer. Touches nothing else."""
        return {"status": "alive"}

    async def readyz(self) -> dict[str, object]:
        """Tell whether this process should get new traffic."""
        await self._lifecycle.check_ready()
        return {"status": "ready", "running_turns": self._lifecycle.running_turns}

    async def chat(self, request: Request) -> Response:
        """Take one turn of a session: `Accept: text/event-stream` streams it, anything else waits for the answer.

        `Idempotency-Key` makes a retry safe, `Prefer: wait=N` waits for a busy session, and `X-Request-Timeout` says
        after how many seconds nobody waits any more.
        """
        # First: whoever is refused learns nothing else, and costs nothing.
        principal = await self._caller.principal(request)
        await self._lifecycle.check_turn()
        stream = wire.wants_stream(",".join(request.headers.getlist("accept")))
        turn_request = await self._parse(request, principal)
        # Again: while the body arrived, the process may have filled up or begun to end.
        await self._lifecycle.check_turn()
        turn = self._turns.start(turn_request, streamed=stream)
        self._lifecycle.track(turn)
        watch = self._limits.stop_on_disconnect
        batches = turn.batches(self._limits.heartbeat_s)
        with _cancelled_without_caller(turn, request, watch=watch):
            first = await _first(batches)
            if not stream:
                done = await wire.fold(_chain(first, batches))
        if stream:
            return StreamingResponse(
                wire.sse(_cancelling(turn, _chain(first, batches)) if watch else _chain(first, batches)),
                media_type="text/event-stream",
                headers=STREAM_HEADERS | _turn_headers(first, turn_request) | turn.fields,
            )
        return Response(
            wire.chat_body(done),
            media_type="application/json",
            headers=_turn_headers(first, turn_request) | turn.fields,
        )

    async def _parse(self, request: Request, principal: str) -> TurnRequest:
        media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media != "application/json":
            raise UnsupportedMediaType
        idempotency_key = wire.parse_idempotency_key(request.headers.getlist("idempotency-key"))
        body = await _read(request, self._limits)
        chat = wire.parse_chat(body, self._limits.max_message_bytes)
        return TurnRequest(
            key=SessionKey(principal, chat.session_id or _new_session_id(principal, idempotency_key, chat.message)),
            message=chat.message,
            idempotency_key=idempotency_key,
            wait_s=wire.parse_wait(request.headers.getlist("prefer")),
            deadline=turn_deadline(
                self._limits.timeout_s,
                lambda_remaining_s(request.scope.get("aws.context")),
                wire.parse_timeout(request.headers.getlist("x-request-timeout")),
            ),
        )


def _new_session_id(principal: str, idempotency_key: str | None, message: str) -> str:
    """Return a random id; with an idempotency key the one that a retry gets too, or it would run the agent again."""
    if idempotency_key is None:
        return str(uuid.uuid4())
    named = f"{principal} {idempotency_key} {message}"  # the first two hold no blank, so no other three make this text
    return str(uuid.uuid5(uuid.NAMESPACE_URL, named))


def _turn_headers(first: Sequence[TurnEvent], request: TurnRequest) -> dict[str, str]:
    headers = {}
    if any(isinstance(event, TurnStarted) and event.replayed for event in first):
        headers["Idempotency-Replayed"] = "true"
    if request.wait_s:
        headers["Preference-Applied"] = f"wait={request.wait_s:.0f}"
    return headers


async def _first(batches: wire.Batches) -> Sequence[TurnEvent]:
    """Return the first batch with an event in it; an error before it is still a plain HTTP status."""
    while not (batch := await anext(batches)):
        pass  # a heartbeat: the request waits for a busy session
    return batch


async def _chain(first: Sequence[TurnEvent], rest: wire.Batches) -> wire.Batches:
    async with aclosing(rest):
        yield first
        async for batch in rest:
            yield batch


@contextmanager
def _cancelled_without_caller(turn: RunningTurn, request: Request, *, watch: bool) -> Iterator[None]:
    """Cancel the turn if the caller hangs up within the block; the server tells so in the place of more body."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        turn.cancel()

    watching = asyncio.create_task(gone()) if watch else None
    try:
        yield
    finally:
        if watching:
            watching.cancel()


async def _cancelling(turn: RunningTurn, batches: wire.Batches) -> wire.Batches:
    """Pass the batches on; cancel the turn when the server stops reading before their end."""
    try:
        async with aclosing(batches):
            async for batch in batches:
                yield batch
    finally:
        turn.cancel()  # which a turn that has ended does not notice


async def _read(request: Request, limits: Limits) -> bytes:
    """Return the body. FastAPI's own limit answers in plain text over whatever the app says, so it is counted here."""
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limits.max_body_bytes:
                    raise ContentTooLarge
    except ClientDisconnect:
        raise MalformedJSON from None  # nobody reads the answer; what came is no document
    except TimeoutError:
        raise RequestTimeout from None
    return bytes(body)
