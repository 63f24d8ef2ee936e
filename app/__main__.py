"""`python -m app`: the container server, and `python -m app check-config`."""

import argparse
import json
import math
import signal
import sys
from typing import NoReturn

import uvicorn

from app import config
from app.errors import ConfigurationError
from app.main import build

EX_CONFIG = 78  # sysexits.h: the process must not be restarted before somebody changes the configuration
KEEP_ALIVE_S = 75  # above the idle timeout of usual balancers (60 s), so that they and not we close a connection


def main() -> None:
    """Run the command that the arguments name."""
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, _leave)  # uvicorn raises the signal again after the drain, which then means: exit 0
    parser = argparse.ArgumentParser(prog="python -m app", description="Serve the agent over HTTP.")
    parser.add_argument(
        "command",
        nargs="?",
        choices=["serve", "check-config"],
        default="serve",
        help="serve (default), or print the effective settings without secrets and say what is wrong with them",
    )
    command = parser.parse_args().command
    try:
        check_config() if command == "check-config" else serve()
    except ConfigurationError as exc:
        print("\n".join(exc.problems), file=sys.stderr)
        sys.exit(EX_CONFIG)


def check_config() -> None:
    """Print the effective settings as JSON; of secrets only whether they are set."""
    settings = config.load()
    print(json.dumps(settings.redacted(), indent=2))
    if problems := settings.validate():
        raise ConfigurationError(problems)


def serve() -> None:
    """Serve until a signal, drain, and return."""
    app = build()
    settings = app.state.settings
    server = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        lifespan="on",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        # Turns have ended by then; this ends readers that do not read. Draining starts later by the drain delay.
        timeout_graceful_shutdown=math.ceil(settings.shutdown_grace_s - settings.drain_delay_s),
    )
    uvicorn.Server(server).run()


def _leave(*_: object) -> NoReturn:
    sys.exit(0)


if __name__ == "__main__":
    main()
