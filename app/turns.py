"""One turn: claim the number, run the agent, commit the whole turn, then acknowledge.

A turn is a task of its own. Its connection only reads from it, so a client that hangs up neither loses the turn nor
leaves the session held.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass

from app.agents import Agent, OpenTurn
from app.budgets import Budgets, Limit, Reservation
from app.deadline import COMMIT_MARGIN_S, LEASE_MARGIN_S, RELEASE_MARGIN_S
from app.errors import AgentFailed, DeadlineExceeded, LeaseLost, ServiceError, StoreUnavailable, TurnCancelled
from app.events import AgentEvent, Text, ToolResult, Turn, TurnDone, TurnStarted, Usage
from app.limits import PrincipalLimits
from app.report import Report, Reporter
from app.running import RunningTurn
from app.sessions import SessionKey
from app.sessions.claims import Claim, Claims, Standing
from app.work import Work

RELEASE_S = 1.0  # a session that cannot be given back in this time is free when its lease ends
SETTLE_S = 0.1  # at least, also where the process slept past the deadline: what is set aside has no lease that ends
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


class TurnService:
    """Runs turns of `agent` on the sessions behind `claims`, as `limits` and `budgets` admit them. Holds none's state.

    report: told of every turn once, when it has ended and before its caller hears of that, in the context of its start
    """

    def __init__(
        self,
        claims: Claims,
        agent: Agent,
        max_steps: int,
        report: Reporter,
        limits: PrincipalLimits | None = None,
        budgets: Budgets | None = None,
    ) -> None:
        self._claims = claims
        self._agent = agent
        self._max_steps = max_steps
        self._report = report
        self._limits = limits or PrincipalLimits(claims, None, None)
        self._budgets = budgets or Budgets(claims)
        self._keeps_budget = bool(getattr(agent, "keeps_budget", False))

    def start(self, request: TurnRequest, *, streamed: bool = False) -> RunningTurn:
        """Start the turn as a task of its own and return it. `streamed` is only reported."""
        report = Report(request.key, streamed=streamed)

        def end(failure: BaseException | None) -> None:
            report.end(failure)
            self._report(report)

        return RunningTurn(lambda running: self._run(request, running, report), end)

    async def _run(self, request: TurnRequest, running: RunningTurn, report: Report) -> None:
        if request.deadline <= _now():
            raise DeadlineExceeded
        running.end_at(request.deadline + COMMIT_MARGIN_S)
        reservation = Reservation(self._budgets, request.key)
        async with self._admitted(request, running, reservation, report):
            turn = await self._take(request, running, report, reservation)
        report.stop_reason = turn.stop_reason
        running.emit(TurnDone(request.key.session_id, turn))

    @asynccontextmanager
    async def _admitted(
        self, request: TurnRequest, running: RunningTurn, reservation: Reservation, report: Report
    ) -> AsyncIterator[None]:
        """Let the turn begin if its principal's limits do; in the end settle what it reserved and free its slot."""
        running.fields = await self._limits.count(request.key.principal)
        slot = await self._limits.take_slot(request.key.principal, request.deadline - _now() + LEASE_MARGIN_S)
        try:
            yield
        except BaseException:
            running.settle()
            await self._give_back(request, slot, reservation, report)
            raise
        running.settle()
        with suppress(asyncio.CancelledError):  # the turn is stored, whatever stops it now; its slot ends by its lease
            await self._give_back(request, slot, reservation, report)

    async def _give_back(
        self, request: TurnRequest, slot: Claim | None, reservation: Reservation, report: Report
    ) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(max(_release_s(request), SETTLE_S)):
                await reservation.settle(report.usage)
        if slot:
            await self._release(request, slot)

    async def _take(self, request: TurnRequest, running: RunningTurn, report: Report, reservation: Reservation) -> Turn:
        """Return the turn, stored now or before."""
        left_s = request.deadline - _now()
        claim = await self._claims.claim_or_wait(
            request.key,
            request.idempotency_key,
            request.message,
            lease_s=left_s + LEASE_MARGIN_S,
            wait_s=min(request.wait_s, left_s),
        )
        if isinstance(claim, Turn):
            _replay(request.key, claim, running)
            report.number, report.replayed = claim.number, True
            return claim
        report.number = claim.item.turn
        return await self._answer_and_commit(request, claim, running, report, reservation)

    async def _answer_and_commit(
        self, request: TurnRequest, claim: Claim, running: RunningTurn, report: Report, reservation: Reservation
    ) -> Turn:
        running.watch(lambda: self._look(claim, running))
        try:
            await reservation.reserve()
            running.emit(TurnStarted(request.key.session_id, claim.item.turn))
            report.begin("agent")
            turn = await self._answer(request, claim, running, report, reservation)
            report.begin("commit")
            running.settle()
            await self._claims.commit(claim, turn, request.deadline + COMMIT_MARGIN_S - _now())
        except BaseException:  # whatever ended it: nothing is stored, so the session must not stay held
            report.begin("release")
            running.settle()
            await self._release(request, claim)
            raise
        report.begin("release")  # of the slot and of what was reserved, where there is something
        return turn

    async def _look(self, claim: Claim, running: RunningTurn) -> None:
        """End the turn if it has been cancelled, deleted or taken over: nothing of what it still says would be kept."""
        standing = Standing.HELD
        with suppress(StoreUnavailable):
            standing = await self._claims.standing(claim)
        match standing:
            case Standing.CANCELLED:
                running.cancel()
            case Standing.GONE:
                running.stop(TurnCancelled())
            case Standing.TAKEN:
                running.stop(LeaseLost())

    async def cancel(self, key: SessionKey, give_up: float) -> Turn | None:
        """Stop the turn that runs on the session, in whatever process; see `Claims.cancel`."""
        return await self._claims.cancel(key, give_up)

    async def _release(self, request: TurnRequest, claim: Claim) -> None:
        limit_s = _release_s(request)
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._claims.release(claim, limit_s)

    async def _answer(
        self, request: TurnRequest, claim: Claim, running: RunningTurn, report: Report, reservation: Reservation
    ) -> Turn:
        """Run the agent to its end, to a limit, to the deadline or until it is cancelled; return the turn it made."""
        work = report.work = Work()
        opened = self._open(request, claim, reservation.limit)
        try:
            cut = await running.run_agent(self._follow(opened, work, running, reservation), request.deadline)
        finally:
            work.end()
        if cut or work.reason == "deadline":  # an agent that knows its deadline ends by itself in time
            work.cut(cut or "deadline")
        return work.finish(claim.item.turn, request.message)

    async def _follow(self, turn: OpenTurn, work: Work, running: RunningTurn, reservation: Reservation) -> None:
        count = 0
        try:
            async with aclosing(self._agent(turn)) as events:  # type: ignore[type-var]  # `load` saw an async generator
                async for event in events:
                    if work.finished:  # this agent was left behind
                        return
                    before = work.usage
                    if shown := work.take(event):
                        running.emit(shown)
                    if not isinstance(event, str) and await self._has_used_up(event, before, work, reservation):
                        running.end_agent("budget")
                        return
                    count += 1
                    if count % YIELD_EVERY == 0:
                        await asyncio.sleep(0)
        except (ServiceError, asyncio.CancelledError):
            raise
        except BaseException as exc:  # the agent is the user's code: one of the two edges where anything may come
            raise AgentFailed(f"the agent raised {type(exc).__name__}") from exc

    async def _has_used_up(self, event: AgentEvent, before: Usage, work: Work, reservation: Reservation) -> bool:
        """Return whether a step has ended with this event, in a turn that has used what it may.

        A step ends with the last result that its tools owe, or at the latest with the usage of the next one. Of an
        agent that counts no steps, each usage is taken for that of another one.
        """
        if work.usage is not before:
            await reservation.grow(work.usage)
        if self._keeps_budget:
            return False
        if isinstance(event, Usage):
            return (event.steps > before.steps or not event.steps) and reservation.limit.is_reached(before)
        return isinstance(event, ToolResult) and not work.open_calls and reservation.limit.is_reached(work.usage)

    def _open(self, request: TurnRequest, claim: Claim, limit: Limit) -> OpenTurn:
        return OpenTurn(
            message=request.message,
            history=claim.history,
            state=next((turn.state for turn in reversed(claim.history) if turn.state), b""),
            number=claim.item.turn,
            request=claim.item.req,
            session_id=request.key.session_id,
            principal=request.key.principal,
            max_steps=self._max_steps,
            deadline=request.deadline,
            max_tokens=limit.tokens,
            max_usd=limit.usd,
        )


def _replay(key: SessionKey, turn: Turn, running: RunningTurn) -> None:
    running.emit(TurnStarted(key.session_id, turn.number, replayed=True))
    for tool in turn.tools:
        running.emit(tool)
    if turn.answer:
        running.emit(Text(turn.answer))


def _release_s(request: TurnRequest) -> float:
    """Return how long something may take to be given back, before the caller is told."""
    return min(request.deadline + RELEASE_MARGIN_S - _now(), RELEASE_S)


def _now() -> float:
    return asyncio.get_running_loop().time()
