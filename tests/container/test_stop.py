"""`docker stop` of the image, while turns run and before it has come to serve."""

import http.client
import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from tests.container.engine import Container, container, docker, service
from tests.machine import tool, wait_until

tool("engine")

GRACE_S = 8  # SHUTDOWN_GRACE_S, which is two seconds below docker's own
CALLERS = 10  # of each kind
TURN_S = 2
STARTS = 8  # signals at other moments of a start
SPEAKING_AGENT = f"""
import asyncio

async def agent(turn):
    print("a turn has begun", flush=True)
    for _ in range(10):
        yield "word "
        await asyncio.sleep({TURN_S} / 10)
"""


def answer_of(running: Container, accept: str) -> str:
    """Return the body of a turn's answer, which must come whole."""
    headers = {"Content-Type": "application/json", "Accept": accept}
    with closing(http.client.HTTPConnection(running.address, running.port, timeout=30)) as connection:
        connection.request("POST", "/chat", json.dumps({"message": "hello"}), headers)
        response = connection.getresponse()
        assert response.status == 200
        return response.read().decode()


def test_a_stop_cuts_no_turn_and_no_stream(tmp_path: Path) -> None:
    (tmp_path / "speaking.py").write_text(SPEAKING_AGENT)
    options = ["--volume", f"{tmp_path}/speaking.py:/srv/speaking.py:ro", "--env", "AGENT=speaking:agent"]
    with service(*options) as running, ThreadPoolExecutor(2 * CALLERS) as callers:
        answers = [callers.submit(answer_of, running, "application/json") for _ in range(CALLERS)]
        streams = [callers.submit(answer_of, running, "text/event-stream") for _ in range(CALLERS)]
        wait_until(lambda: running.log.count("a turn has begun") == 2 * CALLERS, what="every turn is running")
        began = time.monotonic()
        docker("stop", "--time", str(GRACE_S + 2), running.name)
        assert time.monotonic() - began < GRACE_S
        assert [json.loads(answer.result())["answer"] for answer in answers] == ["word " * 10] * CALLERS
        last = [stream.result().rpartition("event: ")[2].partition("\n")[0] for stream in streams]
        assert last == ["done"] * CALLERS
        assert running.inspect("{{.State.ExitCode}}") == "0"


@pytest.mark.parametrize("number", range(STARTS))
def test_a_stop_right_after_the_start_is_obeyed(number: int) -> None:
    """Process 1 gets no signal that it does not handle yet; one that is lost costs ten seconds and ends in SIGKILL."""
    with container("--cpus", "0.1") as started:  # Python then takes a third of a second until it handles signals
        time.sleep(number * 0.05)
        docker("stop", "--time", "10", started.name)
        assert started.inspect("{{.State.ExitCode}}") == "0", started.log
