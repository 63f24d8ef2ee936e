"""Authentication through every entry point: who is refused, what is open to all, what stays untouched and untold."""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.auth.api_keys import pair
from tests.entry_points import ENTRY_POINTS, Client, HTTPClient, handler, server
from tests.issuer import OTHER_RSA_KEY, Issuer, issuer, token
from tests.lambda_events import Event, Request, http_api, rest
from tests.lambda_runtime.front_door import INVOKE, in_thread
from tests.lambda_runtime.service import Function
from tests.machine import START_S
from tests.servers import sessions_table

KEY, OTHER, CANARY = "agentkey_of-alice-0123456789", "agentkey_of-bob-0123456789", "canary-7f3a"
API_KEYS = {"AUTH": "api-key", "AUTH_API_KEYS": f"{pair('alice', KEY)},{pair('bob', OTHER)}", "LOG_LEVEL": "DEBUG"}
JSON = {"Content-Type": "application/json"}
BODY = json.dumps({"message": "hello", "session_id": "s"}).encode()
CALLS = [
    ("POST", "/chat"),
    ("GET", "/sessions"),
    ("GET", "/sessions/s"),
    ("DELETE", "/sessions/s"),
    ("POST", "/sessions/s/cancel"),
    ("GET", "/usage"),
]
BAD_KEYS: dict[str, dict[str, str | bytes]] = {
    "absent": {},
    "wrong": {"Authorization": f"Bearer {CANARY}"},
    "prefix": {"Authorization": f"Bearer {KEY[:-1]}"},
    "case": {"Authorization": f"Bearer {KEY.swapcase()}"},
    "no scheme": {"Authorization": KEY},
    "not ASCII": {"X-API-Key": KEY.encode() + b"\xe9"},
    "two": {"X-API-Key": KEY, "Authorization": f"Bearer {OTHER}"},
    "forged": {"X-User": "alice", "X-Proxy-Secret": "x" * 24, "X-Amzn-Oidc-Identity": "alice"},
    "long": {"X-API-Key": "x" * 20_000},
}


@pytest.fixture(scope="module", params=ENTRY_POINTS, name="keyed")
def _keyed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with ENTRY_POINTS[request.param](tmp_path_factory.mktemp("keyed"), **API_KEYS) as client:
        yield client


@pytest.mark.parametrize("name", BAD_KEYS)
def test_a_bad_key_is_refused_everywhere_and_stores_nothing(keyed: Client, name: str) -> None:
    before = keyed.stored()
    answers = [keyed.request(*call, BODY, {**JSON, **BAD_KEYS[name]}) for call in CALLS]
    for answer in answers:
        assert (answer.status, answer.slug) == (401, "unauthenticated")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json["retryable"] is False
        assert "retry-after" not in answer.headers
        assert CANARY not in answer.body
    assert keyed.stored() == before


@pytest.mark.parametrize(
    ("method", "target", "body", "headers"),
    [
        ("POST", "/chat", b"no JSON", JSON),
        ("POST", "/chat", BODY, {}),
        ("POST", "/chat", BODY, {"Accept": "image/png"}),
        ("POST", "/chat", BODY, {**JSON, "Idempotency-Key": "a b"}),
        ("POST", "/chat", b" " * 300_000, JSON),
        ("GET", "/sessions/..%2F", b"", {}),
        ("GET", "/sessions/a%20b", b"", {}),
        ("GET", "/sessions?limit=0", b"", {}),
        ("GET", "/sessions/s?before=x", b"", {}),
    ],
)
def test_whoever_is_refused_learns_nothing_else(
    keyed: Client, method: str, target: str, body: bytes, headers: Mapping[str, str]
) -> None:
    expected = 404 if "%2F" in target else 401  # a slash makes it another path, and there is none
    assert keyed.request(method, target, body, headers).status == expected


def test_a_key_opens_its_own_sessions_only(keyed: Client) -> None:
    alice, bob = {"Authorization": f"Bearer {KEY}"}, {"X-API-Key": OTHER}
    assert keyed.request("POST", "/chat", BODY, JSON | alice).json["answer"] == "You said: hello"
    assert keyed.request("GET", "/sessions/s", headers=bob).status == 404
    assert keyed.request("GET", "/sessions", headers=bob).json["sessions"] == []
    assert keyed.request("GET", "/sessions/s", headers=alice).json["turns"][0]["message"] == "hello"
    events = keyed.request("POST", "/chat", BODY, {**JSON, **bob, "Accept": "text/event-stream"}).events
    assert (events[0][1]["turn"], events[-1][0]) == (1, "done")
    assert keyed.request("DELETE", "/sessions/s", headers=bob).status == 204
    assert len(keyed.request("GET", "/sessions/s", headers=alice).json["turns"]) == 1
    assert keyed.request("DELETE", "/sessions/s", headers=alice).status == 204


def test_probes_are_open_and_unknown_paths_are_not_there(keyed: Client) -> None:
    statuses = [keyed.request("GET", path).status for path in ("/healthz", "/readyz", "/docs", "/nowhere", "/chat")]
    assert statuses == [200, 200, 200, 404, 405]


def test_nothing_of_a_credential_is_logged(tmp_path: Path) -> None:
    with server([sys.executable, "-m", "app"], tmp_path, **API_KEYS) as running:
        client = HTTPClient(tmp_path, running.http)
        for bad in BAD_KEYS.values():
            client.request("GET", "/sessions", headers=bad)
        client.request("POST", "/chat", BODY, JSON | {"Authorization": f"Bearer {KEY}"})
        log = running.log.read_text()
    assert log.count("caller refused") == len(BAD_KEYS)
    assert not [secret for secret in (KEY, KEY[:-1], OTHER, CANARY, "alice", "bob", "xxxx") if secret in log]


@pytest.fixture(name="at")
def _at() -> Iterator[Issuer]:
    with issuer() as at:
        yield at


@pytest.mark.parametrize("entry", ENTRY_POINTS)
def test_tokens_are_checked_with_the_keys_of_their_issuer(entry: str, at: Issuer, tmp_path: Path) -> None:
    def ask(bearer: str) -> tuple[int, Any]:
        answer = client.request("POST", "/chat", BODY, JSON | {"Authorization": f"Bearer {bearer}"})
        return answer.status, answer.headers.get("retry-after")

    with ENTRY_POINTS[entry](tmp_path, **at.settings) as client:
        at.status = 503
        assert ask(token()) == (503, "5")
        assert ask(token(exp=1)) == (503, "5")
        assert ask("x") == (401, None)
    at.status, at.asked = 200, 0
    with ENTRY_POINTS[entry](tmp_path, **at.settings) as client:
        assert ask(token()) == (200, None)
        bad = [token(exp=int(time.time()) - 60), token(aud="x"), token(key=OTHER_RSA_KEY), token(kid="new"), "e30.e30."]
        assert {ask(each) for each in bad} == {(401, None)}
        assert client.request("GET", "/sessions", headers={"X-API-Key": token()}).status == 401
        assert client.request("GET", "/readyz").status == 200
    assert at.asked == 1


def event_of(kind: str, principal: str | None) -> Event:
    """Return a chat as a front door hands it over that has authenticated the caller, or nobody."""
    named = Request("POST", "/chat", BODY, (("Content-Type", "application/json"), ("X-User", "mallory")))
    event = {"rest": rest, "http api": http_api, "url": http_api}[kind](named)
    authorizer = {"http api": {"jwt": {"claims": {"sub": principal}}}, "url": {"iam": {"userArn": principal}}}
    if principal:
        event["requestContext"]["authorizer"] = authorizer.get(kind, {"principalId": principal})
    return event


def principals(table: Any) -> set[str]:
    items = table.client.scan(TableName=table.name, ConsistentRead=True)["Items"]
    return {item["pk"]["S"] for item in items}


def test_on_lambda_the_front_doors_authorizer_names_the_principal(tmp_path: Path) -> None:
    function = {"AWS_LAMBDA_FUNCTION_NAME": "f", "AUTH": "platform"}
    with sessions_table() as table, handler(tmp_path, **function, **table.settings) as client:
        let_in = [client.invoke(event_of(kind, f"{kind[:4]}/x")) for kind in ("rest", "http api", "url")]
        refused = [client.invoke(event_of(kind, None)) for kind in ("rest", "http api", "url")]
        stored = principals(table)
    assert [each["statusCode"] for each in let_in] == [200] * 3
    assert [each["statusCode"] for each in refused] == [401] * 3
    assert stored == {"rest/x/s", "http/x/s", "url/x/s"}


def test_a_streaming_runtime_knows_the_principal_too(tmp_path: Path) -> None:
    with sessions_table() as table:
        settings = {**table.settings, "AUTH": "platform", "AWS_EC2_METADATA_DISABLED": "true"}
        function = Function([sys.executable, "-m", "app.lambda_runtime"], tmp_path, settings)
        with in_thread(function) as running, httpx2.Client(base_url=running.url, timeout=START_S) as http:
            let_in = http.post(INVOKE, content=json.dumps(event_of("url", "alice")).encode())
            refused = http.post(INVOKE, content=json.dumps(event_of("url", None)).encode())
            by_header = http.post("/chat", content=BODY, headers=JSON | {"X-User": "alice"})
        stored = principals(table)
    statuses = [json.loads(answer.content.partition(bytes(8))[0])["statusCode"] for answer in (let_in, refused)]
    assert (statuses, by_header.status_code) == ([200, 401], 401)
    assert stored == {"alice/s"}


def test_a_proxy_with_the_secret_names_the_principal(tmp_path: Path) -> None:
    secret = "a-secret-of-the-proxy-alone"  # noqa: S105 of this test's own
    proxy = {"AUTH": "platform", "AUTH_PLATFORM_HEADER": "X-User", "AUTH_PLATFORM_SECRET": secret}
    with server([sys.executable, "-m", "app"], tmp_path, **proxy) as running:
        known = running.http.post("/chat", content=BODY, headers=JSON | {"X-User": "a@b", "X-Proxy-Secret": secret})
        two = [("X-User", "alice"), ("X-User", "bob"), ("X-Proxy-Secret", secret)]
        refused = [running.http.get("/sessions", headers=each) for each in ({"X-User": "a@b"}, two)]
        log = running.log.read_text()
    assert (known.status_code, [each.status_code for each in refused]) == (200, [401, 401])
    assert secret not in log
