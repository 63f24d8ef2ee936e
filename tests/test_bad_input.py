"""Bad input through every entry point: a problem with the right status, no echo of the input, nothing stored."""

import json
import uuid

import pytest

from tests.entry_points import Client

CANARY = "canary-7f3a"
JSON = {"Content-Type": "application/json"}


def body(**changes: object) -> bytes:
    """Return a valid body with `changes`; the session is put in by the test."""
    return json.dumps({"message": CANARY, "session_id": "SESSION", **changes}).encode()


DEEP = 100_000
BAD_BODIES = {
    "empty": (b"", 400, "malformed-json"),
    "cut off": (b'{"message": "' + CANARY.encode(), 400, "malformed-json"),
    "two documents": (body() + body(), 400, "malformed-json"),
    "NaN": (b'{"message": NaN, "session_id": "SESSION"}', 400, "malformed-json"),
    "infinity": (b'{"message": 1e999, "session_id": "SESSION"}', 400, "malformed-json"),
    "endless integer": (b'{"message": ' + b"9" * 5000 + b', "session_id": "SESSION"}', 400, "malformed-json"),
    "duplicate key": (b'{"message": "a", "message": "canary-7f3a", "session_id": "SESSION"}', 400, "malformed-json"),
    "lone surrogate": (b'{"message": "canary-7f3a \\ud800", "session_id": "SESSION"}', 400, "malformed-json"),
    "raw control character": (b'{"message": "canary-7f3a \x01", "session_id": "SESSION"}', 400, "malformed-json"),
    "byte order mark": (b"\xef\xbb\xbf" + body(), 400, "malformed-json"),
    "UTF-16": (body().decode().encode("utf-16"), 400, "malformed-json"),
    "Latin-1": ('{"message": "canary-7f3a é"}'.encode("latin-1"), 400, "malformed-json"),
    "65 levels": (body(message=json.loads("[" * 65 + "]" * 65)), 400, "malformed-json"),
    "deep lists": (b"[" * DEEP + b"]" * DEEP, 400, "malformed-json"),
    "no object": (b'["canary-7f3a"]', 422, "validation-failed"),
    "null": (b"null", 422, "validation-failed"),
    "no message": (b'{"session_id": "SESSION"}', 422, "validation-failed"),
    "empty message": (body(message=""), 422, "validation-failed"),
    "number": (body(message=7), 422, "validation-failed"),
    "list": (body(message=[CANARY]), 422, "validation-failed"),
    "NUL": (body(message=f"{CANARY}\x00"), 422, "validation-failed"),
    "escape": (body(message=f"{CANARY}\x1b[2J"), 422, "validation-failed"),
    "escape of eight bits": (body(message=f"{CANARY}\x9b2J"), 422, "validation-failed"),
    "blank": (body(message=" \n"), 422, "validation-failed"),
    "unknown field": (body(**{CANARY: 1}), 422, "validation-failed"),
    "long message": (body(message=CANARY + "x" * 32_768), 413, "content-too-large"),
    "long in bytes": (body(message="é" * 16_385), 413, "content-too-large"),
    "long body": (b" " * 300_000 + body(), 413, "content-too-large"),
    **{
        f"session id {name}": (body(session_id=value), 422, "validation-failed")
        for name, value in {
            "number": 7,
            "dots": "..",
            "empty": "",
            "long": "x" * 129,
            "slash": f"{CANARY}/x",
            "line end": f"{CANARY}\n",
            "space": f"{CANARY} x",
            "accent": f"{CANARY}é",
        }.items()
    },
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_bad_body_is_a_problem_and_stores_nothing(client: Client, name: str) -> None:
    content, status, slug = BAD_BODIES[name]
    session = f"{CANARY}-{uuid.uuid4()}"
    before = client.stored()
    answer = client.request("POST", "/chat", content.replace(b"SESSION", session.encode()), JSON)
    assert (answer.status, answer.slug) == (status, slug)
    assert answer.headers["content-type"] == "application/problem+json"
    assert CANARY not in answer.body
    assert client.stored() == before


@pytest.mark.parametrize(
    ("headers", "status", "slug"),
    [
        ({}, 415, "unsupported-media-type"),
        ({"Content-Type": "text/plain"}, 415, "unsupported-media-type"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415, "unsupported-media-type"),
        (JSON | {"Idempotency-Key": "k" * 256}, 400, "invalid-idempotency-key"),
        (JSON | {"Idempotency-Key": ""}, 400, "invalid-idempotency-key"),
        (JSON | {"Idempotency-Key": "canary-7f3a x"}, 400, "invalid-idempotency-key"),
        (JSON | {"Idempotency-Key": "canary-7f3a é".encode()}, 400, "invalid-idempotency-key"),
    ],
    ids=["no type", "text", "form", "long key", "empty key", "key with space", "key with accent"],
)
def test_a_bad_header_is_a_problem(client: Client, headers: dict[str, str | bytes], status: int, slug: str) -> None:
    before = client.stored()
    answer = client.request("POST", "/chat", body(session_id=str(uuid.uuid4())), headers)
    assert (answer.status, answer.slug) == (status, slug)
    assert CANARY not in answer.body
    assert client.stored() == before


def test_what_is_good_is_stored(client: Client) -> None:
    """Or the tests above would prove nothing."""
    before = client.stored()
    assert client.request("POST", "/chat", body(session_id=str(uuid.uuid4())), JSON).status == 200
    assert client.stored() == before + 1


def test_a_type_with_a_charset_is_json(client: Client) -> None:
    answer = client.request("POST", "/chat", b'{"message": "hi"}', {"Content-Type": "Application/JSON; charset=utf-8"})
    assert answer.status == 200


@pytest.mark.parametrize(
    "target",
    [
        "/sessions/canary-7f3a%20x",
        "/sessions/canary-7f3a%0A",
        f"/sessions/{'x' * 129}",
        "/sessions/a?limit=0",
        "/sessions/a?limit=101",
        "/sessions/a?limit=canary-7f3a",
        "/sessions/a?before=0",
        "/sessions/a?before=99999999999999999999",
    ],
)
def test_a_bad_parameter_is_a_problem(client: Client, target: str) -> None:
    answer = client.request("GET", target)
    assert (answer.status, answer.slug) == (422, "validation-failed")
    assert CANARY not in answer.body


def test_a_validation_problem_says_where_and_which_rule(client: Client) -> None:
    answer = client.request("POST", "/chat", b'{"message": 7, "session_id": "a b", "more": 1}', JSON)
    assert answer.json["errors"] == [
        {"loc": ["message"], "type": "string_type"},
        {"loc": ["session_id"], "type": "string_pattern_mismatch"},
        {"loc": [], "type": "extra_forbidden"},
    ]
