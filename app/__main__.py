"""`python -m app`: the container server; `python -m app check-config`; `python -m app new-key`."""

import os
import signal
import sys
from typing import NoReturn

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def _leave_at_once(*_: object) -> NoReturn:
    """End while nothing is open. Not by an exception: in the middle of an import it may be ignored."""
    os._exit(0)


# Before the imports, which take a second: as process 1 of a container, a process has no handler but its own.
for _each in SIGNALS:
    signal.signal(_each, _leave_at_once)
if sys.platform != "win32":  # the image's entry point lets them wait until here
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

import argparse  # noqa: E402
import asyncio  # noqa: E402, TC003 a name in an annotation that is a text
import contextlib  # noqa: E402
import importlib.util  # noqa: E402
import json  # noqa: E402
import socket  # noqa: E402 as asyncio
import threading  # noqa: E402
from collections.abc import Iterator  # noqa: E402 as asyncio
from types import FrameType  # noqa: E402 as asyncio
from typing import Literal  # noqa: E402

import uvicorn  # noqa: E402

from app import main as composition  # noqa: E402
from app.auth import api_keys  # noqa: E402
from app.errors import ConfigurationError  # noqa: E402

EX_CONFIG = 78  # sysexits.h: the process must not be restarted before somebody changes the configuration
EXIT_S = 1.0  # from the end of the drain; the interpreter needs a tenth of it
READERS_RESERVE_S = 0.1  # of the grace: what remains after the last connection
KEEP_ALIVE_S = 75  # above the idle timeout of usual balancers (60 s), so that they and not we close a connection


def main() -> None:
    """Run the command that the arguments name."""
    parser = argparse.ArgumentParser(prog="python -m app", description="Serve the agent over HTTP.")
    parser.add_argument(
        "command",
        nargs="?",
        choices=["serve", "check-config", "new-key"],
        default="serve",
        help="serve (default); print the effective settings without secrets and say what is wrong with them; "
        "or make an API key",
    )
    parser.add_argument("principal", nargs="?", help="of new-key: whom the key is for (default: me)")
    arguments = parser.parse_args()
    if arguments.command == "new-key":
        new_key(parser, arguments.principal or "me")
        return
    if arguments.principal is not None:
        parser.error("only new-key takes a principal")
    try:
        check_config() if arguments.command == "check-config" else serve()
    except ConfigurationError as exc:
        print("\n".join(exc.problems), file=sys.stderr)
        sys.exit(EX_CONFIG)


def check_config() -> None:
    """Print the effective settings as JSON; of secrets only whether they are set."""
    settings, _, problems = composition.load()
    print(json.dumps(settings.redacted(), indent=2))
    if problems:
        raise ConfigurationError(problems)


def new_key(parser: argparse.ArgumentParser, principal: str) -> None:
    """Print a new API key, and the pair of principal and digest to set for it. The key itself is kept nowhere."""
    key = api_keys.make()
    try:
        pair = api_keys.checked(api_keys.pair(principal, key))
    except ValueError:
        parser.error("a principal is 1 to 1024 visible ASCII characters, without a comma, and not anonymous")
    print(f"key   {key}\npair  {pair}")


def serve() -> None:
    """Serve until a signal, drain, and return."""
    app = composition.build()
    settings = app.state.settings
    host, port = settings.address
    server = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=_protocol(),
        lifespan="on",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        # Turns have ended by then; this ends readers that do not read. It counts from the end of the drain delay.
        timeout_graceful_shutdown=settings.grace_s - settings.drain_delay_s - READERS_RESERVE_S,
    )
    Server(server).run()


class Server(uvicorn.Server):
    """uvicorn's server, which ends when it has shut down, whatever threads are still at work.

    Python waits for threads before it exits, and a tool or an agent's client may hold one for ever.
    """

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take over the signals. uvicorn raises them again after the drain, which then means: exit 0."""
        for each in SIGNALS:
            signal.signal(each, _leave)
        with super().capture_signals():
            yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end; at once where nothing is served yet, because an agent may take its time to open."""
        if not self.started:
            _leave_at_once()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: D102 as uvicorn has it
        await super().shutdown(sockets)
        end = threading.Timer(EXIT_S, _exit)
        end.daemon = True
        end.start()


def _leave(*_: object) -> NoReturn:
    sys.exit(0)


def _exit() -> None:
    sys.stdout.flush()
    os._exit(0)


def _protocol() -> "type[asyncio.Protocol] | Literal['auto']":
    """Return our protocol where its parser is installed, as it is everywhere but on Windows."""
    if not importlib.util.find_spec("httptools"):
        return "auto"
    from app.connections import LimitedProtocol  # noqa: PLC0415 it needs the parser

    return LimitedProtocol


if __name__ == "__main__":
    main()
