"""The same conversations through the app in process, through uvicorn and through the Lambda handler."""

import json
import uuid
from collections.abc import Mapping
from typing import Any

import pytest

from tests.entry_points import Answer, Client

JSON = {"Content-Type": "application/json"}
SSE = {"Accept": "text/event-stream"}
NO_USAGE = {"input_tokens": 0, "output_tokens": 0, "cached_tokens": 0, "steps": 0, "usd": 0.0}


@pytest.fixture
def session() -> str:
    """The id of a session that no other test uses."""
    return str(uuid.uuid4())


def chat(client: Client, document: object, headers: Mapping[str, str | bytes] = {}) -> Answer:
    return client.request("POST", "/chat", json.dumps(document).encode(), {**JSON, **headers})


def turn(session: str, number: int, message: str) -> dict[str, Any]:
    """What the stored turn of the echo agent answers."""
    answer = {"answer": f"You said: {message}", "session_id": session, "turn": number}
    return {**answer, "stop_reason": "end_turn", "usage": NO_USAGE}


def test_liveness_is_one_constant(client: Client) -> None:
    answer = client.request("GET", "/healthz")
    assert (answer.status, answer.json) == (200, {"status": "alive"})


def test_readiness_says_ready(client: Client) -> None:
    answer = client.request("GET", "/readyz")
    assert (answer.status, answer.json["status"]) == (200, "ready")


def test_a_turn_answers_json(client: Client, session: str) -> None:
    answer = chat(client, {"message": "hello there", "session_id": session})
    assert (answer.status, answer.json) == (200, turn(session, 1, "hello there"))
    assert answer.headers["content-type"] == "application/json"


def test_a_turn_without_a_session_makes_one(client: Client) -> None:
    made = chat(client, {"message": "hello"}).json["session_id"]
    again = chat(client, {"message": "me again", "session_id": made})
    assert uuid.UUID(made).version == 4
    assert again.json == turn(made, 2, "me again")


def test_a_turn_streams_word_by_word(client: Client, session: str) -> None:
    answer = chat(client, {"message": "hello there", "session_id": session}, SSE)
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.events == [
        ("turn", {"session_id": session, "turn": 1}),
        *[("delta", {"text": text}) for text in ("You", " said:", " hello", " there")],
        ("done", turn(session, 1, "hello there")),
    ]


def test_both_renderings_are_one_turn(client: Client, session: str) -> None:
    streamed = chat(client, {"message": "one", "session_id": session}, SSE).events[-1][1]
    folded = chat(client, {"message": "one", "session_id": session}).json
    assert {**streamed, "turn": 2} == folded


def test_any_text_comes_back_as_it_was(client: Client, session: str) -> None:
    message = "naïve\tπ ≠ 3\r\n\U0001f600 \u2028 'quotes' \"and\" </script>"
    assert chat(client, {"message": message, "session_id": session}).json == turn(session, 1, message)
    assert client.request("GET", f"/sessions/{session}").json["turns"][0]["message"] == message


def test_sessions_never_see_each_other(client: Client) -> None:
    a, b = str(uuid.uuid4()), str(uuid.uuid4())
    for session, message in [(a, "to a"), (b, "to b"), (a, "to a again")]:
        chat(client, {"message": message, "session_id": session})
    said = {
        each: [done["message"] for done in client.request("GET", f"/sessions/{each}").json["turns"]] for each in (a, b)
    }
    assert said == {a: ["to a", "to a again"], b: ["to b"]}


def test_a_transcript_is_paged_from_the_end(client: Client, session: str) -> None:
    for number in range(1, 6):
        chat(client, {"message": f"m{number}", "session_id": session})
    pages, query = [], "?limit=2"
    while query:
        page = client.request("GET", f"/sessions/{session}{query}").json
        pages.append([done["turn"] for done in page["turns"]])
        query = f"?limit=2&before={page['before']}" if page["before"] else ""
    assert pages == [[4, 5], [2, 3], [1]]


def test_a_page_before_the_first_turn_is_empty(client: Client, session: str) -> None:
    chat(client, {"message": "hello", "session_id": session})
    page = client.request("GET", f"/sessions/{session}?before=1")
    assert (page.status, page.json) == (200, {"session_id": session, "turns": [], "before": None})


def test_an_absent_session_is_not_found(client: Client, session: str) -> None:
    first, later = (client.request("GET", f"/sessions/{session}{query}") for query in ("", "?before=9"))
    assert (first.status, first.slug, later.status) == (404, "not-found", 404)


def test_a_deleted_session_leaves_nothing(client: Client, session: str) -> None:
    chat(client, {"message": "hello", "session_id": session})
    deleted = client.request("DELETE", f"/sessions/{session}")
    assert (deleted.status, deleted.body) == (204, "")
    assert client.request("GET", f"/sessions/{session}").status == 404
    assert chat(client, {"message": "anew", "session_id": session}).json["turn"] == 1


def test_a_retry_with_its_key_replays_the_answer(client: Client, session: str) -> None:
    key = {"Idempotency-Key": "k-1"}
    first = chat(client, {"message": "once", "session_id": session}, key)
    again = chat(client, {"message": "once", "session_id": session}, key)
    assert again.body == first.body
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert len(client.request("GET", f"/sessions/{session}").json["turns"]) == 1


def test_a_retry_with_its_key_and_without_a_session_finds_the_session_that_was_made(client: Client) -> None:
    key = {"Idempotency-Key": str(uuid.uuid4())}
    first, again = chat(client, {"message": "once"}, key), chat(client, {"message": "once"}, key)
    assert (again.body, again.headers["idempotency-replayed"]) == (first.body, "true")
    other = chat(client, {"message": "twice"}, key)
    assert (other.json["turn"], other.json["session_id"] == first.json["session_id"]) == (1, False)


def test_a_replay_streams_like_the_turn(client: Client, session: str) -> None:
    key = {"Idempotency-Key": "k-1"}
    first = chat(client, {"message": "once", "session_id": session}, key).json
    again = chat(client, {"message": "once", "session_id": session}, key | SSE)
    assert [name for name, _ in again.events] == ["turn", "delta", "done"]
    assert again.events[-1] == ("done", first)
    assert again.headers["idempotency-replayed"] == "true"


def test_a_key_belongs_to_one_message(client: Client, session: str) -> None:
    chat(client, {"message": "once", "session_id": session}, {"Idempotency-Key": "k-1"})
    other = chat(client, {"message": "twice", "session_id": session}, {"Idempotency-Key": "k-1"})
    assert (other.status, other.slug, other.json["retryable"]) == (422, "idempotency-key-reused", False)


def test_a_quoted_key_is_the_key(client: Client, session: str) -> None:
    chat(client, {"message": "once", "session_id": session}, {"Idempotency-Key": "k-1"})
    quoted = chat(client, {"message": "once", "session_id": session}, {"Idempotency-Key": '"k-1"'})
    assert quoted.headers["idempotency-replayed"] == "true"


def test_waiting_for_a_free_session_is_acknowledged(client: Client, session: str) -> None:
    answer = chat(client, {"message": "hello", "session_id": session}, {"Prefer": "respond-async, wait=5"})
    assert (answer.status, answer.headers["preference-applied"]) == (200, "wait=5")


def test_every_response_carries_the_shell_headers(client: Client, session: str) -> None:
    answers = [
        client.request("GET", "/healthz"),
        client.request("GET", "/nowhere"),
        client.request("PUT", "/chat"),
        chat(client, {"message": 1}),
        chat(client, {"message": "hello", "session_id": session}, SSE),
    ]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert len(answer.headers["x-request-id"]) == 32
        assert "x-cold-start" not in answer.headers


def test_a_well_formed_request_id_is_kept(client: Client) -> None:
    answer = client.request("GET", "/nowhere", headers={"X-Request-ID": "trace-7.a_B"})
    assert (answer.headers["x-request-id"], answer.json["instance"]) == ("trace-7.a_B", "trace-7.a_B")


@pytest.mark.parametrize(
    "value", [b"a b", b"a" * 129, b"\xc3\xa9", b"", b'"x"'], ids=["space", "long", "utf-8", "empty", "quoted"]
)
def test_an_odd_request_id_is_replaced(client: Client, value: bytes) -> None:
    answer = client.request("GET", "/healthz", headers={"X-Request-ID": value})
    assert len(answer.headers["x-request-id"]) == 32


def test_a_wrong_method_names_the_right_ones(client: Client) -> None:
    answers = [client.request("GET", "/chat"), client.request("PUT", "/sessions/a")]
    assert [(each.status, each.slug) for each in answers] == [(405, "method-not-allowed")] * 2
    assert [each.headers["allow"] for each in answers] == ["POST", "DELETE, GET"]


@pytest.mark.parametrize("target", ["/chat/", "/healthz/", "//chat", "/chat/canary-7f3a"])
def test_a_path_that_is_nearly_right_is_not_found(client: Client, target: str) -> None:
    answer = client.request("POST", target)
    assert (answer.status, answer.slug, answer.headers.get("location")) == (404, "not-found", None)


@pytest.mark.parametrize("accept", ["*/*", "application/json", "application/*;q=0.5", "text/html, application/json"])
def test_json_is_for_who_does_not_name_sse(client: Client, accept: str, session: str) -> None:
    answer = chat(client, {"message": "hello", "session_id": session}, {"Accept": accept})
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("application/json, text/event-stream;q=0.1", "application/json"),
        ("application/json;q=0.1, text/event-stream", "text/event-stream; charset=utf-8"),
        ("text/event-stream, */*", "text/event-stream; charset=utf-8"),
    ],
)
def test_the_rendering_that_is_liked_better_is_given(client: Client, accept: str, kind: str, session: str) -> None:
    answer = chat(client, {"message": "hello", "session_id": session}, {"Accept": accept})
    assert (answer.status, answer.headers["content-type"]) == (200, kind)


@pytest.mark.parametrize("accept", ["text/html", "text/event-stream;q=0", "application/json;q=x"])
def test_neither_rendering_is_not_acceptable(client: Client, accept: str, session: str) -> None:
    answer = chat(client, {"message": "hello", "session_id": session}, {"Accept": accept})
    assert (answer.status, answer.slug) == (406, "not-acceptable")
    assert client.request("GET", f"/sessions/{session}").status == 404
