"""What tests need of the machine: programs that may be missing, ports, and waiting for a condition."""

import os
import socket
import time
from collections.abc import Callable

import pytest

START_S = 30.0  # for a server to start, on a busy machine


def tool(name: str, *, for_module: bool = True) -> str:
    """Return where a program of .ci is, from the variable that .ci/with sets. Without it skip, or fail the run.

    for_module: skip the module that asks, while it is imported; else the one test
    """
    variable = name.upper().replace("-", "_")
    if value := os.environ.get(variable):
        return value
    reason = f"{variable} is not set; .ci/{name} prints its value"
    if os.environ.get("REQUIRE_ALL") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason, allow_module_level=for_module)


def coverage() -> dict[str, str]:
    """Return the variables by which a child of a measured run is measured too."""
    names = ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG")
    return {name: os.environ[name] for name in names if name in os.environ}


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def listens(host: str, port: int) -> bool:
    """Return whether somebody listens there."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def wait_until(condition: Callable[[], bool], limit_s: float = START_S, what: str = "the condition holds") -> None:
    """Return once `condition` holds; fail after `limit_s`."""
    give_up = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < give_up, f"not within {limit_s} s: {what}"
        time.sleep(0.02)
