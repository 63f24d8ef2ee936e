"""Agents that look at the environment they run in, for `AGENT=tests.lambda_runtime.agents:name`."""

import asyncio
import logging
import logging.handlers
import os
import random
import sys
from collections.abc import AsyncIterator
from typing import Self

from app.agents import OpenTurn
from app.events import AgentEvent

late = logging.handlers.MemoryHandler(
    1000, target=logging.FileHandler(os.environ.get("FLUSHED", "flushed.log"), delay=True)
)


async def tasks(_: OpenTurn) -> AsyncIterator[AgentEvent]:
    """Say how many tasks there are on the event loop."""
    yield str(len(asyncio.all_tasks()))


async def crashing(turn: OpenTurn) -> AsyncIterator[AgentEvent]:
    """End the process if the message says so."""
    yield "begun"
    if turn.message == "crash":
        os._exit(3)


async def logging_late(turn: OpenTurn) -> AsyncIterator[AgentEvent]:
    """Log through a handler that keeps what it gets until it is flushed."""
    late.handle(logging.makeLogRecord({"msg": f"turn {turn.number}", "levelno": logging.INFO}))
    yield "logged"


async def chance(_: OpenTurn) -> AsyncIterator[AgentEvent]:
    """Say a random number, where every process begins with the same ones, as environments of one snapshot do."""
    yield str(random.random())  # noqa: S311 nothing here is secret


class Snapshot:
    """Count how often it is opened and closed, and say so."""

    def __init__(self) -> None:
        self._told: list[str] = []

    async def __aenter__(self) -> Self:
        self._told.append("opened")
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._told.append("closed")

    @property
    def told(self) -> str:
        return " ".join(self._told)

    async def __call__(self, _: OpenTurn) -> AsyncIterator[AgentEvent]:
        yield self.told


class Unopenable(Snapshot):
    """Fail to open."""

    async def __aenter__(self) -> Self:
        raise LookupError("canary")


snapshot, unopenable = Snapshot(), Unopenable()


def failing_before() -> None:
    raise LookupError("canary")


if os.environ.get("FAILING_HOOK"):
    import snapshot_restore_py

    register = {
        "before": snapshot_restore_py.register_before_snapshot,
        "after": snapshot_restore_py.register_after_restore,
    }
    register[os.environ["FAILING_HOOK"]](failing_before)
random.seed(1)
if os.environ.get("EXIT_AT_IMPORT"):
    sys.exit("canary")
