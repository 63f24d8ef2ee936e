"""Calls from web pages of other origins, as a browser makes them: allowed exactly to those that are named."""

import json
import sys
from collections.abc import Iterator, Mapping

import pytest

from app.config import Settings
from app.cors import Cors
from tests.entry_points import Answer, Client, HTTPClient, handler, server
from tests.http_headers import SECURITY
from tests.in_process import Outage, serving

PAGE, LOCAL = "https://app.example", "http://localhost:3000"
ORIGINS = f"{PAGE}, {LOCAL}"
JSON = {"Content-Type": "application/json"}
ASKS = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,idempotency-key"}
AGENT = "tests.agents:moody"
WAYS = ["container", "handler"]
ELSEWHERE = [
    "https://evil.example",
    "https://app.example.evil.example",
    "https://evil-app.example",
    "https://sub.app.example",
    "http://app.example",
    "https://app.example:443",
    "https://app.example:8443",
    "https://app.example/",
    "https://APP.example",
    "http://localhost",
    f"{PAGE}, {LOCAL}",
    "null",
    "*",
    "",
]


@pytest.fixture(scope="module", params=WAYS)
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "handler":
        with handler(folder, AGENT=AGENT, CORS_ORIGINS=ORIGINS) as client:
            yield client
    else:
        with server([sys.executable, "-m", "app"], folder, AGENT=AGENT, CORS_ORIGINS=ORIGINS) as running:
            yield HTTPClient(folder, running.http)


def cors(headers: Mapping[str, str]) -> dict[str, str]:
    """Return what the headers say about other origins."""
    return {name: value for name, value in headers.items() if name == "vary" or name.startswith("access-control-")}


def chat(client: Client, message: str, headers: Mapping[str, str]) -> Answer:
    return client.request("POST", "/chat", json.dumps({"message": message}).encode(), {**JSON, **headers})


@pytest.mark.parametrize("origin", [PAGE, LOCAL])
def test_a_page_that_is_named_is_told_what_it_may_call(client: Client, origin: str) -> None:
    answer = client.request("OPTIONS", "/chat", headers={"Origin": origin, **ASKS})
    assert (answer.status, answer.body) == (204, "")
    assert cors(answer.headers) == {
        "vary": "Origin",
        "access-control-allow-origin": origin,
        "access-control-allow-methods": "GET, POST, DELETE",
        "access-control-allow-headers": "Authorization, Content-Type, Idempotency-Key, Prefer, "
        "X-API-Key, X-Request-ID, X-Request-Timeout, traceparent",
        "access-control-max-age": "600",
    }
    assert answer.headers.items() >= SECURITY.items()


@pytest.mark.parametrize("origin", ELSEWHERE)
def test_any_other_page_is_answered_as_without_cors(client: Client, origin: str) -> None:
    asked = client.request("OPTIONS", "/chat", headers={"Origin": origin, **ASKS})
    assert (asked.status, asked.slug) == (405, "method-not-allowed")
    called = chat(client, "hello", {"Origin": origin})
    assert called.status == 200
    assert cors(asked.headers) == cors(called.headers) == {"vary": "Origin"}


READABLE = {
    "vary": "Origin",
    "access-control-allow-origin": PAGE,
    "access-control-expose-headers": "Idempotency-Replayed, Preference-Applied, RateLimit, RateLimit-Policy, "
    "Retry-After, X-Request-ID",
}


def test_a_page_may_read_every_answer(client: Client) -> None:
    page = {"Origin": PAGE}
    answers = [
        chat(client, "hello", page),
        chat(client, "hello", page | {"Accept": "text/event-stream"}),
        chat(client, "", page),
        chat(client, "raise", page),
        chat(client, "be silent", page | {"X-Request-Timeout": "0.2"}),
        client.request("GET", "/healthz", headers=page),
        client.request("GET", "/sessions/none", headers=page),
        client.request("DELETE", "/sessions/none", headers=page),
        client.request("PUT", "/chat", headers=page),
        client.request("OPTIONS", "/chat", headers=page),
        client.request("GET", "/nowhere", headers=page | ASKS),
        client.request("POST", "/chat", headers=page),
    ]
    assert [answer.status for answer in answers] == [200, 200, 422, 502, 504, 200, 404, 204, 405, 405, 404, 415]
    assert [cors(answer.headers) for answer in answers] == [READABLE] * len(answers)


@pytest.mark.anyio
async def test_a_page_may_read_what_the_shell_answers_itself(settings: Settings) -> None:
    store = Outage("ping", "list_sessions")
    store.error = LookupError()
    async with serving(settings.model_copy(update={"cors_origins": (PAGE,)}), store=store) as app:
        answers = [await app.request("GET", path, headers={"Origin": PAGE}) for path in ("/readyz", "/sessions")]
    assert [answer.status for answer in answers] == [503, 500]
    assert [cors(answer.headers) for answer in answers] == [READABLE, READABLE]


def test_whoever_is_no_page_is_told_that_answers_differ(client: Client) -> None:
    assert cors(client.request("GET", "/healthz").headers) == {"vary": "Origin"}


@pytest.mark.parametrize("second", [PAGE, "https://evil.example"])
def test_two_origins_are_none(second: str) -> None:
    """No browser sends them, and no HTTP client can."""
    headers = [(b"origin", PAGE.encode()), (b"origin", second.encode())]
    assert Cors([PAGE]).headers({"method": "GET", "headers": headers}) == [(b"vary", b"Origin")]
