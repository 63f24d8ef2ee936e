"""The Lambda handler: any event gets an answer, one environment is opened once, the platform's clock counts."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.entry_points import HandlerClient, handler, http_api_event
from tests.http_headers import missing

JSON = {"content-type": "application/json"}
CANARY = "canary-7f3a"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HandlerClient]:
    with handler(tmp_path_factory.mktemp("handler")) as client:
        yield client


def chat_event(message: str = "hello", **changes: Any) -> dict[str, Any]:
    body = json.dumps({"message": message, "session_id": "s"}).encode()
    return http_api_event("POST", "/chat", body, JSON) | changes


def slug(result: dict[str, Any]) -> str:
    assert result["headers"]["content-type"] == "application/problem+json"
    return str(json.loads(result["body"])["type"]).rpartition(":")[2]


NO_REQUESTS: dict[str, object] = {
    "empty": {},
    "list": [],
    "null": None,
    "text": CANARY,
    "number": 7,
    "queue": {"Records": [{"body": CANARY}]},
    "version only": {"version": "2.0"},
    "empty context": {"version": "2.0", "requestContext": {}},
    "null context": chat_event(requestContext=None),
    "headers in a list": chat_event(headers=[CANARY]),
    "headers in a text": chat_event(headers=CANARY),
    "body a number": chat_event(body=7),
    "method in a list": {"httpMethod": [], "path": "/healthz", "requestContext": {}},
    "method a number": {"httpMethod": 7, "path": "/healthz", "requestContext": {}},
    "many headers a number": chat_event(multiValueHeaders=7),
}


@pytest.mark.parametrize("event", NO_REQUESTS.values(), ids=NO_REQUESTS)
def test_an_event_that_is_no_request_gets_a_problem(client: HandlerClient, event: object) -> None:
    result = client.invoke(event)
    assert (result["statusCode"], slug(result)) == (400, "malformed-event")
    assert CANARY not in json.dumps(result)
    assert json.loads(result["body"])["instance"] == result["headers"]["x-request-id"]
    assert missing(result["headers"]) == {}


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "a:b:c"},
        {"host": "[::1]:80"},
        {"host": "api.example.com:"},
        {"x-forwarded-port": "https"},
        {"x-forwarded-port": "443, 80"},
        {"x-other": None},
        {"x-other": 7},
        {"x-other": "\u4f60\u597d"},
    ],
    ids=str,
)
def test_odd_headers_do_not_break_a_request(client: HandlerClient, headers: dict[str, object]) -> None:
    assert client.invoke(chat_event(headers={**JSON, **headers}))["statusCode"] == 200


@pytest.mark.parametrize("headers", [None, {}])
def test_an_event_without_headers_is_a_request_without_headers(client: HandlerClient, headers: object) -> None:
    result = client.invoke(chat_event(headers=headers))
    assert (result["statusCode"], slug(result)) == (415, "unsupported-media-type")


def test_a_header_that_has_no_bytes_is_a_malformed_event(client: HandlerClient) -> None:
    result = client.invoke(chat_event(headers={**JSON, "x-other": "\ud800"}))
    assert (result["statusCode"], slug(result)) == (400, "malformed-event")


def test_a_rest_event_without_multi_value_headers_is_read(client: HandlerClient) -> None:
    event = {
        "resource": "/{proxy+}",
        "path": "/healthz",
        "httpMethod": "GET",
        "headers": None,
        "multiValueHeaders": None,
        "queryStringParameters": None,
        "multiValueQueryStringParameters": None,
        "requestContext": {"resourcePath": "/{proxy+}", "identity": {"sourceIp": "192.0.2.1"}},
        "body": None,
        "isBase64Encoded": False,
    }
    assert client.invoke(event)["statusCode"] == 200


@pytest.mark.parametrize("source", ["aws.events", "aws.scheduler"])
def test_a_scheduled_ping_warms_and_nothing_else(client: HandlerClient, source: str) -> None:
    assert client.invoke({"source": source, "detail-type": "Scheduled Event"}) == {
        "statusCode": 200,
        "body": '{"status":"alive"}',
    }


def test_a_body_in_plain_text_is_read(client: HandlerClient) -> None:
    body = json.dumps({"message": "gr\u00fc\u00df dich"})
    result = client.invoke(chat_event(body=body, isBase64Encoded=False))
    assert json.loads(result["body"])["answer"] == "You said: gr\u00fc\u00df dich"


@pytest.mark.parametrize("body", ['{"message": "\ud800"}', '{"message": "\udc00\ud800"}'])
def test_half_a_character_in_a_plain_body_is_a_bad_request(client: HandlerClient, body: str) -> None:
    result = client.invoke(chat_event(body=body, isBase64Encoded=False))
    assert result["statusCode"] == 400


def test_answers_are_text_not_base64(client: HandlerClient) -> None:
    for event in (
        chat_event(),
        http_api_event("POST", "/chat", b"{", JSON),
        http_api_event("POST", "/chat", b'{"message": "a"}', {**JSON, "accept": "text/event-stream"}),
    ):
        assert client.invoke(event)["isBase64Encoded"] is False


def test_only_the_first_answer_of_an_environment_is_a_cold_start(tmp_path: Path) -> None:
    with handler(tmp_path) as fresh:
        results = [fresh.invoke(chat_event()) for _ in range(3)]
    assert [result["headers"].get("x-cold-start") for result in results] == ["true", None, None]
    assert [json.loads(result["body"])["turn"] for result in results] == [1, 2, 3]


def test_a_turn_answers_before_the_platform_ends_it(tmp_path: Path) -> None:
    with handler(tmp_path, AGENT="tests.agents:silent") as fresh:
        result = fresh.invoke(chat_event(), remaining_ms=1600)
        again = fresh.invoke(chat_event(), remaining_ms=0)
    assert (result["statusCode"], slug(result)) == (504, "deadline-exceeded")
    assert (again["statusCode"], slug(again)) == (504, "deadline-exceeded")


def test_an_answer_over_the_platforms_limit_is_a_problem(tmp_path: Path) -> None:
    with handler(tmp_path, AGENT="tests.agents:lengthy") as fresh:
        turns = [fresh.invoke(chat_event()) for _ in range(7)]
        page = fresh.invoke(http_api_event("GET", "/sessions/s", b"", {"x-request-id": "request-1"}))
        assert {turn["statusCode"] for turn in turns} == {200}
        assert (page["statusCode"], slug(page)) == (500, "response-too-large")
        assert (json.loads(page["body"])["instance"], page["headers"]["x-request-id"]) == ("request-1", "request-1")
        assert fresh.invoke(http_api_event("GET", "/sessions/s?limit=3", b"", {}))["statusCode"] == 200


@pytest.mark.parametrize("remaining", [None, "soon", 10**400], ids=["none", "text", "endless"])
def test_a_context_that_does_not_tell_the_time_does_not_matter(client: HandlerClient, remaining: object) -> None:
    assert client.invoke(chat_event(), remaining_ms=remaining)["statusCode"] == 200


def test_an_agent_that_exits_does_not_end_the_environment(tmp_path: Path) -> None:
    with handler(tmp_path, AGENT="tests.agents:exiting") as fresh:
        results = [fresh.invoke(chat_event()) for _ in range(2)]
    assert [(each["statusCode"], slug(each)) for each in results] == [(502, "agent-failed")] * 2


def test_another_event_loop_in_the_process_does_not_matter(tmp_path: Path) -> None:
    with handler(tmp_path, AGENT="tests.agents:other_loop") as fresh:
        results = [fresh.invoke(chat_event()) for _ in range(2)]
    assert [each["statusCode"] for each in results] == [200, 200]


def test_an_environment_without_its_store_starts_and_says_so(tmp_path: Path) -> None:
    nowhere = {"SESSIONS_TABLE": "sessions", "AWS_REGION": "eu-central-1", "AWS_LAMBDA_FUNCTION_NAME": "f"}
    keys = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
    with handler(tmp_path, AWS_ENDPOINT_URL_DYNAMODB="http://127.0.0.1:9", **nowhere, **keys) as fresh:
        ready = fresh.invoke(http_api_event("GET", "/readyz", b"", {}))
        turn = fresh.invoke(chat_event())
        alive = fresh.invoke(http_api_event("GET", "/healthz", b"", {}))
    assert [(each["statusCode"], slug(each)) for each in (ready, turn)] == [(503, "warming-up")] * 2
    assert turn["headers"]["retry-after"] == "1"
    assert alive["statusCode"] == 200


@pytest.mark.parametrize("body", ["%%%", "eyJ", base64.b64encode(b"{").decode()])
def test_a_body_that_is_no_base64_is_a_bad_request(client: HandlerClient, body: str) -> None:
    assert client.invoke(chat_event(body=body))["statusCode"] == 400
