"""The signals that end a process, and how it hears of them before its server does."""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from app.lifecycle import Lifecycle

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def drain_on_signal(lifecycle: Lifecycle) -> Iterator[None]:
    """Wrap the server's signal handlers, so that the process drains before its server stops listening.

    uvicorn closes the listener at the first signal, and runs the lifespan's end only after the last connection: too
    early and too late to tell a balancer through `/readyz`. Python's own handlers, as under a test or on Lambda, stay.
    """
    loop = asyncio.get_running_loop()
    drains: list[asyncio.Task[None]] = []
    servers = {each: signal.getsignal(each) for each in SIGNALS} if _in_main_thread() else {}
    servers = {each: handler for each, handler in servers.items() if _is_servers(handler)}

    def begin(stop_listening: Callable[[], None]) -> None:
        if drains:
            lifecycle.hurry()
        else:
            drains.append(loop.create_task(lifecycle.drain(stop_listening)))

    def on_signal(number: int, frame: FrameType | None) -> None:
        server = servers[signal.Signals(number)]
        loop.call_soon_threadsafe(begin, lambda: server(number, frame))  # type: ignore[operator,misc]  # _is_servers

    for each in servers:
        signal.signal(each, on_signal)
    try:
        yield
    finally:
        for each, handler in servers.items():
            signal.signal(each, handler)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _is_servers(handler: object) -> bool:
    return callable(handler) and handler is not signal.default_int_handler
