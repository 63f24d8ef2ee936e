"""Odd header values and paths through every way in: no 5xx, no echo, no header of the caller's making in the answer."""

import sys
from collections.abc import Iterator

import pytest

from app.config import Settings
from tests.entry_points import Answer, Client, HandlerClient, Server, handler, server
from tests.http_headers import missing
from tests.in_process import warm
from tests.raw_http import read, said

CANARY = "canary-7f3a"
BODY = b'{"message": "hello"}'
HEADERS = [
    "X-Request-ID",
    "Idempotency-Key",
    "traceparent",
    "tracestate",
    "Prefer",
    "X-Request-Timeout",
    "Accept",
    "Content-Type",
    "Authorization",
    "X-API-Key",
    "Cookie",
    "Origin",
    "X-Forwarded-For",
]
VALUES = {
    "a header after CR LF": f"{CANARY}\r\nX-Injected: 1",
    "a header after LF": f"{CANARY}\nX-Injected: 1",
    "a header after CR": f"{CANARY}\rX-Injected: 1",
    "a folded line": f"{CANARY}\r\n X-Injected: 1",
    "an answer": f"{CANARY}\r\n\r\nHTTP/1.1 200 OK\r\nX-Injected: 1\r\n\r\n",
    "a line end": f"{CANARY}\n",
    "CR": f"{CANARY}\r",
    "NUL": f"{CANARY}\x00",
    "escape": f"{CANARY}\x1b[2J",
    "delete": f"{CANARY}\x7f",
    "next line": f"{CANARY}\x85X-Injected: 1",
    "line separator": f"{CANARY}\u2028X-Injected: 1",
    "what becomes CR LF in one byte each": f"{CANARY}\u560d\u560aX-Injected: 1",
    "escaped CR LF": f"{CANARY}%0D%0AX-Injected: 1",
    "escaped twice": f"{CANARY}%250D%250AX-Injected: 1",
    "backslashes": rf"{CANARY}\r\nX-Injected: 1",
    "accent": f"{CANARY}\u00e9",
    "emoji": f"{CANARY}\U0001f600",
    "other digits": f"{CANARY}\u0661",
    "markup": f"<script>{CANARY}</script>",
    "quotes": f'"{CANARY}" "',
    "long": f"{CANARY} " * 500,
}
HEADER_ENDS = {"a header after CR LF", "an answer"}  # on a connection, where the rest is a header as any other
ONLY_TEXT = {"lone surrogate": f"{CANARY}\ud800"}


def check(answer: Answer) -> None:
    assert answer.status < 500
    assert missing(answer.headers) == {}
    assert CANARY not in answer.body
    assert CANARY not in str(answer.headers)
    assert "x-injected" not in answer.headers


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server([sys.executable, "-m", "app"], tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def lambda_(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HandlerClient]:
    with handler(tmp_path_factory.mktemp("handler")) as client:
        yield client


@pytest.mark.parametrize("value", [value for value in VALUES if value not in HEADER_ENDS])
def test_a_header_over_a_connection(running: Server, value: str) -> None:
    for name in HEADERS:
        fields = {"Host": "a", "Content-Type": "application/json", name: VALUES[value]}
        lines = "".join(f"{each}: {text}\r\n" for each, text in fields.items())
        head = f"POST /chat HTTP/1.1\r\n{lines}Content-Length: {len(BODY)}\r\nConnection: close\r\n\r\n"
        came = said(running.port, head.encode() + BODY)
        assert came.count(b"HTTP/1.1 ") == 1
        check(read(came))


@pytest.mark.parametrize("value", VALUES | ONLY_TEXT)
def test_a_header_of_a_lambda_event(lambda_: HandlerClient, value: str) -> None:
    for name in HEADERS:
        fields = {"Content-Type": "application/json", name: (VALUES | ONLY_TEXT)[value]}
        check(lambda_.request("POST", "/chat", BODY, fields))


@pytest.mark.anyio
@pytest.mark.parametrize("value", VALUES)
async def test_a_header_from_any_server(settings: Settings, value: str) -> None:
    """One may hand on what ours refuses."""
    async with warm(settings) as app:
        for name in HEADERS:
            fields = {b"content-type": b"application/json", name.lower().encode(): VALUES[value].encode()}
            check(await app.request("POST", "/chat", content=BODY, headers=list(fields.items())))


IDS = [
    f"{CANARY}%0D%0AX-Injected:%201",
    f"{CANARY}%0A",
    f"{CANARY}%0D",
    f"{CANARY}%00",
    f"{CANARY}%1B%5B2J",
    f"{CANARY}%C2%85",
    f"{CANARY}%E2%80%A8",
    f"{CANARY}%E5%98%8D%E5%98%8A",
    f"{CANARY}%C3%A9",
    f"{CANARY}%F0%9F%98%80",
    f"{CANARY}%ED%A0%80",
    f"{CANARY}%FF",
    f"{CANARY}%250A",
    f"{CANARY}%",
    f"{CANARY}%3Cscript%3E",
    f"{CANARY}%20",
    f"{CANARY}%2F..",
]


@pytest.mark.parametrize("session", IDS)
def test_a_session_id_in_a_path(client: Client, session: str) -> None:
    calls = [("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "?before=1")]
    answers = [client.request(method, f"/sessions/{session}{rest}") for method, rest in calls]
    answers.append(client.request("GET", f"/sessions?before={session}"))
    for answer in answers:
        assert answer.status in (404, 422)
        assert CANARY not in answer.body + str(answer.headers)
        assert "x-injected" not in answer.headers
