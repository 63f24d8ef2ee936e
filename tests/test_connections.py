"""Callers that do not speak HTTP, or not at a bearable pace, on real connections to the container server."""

import re
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app import connections
from tests.entry_points import Server, server
from tests.http_headers import missing
from tests.raw_http import read, said

REQUEST = b"GET /healthz HTTP/1.1\r\nHost: a\r\n"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server([sys.executable, "-m", "app"], tmp_path_factory.mktemp("connections")) as running:
        yield running


def problem(answer: bytes) -> tuple[bytes, str]:
    found = read(answer)
    assert found.headers["content-type"] == "application/problem+json"
    assert missing(found.headers) == {}
    return answer.split(b"\r\n")[0], found.slug


@pytest.mark.parametrize(
    "request_",
    [
        b"canary\r\n\r\n",
        b"GET / HTTP/9\r\n\r\n",
        b"POST /chat HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    ],
    ids=["no HTTP", "no such version", "two lengths"],
)
def test_what_is_no_http_gets_a_problem_and_no_echo(running: Server, request_: bytes) -> None:
    answer = said(running.port, request_)
    assert problem(answer) == (b"HTTP/1.1 400 Bad Request", "malformed-request")
    assert b"canary" not in answer


@pytest.mark.parametrize(
    "pieces",
    [
        [REQUEST + b"X: " + b"x" * 100_000 + b"\r\n\r\n"],
        [REQUEST, *[b"X: " + b"x" * 1000 + b"\r\n"] * 64, b"X: " + b"x" * 5000],
        [REQUEST + b"X:\r\n" * 100 + b"\r\n"],
    ],
    ids=["one header", "many headers that do not end", "a hundred headers and one"],
)
def test_a_head_without_measure_is_refused(running: Server, pieces: list[bytes]) -> None:
    assert problem(said(running.port, *pieces)) == (
        b"HTTP/1.1 431 Request Header Fields Too Large",
        "headers-too-large",
    )


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (REQUEST + b"Connection: close\r\n" + b"X:\r\n" * 98 + b"\r\n", b"200 OK"),
        (b"GET /" + b"x" * 8191 + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", b"404 Not Found"),
    ],
    ids=["headers", "path"],
)
def test_a_head_at_the_limit_is_read(running: Server, request_: bytes, status: bytes) -> None:
    assert said(running.port, request_).startswith(b"HTTP/1.1 " + status)


def test_a_path_without_measure_is_refused(running: Server) -> None:
    answer = said(running.port, b"GET /" + b"x" * 8192 + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    assert problem(answer) == (b"HTTP/1.1 414 URI Too Long", "target-too-long")


@pytest.mark.parametrize("wish", [b"", b"Connection: Upgrade\r\nUpgrade: h2c\r\n"], ids=["plain", "upgrade"])
def test_only_so_many_requests_are_taken_ahead(running: Server, wish: bytes) -> None:
    """They cost twenty times their bytes."""
    answer = said(running.port, (REQUEST + wish + b"\r\n") * 100)
    assert answer.count(b"HTTP/1.1 200 OK") == answer.count(b"HTTP/1.1 ") == 1 + connections.MAX_AHEAD
    assert answer.endswith(b'{"status":"alive"}')


SLOW: dict[str, list[bytes]] = {
    "nothing": [],
    "half a line": [REQUEST[:10]],
    "half a head": [REQUEST],
    "half of a second head": [REQUEST + b"\r\n", REQUEST],
    "a stray line": [REQUEST + b"\r\n", b"\r\n"],
    "half a body": [
        b"POST /chat HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\n",
        b"Content-Length: 99\r\n\r\n{",
    ],
}


@pytest.fixture(scope="module")
def outcomes(running: Server) -> dict[str, bytes]:
    """What came of the slow callers, who all wait at once."""
    with ThreadPoolExecutor(len(SLOW)) as callers:
        return dict(
            zip(SLOW, callers.map(lambda pieces: said(running.port, *pieces, pause_s=1.0), SLOW.values()), strict=True)
        )


@pytest.mark.parametrize("name", ["nothing", "half a line", "half a head"])
def test_a_caller_that_does_not_finish_its_request_is_cut_off(outcomes: dict[str, bytes], name: str) -> None:
    assert outcomes[name] == b""


def test_the_next_request_of_a_connection_has_its_own_time(outcomes: dict[str, bytes]) -> None:
    answer = outcomes["half of a second head"]
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert answer.endswith(b'{"status":"alive"}')


def test_a_line_after_an_answer_does_not_hold_the_connection(outcomes: dict[str, bytes]) -> None:
    assert outcomes["a stray line"].endswith(b'{"status":"alive"}')


def test_a_body_that_does_not_come_is_a_timeout(outcomes: dict[str, bytes]) -> None:
    assert problem(outcomes["half a body"]) == (b"HTTP/1.1 408 Request Timeout", "request-timeout")


def test_a_timeout_ends_the_connection(tmp_path: Path) -> None:
    """Or what dribbles in of the body goes on holding it."""
    quick = (
        "from app import main; main.create_app.__kwdefaults__['body_s'] = 0.5; from app.__main__ import main; main()"
    )
    with server([sys.executable, "-c", quick], tmp_path) as running:
        started = time.monotonic()
        answer = said(
            running.port, SLOW["half a body"][0].replace(b"Connection: close\r\n", b""), SLOW["half a body"][1]
        )
    assert problem(answer)[1] == "request-timeout"
    assert time.monotonic() - started < connections.HEAD_S / 2


IMPATIENT = "from app import connections; connections.UNREAD_S = 0.5; from app.__main__ import main; main()"


def test_a_caller_that_takes_nothing_of_its_answers_is_cut_off(tmp_path: Path) -> None:
    """It asks for more than the buffers of both ends can hold."""
    with (
        server([sys.executable, "-c", IMPATIENT], tmp_path, AGENT="tests.agents:lengthy") as running,
        socket.socket() as caller,
    ):
        running.http.post("/chat", json={"message": "hello", "session_id": "s"})
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        caller.settimeout(connections.HEAD_S)
        caller.connect(("127.0.0.1", running.port))
        caller.sendall(b"GET /sessions/s HTTP/1.1\r\nHost: a\r\n\r\n" * 10)
        time.sleep(2 * 0.5)
        came = b"".join(iter(lambda: caller.recv(65_536), b""))
    assert came.count(b"HTTP/1.1 200 OK") < 10


def test_the_rest_of_a_refused_body_is_no_head(running: Server) -> None:
    """It gets no answer of its own, which a caller would take for that to its next request."""
    head = b"POST /chat HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 960000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", running.port), timeout=connections.HEAD_S) as caller:
        caller.sendall(head + b"x" * 960_000 + REQUEST + b"Connection: close\r\n\r\n")
        answers = b"".join(iter(lambda: caller.recv(65_536), b""))
    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"413", b"200"]
