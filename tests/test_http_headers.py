"""The headers of every response: each route, each status, each way in."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest
from starlette.testclient import TestClient

from app.agents.echo import echo
from app.config import Settings
from app.main import create_app
from app.middleware import DOCS_POLICY
from tests.entry_points import HandlerClient, HTTPClient, Server, handler, server
from tests.http_headers import missing
from tests.in_process import Outage, serving, warm
from tests.lambda_events import DOORS, Request, answer_to
from tests.machine import wait_until
from tests.raw_http import read, said

AGENT = "tests.agents:moody"
JSON = {"Content-Type": "application/json"}


def chat(message: str, **more: str) -> bytes:
    return json.dumps({"message": message, **more}).encode()


Call: TypeAlias = tuple[str, str, bytes, dict[str, str]]
DOCS: Call = ("GET", "/docs", b"", {})
CALLS: list[tuple[int, Call]] = [
    (200, ("GET", "/healthz", b"", {})),
    (200, ("GET", "/readyz", b"", {})),
    (200, DOCS),
    (200, ("GET", "/openapi.json", b"", {})),
    (200, ("POST", "/chat", chat("a", session_id="s"), JSON)),
    (200, ("POST", "/chat", chat("b", session_id="s"), JSON | {"Accept": "text/event-stream"})),
    (200, ("POST", "/chat", chat("c", session_id="s"), JSON | {"Idempotency-Key": "k"})),
    (422, ("POST", "/chat", chat("d", session_id="s"), JSON | {"Idempotency-Key": "k"})),
    (200, ("GET", "/sessions", b"", {})),
    (200, ("GET", "/sessions/s", b"", {})),
    (200, ("POST", "/sessions/s/cancel", b"", {})),
    (400, ("POST", "/chat", b"{", JSON)),
    (404, ("GET", "/sessions/none", b"", {})),
    (404, ("POST", "/sessions/none/cancel", b"", {})),
    (404, ("GET", "/nowhere", b"", {})),
    (404, ("GET", "/docs/oauth2-redirect", b"", {})),
    *((405, (method, "/chat", b"", {})) for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS")),
    *((405, ("HEAD", path, b"", {})) for path in ("/chat", "/sessions", "/sessions/s", "/healthz", "/readyz")),
    (405, ("POST", "/healthz", b"", {})),
    (405, ("OPTIONS", "/chat", b"", {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"})),
    (406, ("POST", "/chat", chat("a"), JSON | {"Accept": "text/html"})),
    (413, ("POST", "/chat", chat("a" * 40_000), JSON)),
    (413, ("POST", "/chat", chat("a" * 300_000), JSON)),
    (415, ("POST", "/chat", chat("a"), {})),
    (422, ("POST", "/chat", chat(""), JSON)),
    (422, ("GET", "/sessions/a%20b", b"", {})),
    (422, ("GET", "/sessions?limit=0", b"", {})),
    (502, ("POST", "/chat", chat("raise"), JSON)),
    (200, ("POST", "/chat", chat("raise"), JSON | {"Accept": "text/event-stream"})),
    (504, ("POST", "/chat", chat("be silent"), JSON | {"X-Request-Timeout": "0.2"})),
    (204, ("DELETE", "/sessions/s", b"", {})),
]


@contextlib.contextmanager
def asgi(folder: Path) -> Iterator[HTTPClient | HandlerClient]:
    app = create_app(Settings(_env_file=None, agent=AGENT, sessions_file=folder / "sessions.db"))
    with TestClient(app, raise_server_exceptions=False) as http:
        client = HTTPClient(folder, http)
        wait_until(lambda: client.request("GET", "/readyz").status == 200)
        yield client


@contextlib.contextmanager
def container(folder: Path) -> Iterator[HTTPClient | HandlerClient]:
    with server([sys.executable, "-m", "app"], folder, AGENT=AGENT) as running:
        yield HTTPClient(folder, running.http)


@contextlib.contextmanager
def on_lambda(folder: Path) -> Iterator[HandlerClient]:
    with handler(folder, AGENT=AGENT) as client:
        yield client


WAYS: dict[str, Callable[[Path], contextlib.AbstractContextManager[HTTPClient | HandlerClient]]] = {
    "asgi": asgi,
    "container": container,
    "handler": on_lambda,
}


@pytest.fixture(scope="module", params=WAYS)
def client(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HTTPClient | HandlerClient]:
    with WAYS[request.param](tmp_path_factory.mktemp(request.param)) as client:
        yield client


def test_every_response_carries_them(client: HTTPClient | HandlerClient) -> None:
    found = [(call, client.request(*call)) for _, call in CALLS]
    assert [(answer.status, call) for call, answer in found] == CALLS
    wrong = [(call, missing(answer.headers)) for call, answer in found]
    assert [each for each in wrong if each[1]] == [(DOCS, {"content-security-policy": DOCS_POLICY})]


def test_a_defect_carries_them(client: HTTPClient | HandlerClient) -> None:
    client.request("POST", "/chat", chat("a", session_id="damaged"), JSON)
    client.damage("damaged")
    answer = client.request("GET", "/sessions/damaged")
    assert (answer.status, missing(answer.headers)) == (500, {})


@pytest.mark.anyio
async def test_what_the_shell_answers_itself_carries_them(settings: Settings) -> None:
    store = Outage("ping", "list_sessions")
    async with serving(settings, store=store) as app:
        answers = [await app.request("GET", "/readyz"), await app.chat("hello")]
        store.error = LookupError()
        answers.append(await app.request("GET", "/sessions"))
    assert [answer.status for answer in answers] == [503, 503, 500]
    assert [missing(answer.headers) for answer in answers] == [{}, {}, {}]


@pytest.mark.parametrize("door", DOORS)
def test_every_front_door_hands_them_on(lambda_: HandlerClient, door: str) -> None:
    for request in (Request("GET", "/healthz"), Request("GET", "/nowhere"), Request("POST", "/chat", b"{}")):
        event = DOORS[door](request)
        assert missing(answer_to(event, lambda_.invoke(event)).headers) == {}


@pytest.fixture(scope="module")
def lambda_(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HandlerClient]:
    with handler(tmp_path_factory.mktemp("doors"), AGENT="tests.agents:lengthy") as client:
        yield client


def test_what_the_handler_answers_itself_carries_them(lambda_: HandlerClient) -> None:
    for _ in range(7):
        lambda_.request("POST", "/chat", chat("a", session_id="long"), JSON)
    answers = [lambda_.invoke({}), lambda_.invoke(DOORS["http api"](Request("GET", "/sessions/long")))]
    assert [answer["statusCode"] for answer in answers] == [400, 500]
    assert [missing(answer["headers"]) for answer in answers] == [{}, {}]


@pytest.mark.parametrize(
    ("status", "request_"),
    [
        (400, b"no HTTP\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\n\r\n"),
        (414, b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n"),
        (431, b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X:\r\n" * 200 + b"\r\n"),
    ],
)
def test_what_the_server_answers_itself_carries_them(running: Server, status: int, request_: bytes) -> None:
    answer = read(said(running.port, request_))
    assert (answer.status, missing(answer.headers)) == (status, {})
    assert answer.json["instance"] == answer.headers["x-request-id"]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server([sys.executable, "-m", "app"], tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.mark.anyio
async def test_production_shows_no_page(settings: Settings) -> None:
    hidden = settings.model_copy(update={"environment": "production"})
    async with warm(hidden, agent=echo) as app:
        for path in ("/docs", "/docs/oauth2-redirect", "/openapi.json", "/redoc"):
            answer = await app.request("GET", path)
            assert (answer.status, answer.slug, missing(answer.headers)) == (404, "not-found", {})
