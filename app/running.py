"""A turn in progress, as those see it who wait for it: its events in order, and the ways to end it early."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence

from app.errors import AgentFailed, ServiceError, ShuttingDown, StoreUnavailable, TurnCancelled
from app.events import Text, TurnEvent
from app.work import Cut

log = logging.getLogger(__name__)

BACKLOG = 64  # events that wait for their reader singly; behind them texts are joined, so that none costs an object
JOINED_CHARS = 4096  # of texts joined
WATCH_S = 1.5  # between two looks at the store whether the turn has been ended elsewhere; each costs a read unit
LATE_S = 1.0  # for a turn that comes to its store after its time, to be told whether it still counts
OBEY_S = 0.3  # how long an agent that is ended may clean up; what is left of the turn's margins is for the commit


class RunningTurn:
    """A turn in progress and the events its reader has not taken yet.

    The events are kept until they are read: all of them together are no larger than the turn, which is in memory anyway
    until it is stored.

    `fields` are those of its response that say what its principal's limits leave.

    work:  does the turn
    ended: is told once, in the end, of what ended it in the place of an answer, before its reader hears of that
    """

    def __init__(
        self,
        work: Callable[["RunningTurn"], Coroutine[None, None, None]],
        ended: Callable[[BaseException | None], None],
    ) -> None:
        self.fields: dict[str, str] = {}
        self._ended = ended
        self._begun = False
        self._events: list[TurnEvent] = []
        self._wake = asyncio.Event()
        self._beating: asyncio.TimerHandle | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._stopped_by: ServiceError | None = None
        self._settling = False
        self._agent_ended: asyncio.Future[Cut | None] | None = None  # from when the agent runs
        self._watching: asyncio.Task[None] | None = None
        self._task = asyncio.create_task(self._guard(work))
        self._task.add_done_callback(self._on_done)

    def emit(self, event: TurnEvent) -> None:
        """Hand an event to the reader."""
        if len(self._events) < BACKLOG or not self._join(event):
            self._events.append(event)
        self._wake.set()

    def _join(self, event: TurnEvent) -> bool:
        """Add a text to the last one that waits, if that is short."""
        last = self._events[-1]
        if not (isinstance(event, Text) and isinstance(last, Text) and len(last.text) < JOINED_CHARS):
            return False
        self._events[-1] = Text(last.text + event.text)
        return True

    def end_at(self, instant: float) -> None:
        """See to it that the turn does not wait for its store beyond `instant` on the event loop's clock."""
        error, loop = StoreUnavailable("the session store did not answer in time"), asyncio.get_running_loop()

        def late() -> None:
            if self._agent_ended is None or self._settling:
                self.stop(error, even_storing=True)
            else:  # the process slept beyond the deadline, which only now ends the agent: then the store is asked once
                self._timers.append(loop.call_later(LATE_S, late))

        self._timers.append(loop.call_at(instant, late))

    async def run_agent(self, work: Coroutine[None, None, None], deadline: float) -> Cut | None:
        """Run the agent and return what cut it short, or None when it came to its own end. Raises what it raised.

        It runs in a task of its own, because nothing makes code that is not ours obey: after OBEY_S it is left behind.
        """
        loop = asyncio.get_running_loop()
        self._agent_ended = loop.create_future()
        agent = loop.create_task(work)
        agent.add_done_callback(self._on_agent_done)
        self._timers.append(loop.call_at(deadline, self.end_agent, "deadline"))
        try:
            cut = await self._agent_ended
            if agent.cancelled():
                raise AgentFailed("the agent raised CancelledError")
            if cut is None:
                agent.result()
            if cut == "budget":  # it is being closed already: cancelled now, it could not wait for what it gives back
                await asyncio.wait([agent], timeout=OBEY_S)
            return cut
        finally:
            if not agent.done():
                agent.cancel()
                _, alive = await asyncio.wait([agent], timeout=OBEY_S)
                if alive:
                    log.error("an agent does not end and is left behind")

    def _on_agent_done(self, agent: asyncio.Task[None]) -> None:
        if not agent.cancelled():
            agent.exception()  # read here, because an agent that was cut short is asked for nothing
        self.end_agent(None)

    def end_agent(self, cut: Cut | None) -> None:
        """End the agent with what was said, because of `cut`; None where it ended by itself. The first one counts."""
        if self._agent_ended and not self._agent_ended.done():
            self._agent_ended.set_result(cut)

    def watch(self, look: Callable[[], Coroutine[None, None, None]]) -> None:
        """Let `look` see every WATCH_S, until the turn settles, whether it has been ended elsewhere."""

        async def watching() -> None:
            while True:
                await look()
                await asyncio.sleep(WATCH_S)

        def begin() -> None:
            if not self._settling:
                self._watching = asyncio.create_task(watching())

        self._timers.append(asyncio.get_running_loop().call_later(WATCH_S, begin))  # most turns have ended by then

    def settle(self) -> None:
        """From here on the turn is being stored or given back, and it is too late for `cancel` and a soft `stop`."""
        self._settling = True
        self._stop_watching()

    def _stop_watching(self) -> None:
        if self._watching:
            self._watching.cancel()

    def stop(self, error: ServiceError, *, even_storing: bool = False) -> None:
        """End the turn with `error` and no answer. What is being stored is let through, unless `even_storing`."""
        if even_storing or not self._settling:
            self._stopped_by = error
            self._task.cancel()

    def cancel(self) -> None:
        """End the turn now, with what was said; what is being stored already is let through."""
        if self._agent_ended is None:
            self.stop(TurnCancelled())
        self.end_agent("cancelled")

    async def settled(self) -> None:
        """Return when the turn is stored or given back. Never raises for it."""
        await asyncio.wait([self._task])

    def add_done_callback(self, callback: Callable[["RunningTurn"], None]) -> None:
        """Call `callback` with this turn once it has settled."""
        self._task.add_done_callback(lambda _: callback(self))

    async def batches(self, heartbeat_s: float) -> AsyncGenerator[Sequence[TurnEvent], None]:
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
                if failure := self._failure():
                    raise failure
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
            self._beating = asyncio.get_running_loop().call_later(heartbeat_s, self._beat, heartbeat_s)

    async def _guard(self, work: Callable[["RunningTurn"], Coroutine[None, None, None]]) -> None:
        self._begun = True
        try:
            await work(self)
        except asyncio.CancelledError:
            self._ended(self._stopped_by or ShuttingDown())
            if self._stopped_by is None:
                raise
            raise self._stopped_by from None
        except BaseException as exc:
            self._ended(exc)
            raise
        self._ended(None)

    def _on_done(self, _: asyncio.Task[None]) -> None:
        failure = self._failure()  # read here, because the reader may have left
        if not self._begun:  # ended before its first step, a task does nothing at all
            self._ended(failure)
        for timer in (*self._timers, self._beating):
            if timer:
                timer.cancel()
        self._stop_watching()
        self._wake.set()

    def _failure(self) -> BaseException | None:
        return ShuttingDown() if self._task.cancelled() else self._task.exception()
