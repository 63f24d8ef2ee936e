"""One turn: claim the number, run the agent, commit the whole turn, then acknowledge.

A turn is a task of its own. Its connection only reads from it, so a client that hangs up neither loses the turn nor
leaves the session held.
"""

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from app.agents import Agent, OpenTurn
from app.deadline import COMMIT_MARGIN_S, LEASE_MARGIN_S
from app.errors import AgentFailed, DeadlineExceeded, ResponseTooLarge, ServiceError, ShuttingDown
from app.events import (
    AgentEvent,
    State,
    Stop,
    Text,
    ToolCall,
    ToolResult,
    Turn,
    TurnDone,
    TurnEvent,
    TurnStarted,
)
from app.sessions import SessionKey
from app.sessions.claims import Claim, Claims

log = logging.getLogger(__name__)

MAX_ANSWER_CHARS = (
    1_000_000  # more fits into no item even when compressed; the buffer of a slow reader is bounded by it
)
END = Stop()  # of an agent that yields none
YIELD_EVERY = 64  # events after which an agent that never waits lets other turns run


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """A user message on its way into a session.

    wait_s:   how long to wait for a busy session before giving up
    deadline: the instant on the running event loop's clock by which the turn must have answered
    """

    key: SessionKey
    message: str
    idempotency_key: str | None
    wait_s: float
    deadline: float


class RunningTurn:
    """A turn in progress and the events its reader has not taken yet.

    The events are kept until they are read: all of them together are no larger than the turn, which is in memory anyway
    until it is stored.
    """

    def __init__(self, work: Callable[["RunningTurn"], Coroutine[None, None, None]]) -> None:
        self._events: list[TurnEvent] = []
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._stopped_by: ServiceError | None = None
        self._settling = False
        self._task = asyncio.create_task(self._guard(work))
        self._task.add_done_callback(self._on_done)

    def emit(self, event: TurnEvent) -> None:
        """Hand an event to the reader."""
        self._events.append(event)
        self._wake.set()

    def settle(self) -> None:
        """From here on the turn is being stored, and `stop` comes too late."""
        self._settling = True

    def stop(self, error: ServiceError) -> None:
        """End the turn with `error` instead of an answer; what is being stored already is let through."""
        if not self._settling:
            self._stopped_by = error
            self._task.cancel()

    async def settled(self) -> None:
        """Return when the turn is stored or given back. Never raises for it."""
        await asyncio.wait([self._task])

    def add_done_callback(self, callback: Callable[["RunningTurn"], None]) -> None:
        """Call `callback` with this turn once it has settled."""
        self._task.add_done_callback(lambda _: callback(self))

    async def batches(self, heartbeat_s: float) -> AsyncIterator[Sequence[TurnEvent]]:
        """Yield the events in order, those that are ready together in one batch.

        Empty batches see to it that no `heartbeat_s` seconds pass without a batch. Raises the `ServiceError` that ended
        the turn, after the events before it.
        """
        self._beat(heartbeat_s)
        while True:
            if self._events:
                batch, self._events = self._events, []
                yield batch
            elif self._task.done():
                self._raise_failure()
                return
            else:
                self._wake.clear()
                await self._wake.wait()
                if not self._events and not self._task.done():
                    yield ()

    def _beat(self, heartbeat_s: float) -> None:
        """Wake the reader, now and every `heartbeat_s` seconds. A timer for each of its waits would cost much more."""
        if not self._task.done():
            self._wake.set()
            self._timer = asyncio.get_running_loop().call_later(heartbeat_s, self._beat, heartbeat_s)

    async def _guard(self, work: Callable[["RunningTurn"], Coroutine[None, None, None]]) -> None:
        try:
            await work(self)
        except asyncio.CancelledError:
            if self._stopped_by is None:
                raise
            raise self._stopped_by from None

    def _on_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()  # read here, because the reader may have left
        if self._timer:
            self._timer.cancel()
        self._wake.set()

    def _raise_failure(self) -> None:
        if self._task.cancelled():
            raise ShuttingDown
        if failure := self._task.exception():
            raise failure


@dataclass(slots=True)
class _Work:
    """What an agent has done in a turn so far."""

    answer: list[str] = field(default_factory=list)
    tools: list[ToolCall | ToolResult] = field(default_factory=list)
    state: bytes = b""
    stop: Stop = END
    chars: int = 0

    def take(self, event: AgentEvent) -> Text | ToolCall | ToolResult | None:
        """Add an event of the agent and return what its reader is shown of it."""
        match event:
            case str():
                return self._take_text(event)
            case ToolCall() | ToolResult():
                return self._take_tool(event)
            case State():
                self.state = event.data
            case Stop():
                self.stop = event
            case _:
                raise AgentFailed(f"the agent yielded a {type(event).__name__}")
        return None

    def _take_text(self, text: str) -> Text:
        if not text.isascii():
            text = text.encode("utf-8", "replace").decode()  # half of a surrogate pair has no UTF-8
        self.chars += len(text)
        if self.chars > MAX_ANSWER_CHARS:
            raise ResponseTooLarge("the agent's answer passed its limit")
        self.answer.append(text)
        return Text(text)

    def _take_tool(self, event: ToolCall | ToolResult) -> ToolCall | ToolResult:
        try:
            fields = [getattr(event, name) for name in event.__slots__]
            json.dumps(fields, allow_nan=False, ensure_ascii=False).encode()
        except (TypeError, ValueError, RecursionError) as exc:
            raise AgentFailed(f"the agent yielded a {type(event).__name__} that is not JSON") from exc
        self.tools.append(event)
        return event

    def cut(self) -> None:
        """The deadline passed: what was said stands, and no tool call stays without its result."""
        if not self.answer and not self.tools:
            raise DeadlineExceeded
        answered = {tool.id for tool in self.tools if isinstance(tool, ToolResult)}
        calls = [tool for tool in self.tools if isinstance(tool, ToolCall)]
        self.tools += [ToolResult(call.id, None, ok=False) for call in calls if call.id not in answered]
        self.stop = Stop("deadline", self.stop.usage)


class TurnService:
    """Runs turns of `agent` on the sessions behind `claims`. Holds no state of a turn."""

    def __init__(self, claims: Claims, agent: Agent, max_steps: int) -> None:
        self._claims = claims
        self._agent = agent
        self._max_steps = max_steps

    def start(self, request: TurnRequest) -> RunningTurn:
        """Start the turn as a task of its own and return it."""
        return RunningTurn(lambda running: self._logged(request, running))

    async def _logged(self, request: TurnRequest, running: RunningTurn) -> None:
        """Run the turn and close it with one log line, which holds nothing that a user or a model said."""
        started = time.monotonic()
        facts: dict[str, object] = {"session": hashlib.sha256(str(request.key).encode()).hexdigest()[:12]}
        try:
            facts |= await self._run(request, running)
        except BaseException as exc:
            facts["error"] = type(exc).__name__
            raise
        finally:
            facts["elapsed_ms"] = round((time.monotonic() - started) * 1000)
            log.log(logging.WARNING if "error" in facts else logging.INFO, "turn finished", extra=facts)

    async def _run(self, request: TurnRequest, running: RunningTurn) -> dict[str, object]:
        now = asyncio.get_running_loop().time()
        lease_s = request.deadline - now + LEASE_MARGIN_S
        claim = await self._claims.claim_or_wait(
            request.key,
            request.idempotency_key,
            request.message,
            lease_s,
            min(request.wait_s, request.deadline - now),
        )
        if isinstance(claim, Turn):
            turn = claim
            _replay(request.key, turn, running)
        else:
            running.emit(TurnStarted(request.key.session_id, claim.item.turn))
            turn = await self._answer_and_commit(request, claim, running)
        running.emit(TurnDone(request.key.session_id, turn))
        replayed = turn is claim
        return {"turn": turn.number, "stop_reason": turn.stop_reason, "replayed": replayed}

    async def _answer_and_commit(self, request: TurnRequest, claim: Claim, running: RunningTurn) -> Turn:
        try:
            turn = await self._answer(request, claim, running)
            running.settle()
            left_s = request.deadline - asyncio.get_running_loop().time()
            await self._claims.commit(claim, turn, max(left_s, 0.0) + COMMIT_MARGIN_S)
        except BaseException:  # whatever ended it: nothing is stored, so the session must not stay held
            await self._claims.release(claim)
            raise
        return turn

    async def _answer(self, request: TurnRequest, claim: Claim, running: RunningTurn) -> Turn:
        """Run the agent to its end or to the deadline and return the turn it made."""
        work = _Work()
        try:
            async with asyncio.timeout_at(request.deadline) as limit:
                await self._follow(self._open(request, claim), work, running)
        except TimeoutError as exc:
            if not limit.expired():
                raise AgentFailed("the agent raised TimeoutError") from exc
            work.cut()
        return Turn(
            number=claim.item.turn,
            message=request.message,
            answer="".join(work.answer),
            tools=tuple(work.tools),
            state=work.state,
            stop_reason=work.stop.reason,
            usage=work.stop.usage,
        )

    async def _follow(self, turn: OpenTurn, work: _Work, running: RunningTurn) -> None:
        count = 0
        try:
            async with aclosing(self._agent(turn)) as events:  # type: ignore[type-var]  # `load` saw an async generator
                async for event in events:
                    if shown := work.take(event):
                        running.emit(shown)
                    count += 1
                    if count % YIELD_EVERY == 0:
                        await asyncio.sleep(0)
        except (ServiceError, TimeoutError):
            raise
        except Exception as exc:  # the agent is the user's code: one of the two edges where anything may come
            raise AgentFailed(f"the agent raised {type(exc).__name__}") from exc

    def _open(self, request: TurnRequest, claim: Claim) -> OpenTurn:
        return OpenTurn(
            message=request.message,
            history=claim.history,
            state=claim.history[-1].state if claim.history else b"",
            session_id=request.key.session_id,
            principal=request.key.principal,
            max_steps=self._max_steps,
            deadline=request.deadline,
        )


def _replay(key: SessionKey, turn: Turn, running: RunningTurn) -> None:
    running.emit(TurnStarted(key.session_id, turn.number, replayed=True))
    for tool in turn.tools:
        running.emit(tool)
    if turn.answer:
        running.emit(Text(turn.answer))
