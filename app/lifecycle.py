"""The life of this process: its phase, the turns that run in it, and how it ends. The only mutable global."""

import asyncio
import enum
import logging
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Protocol

from app.errors import Overloaded, ServiceError, ShuttingDown, StoreUnavailable, WarmingUp

log = logging.getLogger(__name__)

STORE_LOOK_S = 1.0  # between two looks at the store, and how long one may take
STORE_ANSWERS = 2  # on end until it counts as back, so that readiness does not flap with a store that does
WARM_UP_RETRY_S = 0.5  # ready well within 2 s of the store's return, at two cheap reads a second while it is gone
STOP_RESERVE_S = 2.0  # of the grace: stopping turns, releasing leases, closing clients
STORE_RESERVE_S = 1.0  # of the grace: when what is still being stored is given up
CLOSE_RESERVE_S = 0.2  # of the grace: when nothing is waited for any more
HURRIED_GRACE_S = 0.5  # after a second signal
SAME_SIGNAL_S = 1.0


class Phase(enum.Enum):
    """Where the process is, in this order. `draining` still serves until the drain delay has passed."""

    COLD = "cold"
    WARMING = "warming"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"


class Turn(Protocol):
    """What the lifecycle needs of a running turn."""

    def stop(self, error: ServiceError, *, even_storing: bool = False) -> None:
        """End the turn with `error`, unless it is being stored already and `even_storing` is not said."""

    async def settled(self) -> None:
        """Return when the turn is stored or given back."""

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call `callback` with the turn once it has settled."""


class Lifecycle:
    """One process's phase and running turns.

    max_turns:       how many turns may run at once; further ones are refused
    drain_delay_s:   how long a draining process goes on serving, so that balancers see it leave
    grace_s:         how long after the first signal the process may live
    warm_in_call_s:  how long a call may wait for the warm-up; for platforms that freeze the process between calls
    store_fails_s:   how long the store may not answer before readiness fails; 0 for ever, because it fails for all
                     replicas at once, and a caller learns more from their problems than from a balancer without any
    """

    def __init__(
        self,
        *,
        max_turns: int,
        drain_delay_s: float,
        grace_s: float,
        warm_in_call_s: float = 0.0,
        store_fails_s: float = 0.0,
    ) -> None:
        self._max_turns = max_turns
        self._drain_delay_s = drain_delay_s
        self._grace_s = grace_s
        self._warm_in_call_s = warm_in_call_s
        self._store_fails_s = store_fails_s
        self._store_lost = False
        self._phase = Phase.COLD
        self._phase_began = time.monotonic()
        self._first_request = True
        self._serving = True
        self._was_ready = False
        self._turns: set[Turn] = set()
        self._hurry = asyncio.Event()
        self._ends_at: float | None = None
        self._probe: Callable[[], Awaitable[None]]  # `begin` sets it, and nothing asks before

    @property
    def phase(self) -> Phase:
        """Where the process is."""
        return self._phase

    @property
    def running_turns(self) -> int:
        """How many turns run now."""
        return len(self._turns)

    def take_cold_start(self) -> bool:
        """Return True exactly once, for the first request of the process."""
        first, self._first_request = self._first_request, False
        return first

    def begin(self, probe: Callable[[], Awaitable[None]]) -> None:
        """Everything is open: warm up by asking `probe`, which raises StoreUnavailable as long as it must."""
        self._probe = probe
        self._move(Phase.WARMING)

    def begin_again(self) -> None:
        """Everything is open anew, in another place perhaps: warm up again."""
        self._move(Phase.WARMING)

    async def run(self) -> None:
        """Warm up; then, where readiness depends on the store, look after it for ever."""
        await self.warm_up()
        if self._store_fails_s:
            await self._watch_store()

    async def _watch_store(self) -> None:
        failing_since, answers = math.inf, 0
        while True:
            await asyncio.sleep(STORE_LOOK_S)
            if await self._store_answers():
                failing_since, answers = math.inf, answers + 1
                lost = self._store_lost and answers < STORE_ANSWERS
            else:
                failing_since, answers = min(failing_since, _now()), 0
                lost = self._store_lost or _now() - failing_since >= self._store_fails_s
            if lost is not self._store_lost:
                log.warning("readiness changed", extra={"store_answers": not lost})
                self._store_lost = lost

    async def _store_answers(self) -> bool:
        try:
            async with asyncio.timeout(STORE_LOOK_S):
                await self._probe()
        except (StoreUnavailable, TimeoutError):
            return False
        except Exception:  # as in the warm-up
            log.exception("the store cannot be asked")
            return False
        return True

    async def warm_up(self, limit_s: float | None = None) -> None:
        """Ask the probe until it succeeds, which makes the process ready, or until `limit_s` has passed."""
        ends_at = math.inf if limit_s is None else _now() + limit_s
        while self._phase is Phase.WARMING and _now() < ends_at:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(None if limit_s is None else ends_at):
                    await self._ask()

    async def _ask(self) -> None:
        try:
            await self._probe()
        except StoreUnavailable as exc:
            log.warning("warm-up failed", extra={"reason": str(exc)})
            await asyncio.sleep(WARM_UP_RETRY_S)
        except Exception:  # a bug must not end the warm-up without a word, and with it the process's hope to serve
            log.exception("warm-up failed")
            await asyncio.sleep(WARM_UP_RETRY_S)
        else:
            if self._phase is Phase.WARMING:
                self._was_ready = True
                self._move(Phase.READY)

    async def check_ready(self) -> None:
        """Return if this process should get new traffic.

        Raises:
            WarmingUp: warm-up has not finished.
            ShuttingDown: the process is draining.
            StoreUnavailable: the store has not answered for too long, and readiness depends on it.
        """
        await self._check_phase()
        if self._store_lost:
            raise StoreUnavailable("the session store has not answered for too long")

    async def _check_phase(self) -> None:
        await self._warm_in_call()
        if self._phase is not Phase.READY:
            raise WarmingUp if self._phase in (Phase.COLD, Phase.WARMING) else ShuttingDown

    async def check_turn(self) -> None:
        """Return if a turn may start here. A draining process takes turns until its drain delay has passed.

        Raises:
            WarmingUp, ShuttingDown, Overloaded: it may not.
        """
        if not (self._phase is Phase.DRAINING and self._serving and self._was_ready):
            await self._check_phase()
        if len(self._turns) >= self._max_turns:
            raise Overloaded

    async def _warm_in_call(self) -> None:
        if self._phase is Phase.WARMING and self._warm_in_call_s:
            await self.warm_up(self._warm_in_call_s)

    def track(self, turn: Turn) -> None:
        """Count a turn among the running ones until it has settled."""
        self._turns.add(turn)
        turn.add_done_callback(self._turns.discard)

    def hurry(self) -> None:
        """A second signal: give the running turns HURRIED_GRACE_S instead of the rest of the grace.

        Not within a second of the first: a signal to a process group reaches a worker twice, once from its parent.
        """
        if self._ends_at is not None and _now() > self._ends_at - self._grace_s + SAME_SIGNAL_S:
            self._hurry.set()

    async def drain(self, stop_listening: Callable[[], None]) -> None:
        """Announce the end, serve on for the drain delay, then stop listening and let the running turns finish.

        Turns that still run STOP_RESERVE_S before the grace ends are stopped: nothing of them is stored, their leases
        are released and their clients told.
        """
        self._announce()
        await self._wait(asyncio.Event().wait(), self._drain_delay_s)
        stop_listening()
        await self.finish()

    async def finish(self) -> None:
        """Wait for the running turns, stop those that outlive the grace, and return before it ends in any case."""
        ends_at = self._announce()
        self._serving = False
        await self._wait(self._settled(), ends_at - STOP_RESERVE_S - _now())
        for even_storing, reserve_s in ((False, min(STORE_RESERVE_S, self._grace_s / 3)), (True, CLOSE_RESERVE_S)):
            for turn in tuple(self._turns):
                turn.stop(ShuttingDown(), even_storing=even_storing)
            if self._turns:
                await asyncio.wait(
                    [asyncio.ensure_future(self._settled())], timeout=max(ends_at - reserve_s - _now(), 0)
                )

    def _announce(self) -> float:
        """Move to draining, once, and return the instant at which the grace ends."""
        if self._ends_at is None:
            self._ends_at = _now() + self._grace_s
            self._move(Phase.DRAINING)
        return self._ends_at

    @property
    def left_s(self) -> float:
        """How many seconds of the grace are left, once it has begun, without those for the process itself to end."""
        return self._grace_s if self._ends_at is None else self._ends_at - CLOSE_RESERVE_S - _now()

    def stopped(self) -> None:
        """Everything is closed."""
        self._move(Phase.STOPPED)

    async def _settled(self) -> None:
        while self._turns:
            await asyncio.wait([asyncio.ensure_future(turn.settled()) for turn in self._turns])

    async def _wait(self, awaitable: Awaitable[object], limit_s: float) -> None:
        """Wait for `awaitable` up to `limit_s`, or for HURRIED_GRACE_S once a second signal came."""
        wanted = asyncio.ensure_future(awaitable)
        hurried = asyncio.ensure_future(self._hurry.wait())
        await asyncio.wait([wanted, hurried], timeout=max(limit_s, 0.0), return_when=asyncio.FIRST_COMPLETED)
        if hurried.done() and not wanted.done():
            await asyncio.wait([wanted], timeout=HURRIED_GRACE_S)
        for future in (wanted, hurried):
            future.cancel()

    def _move(self, phase: Phase) -> None:
        now = time.monotonic()
        elapsed_ms = round((now - self._phase_began) * 1000, 1)
        log.info("phase changed", extra={"phase": phase.value, "was": self._phase.value, "elapsed_ms": elapsed_ms})
        self._phase, self._phase_began = phase, now


def _now() -> float:
    return asyncio.get_running_loop().time()
