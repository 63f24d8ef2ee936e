"""Every front door of Lambda gives the answers that a server gives, and no event breaks the handler."""

import http.client
import json
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any, TypeAlias

import pytest
from hypothesis import given, settings

from tests.entry_points import Answer, HandlerClient, handler, server
from tests.lambda_events import DOORS, Event, Request, answer_to, http_api, rest
from tests.lambda_runtime.emulator import load_event
from tests.odd_events import CANARY, STATUSES, odd_events

JSON = ("Content-Type", "application/json")
Told: TypeAlias = tuple[int, dict[str, str], Any]  # status, headers, body
OWN = {"content-length", "date", "server", "x-request-id", "x-cold-start", "transfer-encoding"}


def chat(message: str, session: str = "s", *headers: tuple[str, str]) -> Request:
    body = json.dumps({"message": message, "session_id": session}, ensure_ascii=False).encode()
    return Request("POST", "/chat", body, (JSON, *headers))


CONVERSATION: dict[str, Request] = {
    "a turn": chat("gr\u00fc\u00df dich"),
    "a stream": chat("hello", "s", ("Accept", "text/event-stream")),
    "headers of one name": chat("hello", "s", ("Accept", "text/html"), ("Accept", "text/event-stream;q=0.9")),
    "an idempotency key": chat("again", "s", ("Idempotency-Key", "k-1")),
    "the same key again": chat("again", "s", ("Idempotency-Key", "k-1")),
    "cookies": chat("hello", "s", ("Cookie", "a=1; b=2")),
    "a page": Request("GET", "/sessions/s?limit=2&before=3"),
    "an escaped id": Request("GET", "/sessions/%73?limit=1"),
    "an escaped query": Request("GET", "/sessions/s?limit=%31"),
    "a bad query": Request("GET", "/sessions/s?limit=1+2"),
    "an empty parameter": Request("GET", "/sessions/s?limit="),
    "an escaped slash": Request("GET", "/sessions/a%2Fb"),
    "an escaped percent sign": Request("GET", "/sessions/a%2541"),
    "escaped bytes that are no text": Request("GET", "/sessions/%FF%FE"),
    "a path that climbs": Request("GET", "/sessions/%2E%2E/healthz"),
    "a double slash": Request("GET", "/sessions//s"),
    "nothing there": Request("GET", "/nothing"),
    "the root": Request("GET", "/"),
    "another method": Request("PUT", "/chat"),
    "a method of another protocol": Request("PROPFIND", "/chat"),
    "broken JSON": Request("POST", "/chat", b'{"message', (JSON,)),
    "no JSON": Request("POST", "/chat", b"hello", (("Content-Type", "text/plain"),)),
    "liveness": Request("GET", "/healthz"),
    "readiness": Request("GET", "/readyz"),
    "the end of a session": Request("DELETE", "/sessions/s"),
}


def told(answer: Answer) -> Told:
    """Return an answer without what is another one each time: status, headers, body."""
    headers = {name: value for name, value in answer.headers.items() if name not in OWN}
    if not answer.body:
        headers.pop("content-type", None)  # of nothing; payload 2.0 names one in any case
        return answer.status, headers, None
    if headers["content-type"].startswith("text/event-stream"):
        return answer.status, headers, answer.events
    return answer.status, headers, {k: v for k, v in answer.json.items() if k not in ("instance", "turns")}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Told]:
    """What a server answers to the conversation."""
    with server([sys.executable, "-m", "uvicorn", "app:app"], tmp_path_factory.mktemp("server")) as running:
        return {name: told(over_http(running.port, request)) for name, request in CONVERSATION.items()}


def over_http(port: int, request: Request) -> Answer:
    """Make a request exactly as it is written; clients tidy up paths and headers."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.putrequest(request.method, request.target, skip_accept_encoding=True)
        for name, value in (*request.headers, ("Content-Length", str(len(request.body)))):
            connection.putheader(name, value)
        connection.endheaders(request.body)
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read().decode())


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HandlerClient]:
    with handler(tmp_path_factory.mktemp("handler"), SESSIONS_KEEP_DAYS="1") as client:
        yield client


@pytest.mark.parametrize("door", DOORS)
def test_a_conversation_is_the_same_through_every_front_door(
    client: HandlerClient, door: str, expected: dict[str, Told]
) -> None:
    found = {}
    for name, request in CONVERSATION.items():
        event = DOORS[door](request)
        found[name] = told(answer_to(event, client.invoke(event)))
    assert found == expected


@pytest.mark.parametrize(
    "event",
    [
        http_api(Request("GET", "/healthz"), "/healthz", "healthz"),
        http_api(Request("GET", "/healthz"), "", "health"),
        http_api(Request("GET", "/healthz"), "", "$default"),
        rest(Request("GET", "/healthz"), "/healthz"),
        rest(Request("GET", "/healthz"), "/a/b/c", "/{proxy+}"),
        rest(Request("GET", "/healthz")) | {"pathParameters": None},
        rest(Request("GET", "/healthz")) | {"pathParameters": {"proxy": "z"}},
    ],
    ids=[
        "stage named as a route",
        "stage that begins a route",
        "no stage",
        "base named as a route",
        "deep",
        "bare",
        "z",
    ],
)
def test_no_more_of_a_path_is_cut_than_the_stage_or_the_base(client: HandlerClient, event: Event) -> None:
    assert client.invoke(event)["statusCode"] == 200


@pytest.mark.parametrize(("stage", "path"), [("prod", "/prod"), ("prod", "/prod/"), ("chat", "/chatter")])
def test_what_is_left_of_a_path_is_a_path(client: HandlerClient, stage: str, path: str) -> None:
    result = client.invoke(http_api(Request("GET", ""), path, stage))
    assert (result["statusCode"], json.loads(result["body"])["type"].rpartition(":")[2]) == (404, "not-found")


@pytest.mark.parametrize("host", ["[2001:db8::1]", "[2001:db8::1]:8443", "[::1%25eth0]", "2001:db8::1", "a:b", ""])
@pytest.mark.parametrize("door", DOORS)
def test_any_host_is_served(client: HandlerClient, door: str, host: str) -> None:
    request = chat("hello", f"host-{door.replace(' ', '-').replace(',', '')}", ("Host", host))
    assert client.invoke(DOORS[door](request))["statusCode"] == 200


def test_two_thousand_odd_events_are_answered(client: HandlerClient) -> None:
    seen = []

    @settings(max_examples=2000, derandomize=True, deadline=None, database=None)
    @given(odd_events())
    def answered(event: Event) -> None:
        client.log.clear()
        result = client.invoke(event)
        seen.append(result["statusCode"])
        assert result["statusCode"] in STATUSES
        if result["statusCode"] >= 400:
            several = result.get("multiValueHeaders", {}) | {
                name: [value] for name, value in result.get("headers", {}).items()
            }
            assert several["content-type"] == ["application/problem+json"]
        log = "".join(client.log)
        assert CANARY not in log + json.dumps(result.get("headers"))
        assert "exception" not in log

    answered()
    assert len(seen) >= 2000
    assert min(seen.count(200), seen.count(400)) > 100


@pytest.mark.parametrize("door", DOORS)
def test_a_problem_of_the_handler_is_one_for_every_front_door(client: HandlerClient, door: str) -> None:
    event = DOORS[door](chat("hello", "s", ("X-Other", "\ud800")))
    answer = answer_to(event, client.invoke(event))
    assert (answer.status, answer.slug) == (400, "malformed-event")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json["instance"] == answer.headers["x-request-id"]


@pytest.fixture(scope="module")
def lengthy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HandlerClient]:
    """An environment with a session of seven turns of almost a megabyte each."""
    with handler(tmp_path_factory.mktemp("lengthy"), AGENT="tests.agents:lengthy") as client:
        assert {client.invoke(http_api(chat("hello")))["statusCode"] for _ in range(7)} == {200}
        yield client


@pytest.mark.parametrize("door", DOORS)
def test_what_a_front_door_does_not_carry_is_a_problem(lengthy: HandlerClient, door: str) -> None:
    """A load balancer carries 1 MB, the others what the runtime does: 6 MB."""
    turns = {limit: ask(lengthy, door, limit) for limit in (1, 2, 5, 7)}
    fit = {1: 200, 2: 500, 5: 500, 7: 500} if "balancer" in door else {1: 200, 2: 200, 5: 200, 7: 500}
    assert {limit: answer.status for limit, answer in turns.items()} == fit
    assert turns[7].slug == "response-too-large"
    assert turns[7].json["instance"] == turns[7].headers["x-request-id"] == "request-1"
    assert ask(lengthy, door, 1).headers.get("x-cold-start") is None


def ask(client: HandlerClient, door: str, limit: int) -> Answer:
    """Ask for a page of the session; no result may be larger than its front door takes."""
    event = DOORS[door](Request("GET", f"/sessions/s?limit={limit}", headers=(("X-Request-ID", "request-1"),)))
    result = client.invoke(event)
    assert len(json.dumps(result)) < (1_000_000 if "balancer" in door else 6_291_556)
    return answer_to(event, result)


@pytest.mark.parametrize("source", ["aws.events", "aws.scheduler"])
def test_a_scheduled_ping_says_nothing(client: HandlerClient, source: str) -> None:
    client.log.clear()
    assert client.invoke(load_event("scheduled_ping") | {"source": source})["statusCode"] == 200
    assert client.log == []


def test_an_asynchronous_invocation_is_a_turn_like_any_other(client: HandlerClient) -> None:
    """`InvocationType=Event` changes nothing of the event; an exception, and only that, would repeat it twice."""
    client.log.clear()
    assert client.invoke(http_api(chat(CANARY, "asynchronous")))["statusCode"] == 200
    lines = [json.loads(line) for line in client.log]
    assert [(line["event"], line["level"]) for line in lines] == [("turn finished", "info")]
