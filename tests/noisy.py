"""An agent that does everything that prints by itself, for `AGENT=tests.noisy:agent`. CANARY may be nowhere."""

import asyncio
import logging
import threading
import warnings
from collections.abc import AsyncIterator
from typing import NoReturn

from app.agents import OpenTurn
from app.events import AgentEvent
from tests.log_lines import CANARY


class Held:
    """Raises in its finalizer."""

    def __del__(self) -> None:
        raise ValueError(CANARY)


def fail() -> NoReturn:
    raise ValueError(CANARY)


async def fail_later() -> None:
    fail()


async def agent(turn: OpenTurn) -> AsyncIterator[AgentEvent]:
    """Warn, fail in a thread, in a finalizer and in a forgotten task, and log as libraries do."""
    warnings.warn(f"{CANARY} {turn.message}", UserWarning, stacklevel=1)
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    Held()
    forgotten = asyncio.create_task(fail_later())
    await asyncio.wait([forgotten])
    del forgotten
    logging.getLogger("asyncio").error("Task exception was never retrieved: %r", ValueError(CANARY))
    logging.getLogger("botocore.endpoint").setLevel(logging.DEBUG)  # as its own `set_debug_logger` does
    logging.getLogger("botocore.endpoint").debug("Making request with %s", CANARY)
    logging.getLogger("uvicorn.asgi").setLevel(logging.DEBUG)
    logging.getLogger("uvicorn.asgi").debug("ASGI Started scope=%s", {"path": CANARY})
    logging.getLogger("botocore.endpoint").warning("Retry needed, got %s", CANARY)
    logging.getLogger("urllib3.connectionpool").warning("Retrying after %s", CANARY)
    logging.getLogger("some.library").warning("%d is no number", CANARY)
    yield "done"


warnings.warn(CANARY, UserWarning, stacklevel=1)
