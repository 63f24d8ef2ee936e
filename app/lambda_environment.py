"""One Lambda execution environment: the app, opened and warmed once, on an event loop of its own."""

import asyncio
import logging
import os
import random
import time
from collections.abc import Callable

from fastapi import FastAPI

from app import lambda_shutdown

log = logging.getLogger(__name__)

WARM_UP_S = 3.0  # of the 10 s that Lambda gives the init; what is not warm by then, the first invocation finishes
# Between two invocations the process is frozen, and nobody tells it that a peer has closed a connection or that a
# gateway has forgotten it. Below a minute, where peers do; not the event loop's clock, which may stand still meanwhile.
IDLE_S = 55.0


class Environment:
    """The app and its event loop between the first import and the end of the process.

    clock: epoch seconds
    """

    def __init__(self, app: FastAPI, clock: Callable[[], float] = time.time) -> None:
        self.app = app
        self.loop = asyncio.new_event_loop()
        self._clock = clock
        self._lifecycle, self._clients, self._observed = app.state.lifecycle, app.state.clients, app.state.observed
        self._lifespan = app.router.lifespan_context(app)
        self._used_at = clock()

    def open(self) -> None:
        """Enter the lifespan, for good, and warm up. A store that does not answer is no reason to fail the init."""
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._open())
        kind = os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE")
        if kind == "provisioned-concurrency":
            self._lifecycle.take_cold_start()  # nobody has waited for this start
        if kind == "snap-start":
            self._survive_snapshots()
        if api := os.environ.get("AWS_LAMBDA_RUNTIME_API"):
            lambda_shutdown.receive_sigterm(api)

    async def _open(self) -> None:
        await self._lifespan.__aenter__()
        await self._lifecycle.warm_up(WARM_UP_S)

    def is_stale(self) -> bool:
        """Return, once for each invocation, whether the freeze before it may have outlived the connections."""
        idle_s, self._used_at = self._clock() - self._used_at, self._clock()
        return idle_s > IDLE_S and not self._lifecycle.running_turns

    async def reopen(self) -> None:
        """Leave the connections behind, and open others when they are needed."""
        await self._clients.close()
        await self._clients.open()

    async def prepare(self) -> None:
        """Make ready for an invocation after a freeze of whatever length."""
        if self.is_stale():
            await self.reopen()

    async def finish(self, context: object) -> None:
        """Send what is to be sent of an invocation, before the process is frozen."""
        await self._observed.end_invocation(context)

    def _survive_snapshots(self) -> None:
        """See to it that nothing in the snapshot is shared by the environments made of it.

        Ids come from the system, which Lambda seeds anew. The random numbers of pauses between attempts are ours.
        """
        from snapshot_restore_py import register_after_restore, register_before_snapshot  # noqa: PLC0415 only there

        register_before_snapshot(lambda: self.loop.run_until_complete(self._clients.close()))
        register_after_restore(lambda: self.loop.run_until_complete(self._restored()))

    async def _restored(self) -> None:
        random.seed()
        self._used_at = self._clock()
        await self._clients.open()
        self._lifecycle.begin_again()
        await self._lifecycle.warm_up(WARM_UP_S)


def run_hooks(*, before: bool) -> None:
    """Run everybody's hooks around a snapshot, as AWS's own runtime client does."""
    import snapshot_restore_py  # noqa: PLC0415 only there

    before_hooks, after_hooks = snapshot_restore_py.get_before_snapshot(), snapshot_restore_py.get_after_restore()
    for function, args, named in reversed(before_hooks) if before else after_hooks:
        function(*args, **named)
