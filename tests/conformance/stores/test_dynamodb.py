"""What is asked of DynamoDB, to the letter, and what becomes of its answers."""

import asyncio
import base64
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from aiodynamo.credentials import Credentials, Key
from aiodynamo.http.types import HttpImplementation, Request
from aiohttp import web

from app.errors import StoreRefused, StoreUnavailable
from app.sessions import SessionKey, SessionStart, SessionStore, TurnItem
from app.sessions.dynamodb import ATTEMPTS, TIMEOUT, UNPROCESSED_PAUSE_S, DynamoDBStore
from tests.servers import REGION

pytestmark = pytest.mark.anyio

KEY = SessionKey("alice", "s")
OPEN = TurnItem(turn=7, run="run", req="req", expires=1_764_000_000, lease=1_763_000_000.5)
DONE = replace(OPEN, lease=None, body=b'{"message": "hello"}')
FIRST = replace(DONE, turn=1, body=b"x\x9c\x00", created=1_763_000_000.25)
PK, TURN, RUN = {"S": "alice/s"}, {"N": "7"}, {"S": "run"}
ITEM = {"pk": PK, "turn": TURN, "run": RUN, "req": {"S": "req"}, "expires": {"N": "1764000000"}}
OPEN_ITEM = ITEM | {"lease": {"N": "1763000000.500"}}
DONE_ITEM = ITEM | {"body": {"S": '{"message": "hello"}'}}
FIRST_ITEM = {
    **ITEM,
    "turn": {"N": "1"},
    "principal": {"S": "alice"},
    "created": {"N": "1763000000.250"},
    "body": {"B": base64.b64encode(b"x\x9c\x00").decode()},
}
STARTED = {"pk": {"S": "al/ice/s"}, "turn": {"N": "1"}, "created": {"N": "1.5"}, "expires": {"N": "9"}}


@dataclass
class Table:
    """A server that says what it is told to, in order and then nothing more, and keeps what it was asked.

    open: it lets an answer wait until this is set
    """

    url: str = ""
    answers: list[tuple[int, object]] = field(default_factory=list)
    asked: list[tuple[str, Any]] = field(default_factory=list)
    open: asyncio.Event = field(default_factory=asyncio.Event)

    async def until(self, count: int) -> None:
        """Return when so much was asked."""
        async with asyncio.timeout(10):
            while len(self.asked) < count:
                await asyncio.sleep(0.01)

    def refuse(self, kind: str, *, times: int = 1, status: int = 400) -> None:
        self.answers += [(status, {"__type": f"com.amazonaws.dynamodb.v20120810#{kind}", "message": "canary"})] * times


@contextlib.asynccontextmanager
async def table() -> AsyncIterator[Table]:
    found = Table()
    found.open.set()

    async def respond(request: web.BaseRequest) -> web.Response:
        found.asked.append((request.headers["X-Amz-Target"], await request.json()))
        await found.open.wait()
        status, answer = found.answers.pop(0) if found.answers else (200, {})
        return web.json_response(answer, status=status)

    runner = web.ServerRunner(web.Server(respond, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield found
    finally:
        await runner.cleanup()


class Keys(Credentials):
    """Keys that may be absent, and how often they were asked for and given up."""

    def __init__(self, *, absent: int = 0) -> None:
        self.absent, self.asked, self.given_up = absent, 0, 0

    async def get_key(self, http: HttpImplementation) -> Key | None:
        assert http is not None
        self.asked += 1
        return None if self.asked <= self.absent else Key("id", "secret")

    def invalidate(self) -> bool:
        self.given_up += 1
        return True

    def is_disabled(self) -> bool:
        return False


def store_on(at: Table, keys: Keys | None = None) -> DynamoDBStore:
    return DynamoDBStore("sessions", REGION, keys or Keys(), at.url)


CALLS: dict[str, tuple[Callable[[SessionStore], Coroutine[Any, Any, object]], str, dict[str, object]]] = {
    "newest": (
        lambda store: store.newest(KEY, 3),
        "Query",
        {
            "KeyConditionExpression": "pk = :pk",
            "ExpressionAttributeValues": {":pk": PK},
            "ScanIndexForward": False,
            "ConsistentRead": True,
            "Limit": 3,
        },
    ),
    "newest before": (
        lambda store: store.newest(KEY, 3, before=7),
        "Query",
        {
            "KeyConditionExpression": "pk = :pk AND turn < :before",
            "ExpressionAttributeValues": {":pk": PK, ":before": TURN},
            "ScanIndexForward": False,
            "ConsistentRead": True,
            "Limit": 3,
        },
    ),
    "claim": (
        lambda store: store.claim(KEY, OPEN),
        "PutItem",
        {"Item": OPEN_ITEM, "ConditionExpression": "attribute_not_exists(pk)"},
    ),
    "take over": (
        lambda store: store.claim(KEY, OPEN, "dead"),
        "PutItem",
        {
            "Item": OPEN_ITEM,
            "ConditionExpression": "run = :run AND attribute_not_exists(body)",
            "ExpressionAttributeValues": {":run": {"S": "dead"}},
        },
    ),
    "commit": (
        lambda store: store.commit(KEY, DONE),
        "PutItem",
        {"Item": DONE_ITEM, "ConditionExpression": "run = :run", "ExpressionAttributeValues": {":run": RUN}},
    ),
    "commit the first": (
        lambda store: store.commit(KEY, FIRST),
        "PutItem",
        {"Item": FIRST_ITEM, "ConditionExpression": "run = :run", "ExpressionAttributeValues": {":run": RUN}},
    ),
    "release": (
        lambda store: store.release(KEY, 7, "run"),
        "DeleteItem",
        {
            "Key": {"pk": PK, "turn": TURN},
            "ConditionExpression": "run = :run AND attribute_not_exists(body)",
            "ExpressionAttributeValues": {":run": RUN},
        },
    ),
    "list": (
        lambda store: store.list_sessions("alice", 3),
        "Query",
        {
            "IndexName": "begun",
            "KeyConditionExpression": "principal = :principal",
            "ExpressionAttributeValues": {":principal": {"S": "alice"}},
            "ScanIndexForward": False,
            "Limit": 3,
        },
    ),
    "list before": (
        lambda store: store.list_sessions("alice", 3, SessionStart("s", 1.5, 9)),
        "Query",
        {
            "IndexName": "begun",
            "KeyConditionExpression": "principal = :principal",
            "ExpressionAttributeValues": {":principal": {"S": "alice"}},
            "ScanIndexForward": False,
            "Limit": 3,
            "ExclusiveStartKey": {
                "pk": PK,
                "turn": {"N": "1"},
                "principal": {"S": "alice"},
                "created": {"N": "1.500"},
            },
        },
    ),
    "ping": (
        lambda store: store.ping(),
        "Query",
        {"KeyConditionExpression": "pk = :pk", "ExpressionAttributeValues": {":pk": {"S": "/"}}, "Limit": 1},
    ),
}


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_is_one_request_of_these_words(name: str) -> None:
    call, action, payload = CALLS[name]
    async with table() as at, store_on(at) as store:
        at.answers.append((200, {"Items": []}))
        await call(store)
    assert at.asked == [(f"DynamoDB_20120810.{action}", {**payload, "TableName": "sessions"})]


async def test_items_read_back_as_they_were_written() -> None:
    async with table() as at, store_on(at) as store:
        at.answers.append((200, {"Items": [OPEN_ITEM, DONE_ITEM, FIRST_ITEM]}))
        assert await store.newest(KEY, 3) == [OPEN, DONE, FIRST]
        at.answers.append((200, {"Items": [STARTED]}))
        assert await store.list_sessions("al/ice", 1) == [SessionStart("s", 1.5, 9)]


@pytest.mark.parametrize("answer", [{}, {"Items": None}, {"Items": [{}]}, {"Items": [7]}, []], ids=str)
async def test_what_is_no_session_is_no_answer(answer: object) -> None:
    told = r"^DynamoDB Query answered something that is no session$"
    async with table() as at, store_on(at) as store:
        for call in (store.newest(KEY, 1), store.list_sessions("alice", 1), store.ping()):
            at.answers.append((200, answer))
            with pytest.raises(StoreUnavailable, match=told):
                await call


async def test_a_condition_that_does_not_hold_is_no_error() -> None:
    async with table() as at, store_on(at) as store:
        for call in (store.claim(KEY, OPEN), store.claim(KEY, OPEN, "dead"), store.commit(KEY, DONE)):
            at.refuse("ConditionalCheckFailedException")
            assert await call is False
        at.refuse("ConditionalCheckFailedException")
        await store.release(KEY, 7, "run")
        assert await store.claim(KEY, OPEN) is True
    assert len(at.asked) == 5


@pytest.mark.parametrize(
    ("kind", "status", "name"),
    [
        ("ThrottlingException", 400, "Throttled"),
        ("ProvisionedThroughputExceededException", 400, "ProvisionedThroughputExceeded"),
        ("InternalServerError", 500, "InternalDynamoError"),
        ("ServiceUnavailable", 503, "ServiceUnavailable"),
    ],
)
async def test_what_may_pass_is_tried_again_and_then_told_by_its_class(kind: str, status: int, name: str) -> None:
    async with table() as at, store_on(at) as store:
        at.refuse(kind, times=ATTEMPTS - 1, status=status)
        assert await store.claim(KEY, OPEN) is True
        assert len(at.asked) == ATTEMPTS
        at.refuse(kind, times=ATTEMPTS, status=status)
        with pytest.raises(StoreUnavailable, match=f"^DynamoDB PutItem failed: {name}$") as caught:
            await store.claim(KEY, OPEN)
        assert at.asked == [at.asked[0]] * 2 * ATTEMPTS
    assert not isinstance(caught.value, StoreRefused)


@pytest.mark.parametrize(
    ("kind", "name"), [("ResourceNotFoundException", "TableNotFound"), ("ValidationException", "ValidationException")]
)
async def test_what_would_be_refused_again_is_not_tried_again(kind: str, name: str) -> None:
    async with table() as at, store_on(at) as store:
        at.refuse(kind)
        with pytest.raises(StoreRefused, match=f"^DynamoDB Query failed: {name}$"):
            await store.newest(KEY, 1)
    assert len(at.asked) == 1


async def test_keys_that_have_expired_are_given_up_and_asked_for_again() -> None:
    keys = Keys()
    async with table() as at, store_on(at, keys) as store:
        at.refuse("ExpiredTokenException")
        assert await store.claim(KEY, OPEN) is True
        at.refuse("ThrottlingException")
        assert await store.claim(KEY, OPEN) is True
    assert (keys.given_up, keys.asked, len(at.asked)) == (1, 4, 4)


async def test_without_keys_nothing_is_asked_but_they_may_come() -> None:
    async with table() as at:
        async with store_on(at, Keys(absent=ATTEMPTS - 1)) as store:
            assert await store.claim(KEY, OPEN) is True
        assert len(at.asked) == 1
        async with store_on(at, Keys(absent=ATTEMPTS)) as store:
            with pytest.raises(StoreUnavailable, match=r"^DynamoDB PutItem failed: NoCredentialsFound$"):
                await store.claim(KEY, OPEN)
        assert len(at.asked) == 1


async def test_keys_that_come_from_a_server_are_fetched_over_the_stores_connections() -> None:
    class Served(Keys):
        async def get_key(self, http: HttpImplementation) -> Key | None:
            answer = await http(Request("POST", at.url, {"X-Amz-Target": "keys"}, b"{}"))
            assert answer.status == 200
            return await super().get_key(http)

    async with table() as at, store_on(at, Served()) as store:
        assert await store.claim(KEY, OPEN)
    assert at.asked[0] == ("keys", {})


async def test_a_request_that_is_not_answered_is_made_again() -> None:
    async with table() as at, store_on(at) as store:
        at.open.clear()
        began = asyncio.get_running_loop().time()
        claim = asyncio.create_task(store.claim(KEY, OPEN))
        await at.until(2)
        assert asyncio.get_running_loop().time() - began == pytest.approx(TIMEOUT.total or 0.0, abs=0.5)
        at.open.set()
        assert await claim is True


async def test_requests_do_not_wait_for_one_another() -> None:
    """Turns are limited elsewhere."""
    async with table() as at, store_on(at) as store:
        at.open.clear()
        began = asyncio.get_running_loop().time()
        claims = [asyncio.create_task(store.claim(KEY, OPEN)) for _ in range(120)]
        await at.until(120)
        took_s = asyncio.get_running_loop().time() - began
        at.open.set()
        assert await asyncio.gather(*claims) == [True] * 120
    assert took_s < (TIMEOUT.total or 0.0)  # none of them is a second attempt


def test_what_the_library_would_log_stays_out_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """It holds the texts of errors."""
    logging.getLogger("aiodynamo").setLevel(logging.NOTSET)
    DynamoDBStore("sessions", REGION, Keys())
    logging.getLogger("aiodynamo").critical("canary")
    logging.getLogger("aiodynamo.credentials").critical("canary")
    logging.getLogger("app").error("what we tell ourselves")
    assert [each.message for each in caplog.records] == ["what we tell ourselves"]


async def test_a_delete_goes_on_until_nothing_is_left() -> None:
    page = {"Items": [DONE_ITEM, FIRST_ITEM]}
    deletes = [{"DeleteRequest": {"Key": {"pk": PK, "turn": turn}}} for turn in (TURN, {"N": "1"})]
    async with table() as at, store_on(at) as store:
        at.answers += [(200, page), (200, {"UnprocessedItems": {"sessions": deletes}}), (200, page), (200, {})]
        at.answers.append((200, {"Items": []}))
        began = asyncio.get_running_loop().time()
        await store.delete(KEY)
        assert UNPROCESSED_PAUSE_S <= asyncio.get_running_loop().time() - began < UNPROCESSED_PAUSE_S + 1
    batches = [payload for action, payload in at.asked if action == "DynamoDB_20120810.BatchWriteItem"]
    assert batches == [{"RequestItems": {"sessions": deletes}}] * 2
    assert [payload["Limit"] for action, payload in at.asked if action == "DynamoDB_20120810.Query"] == [25] * 3


async def test_it_can_be_opened_again_and_is_of_no_use_when_closed() -> None:
    async with table() as at:
        async with store_on(at) as store:
            await store.claim(KEY, OPEN)
        async with store:  # as after a warm-up that failed
            assert await store.claim(KEY, OPEN) is True
        with pytest.raises((StoreUnavailable, RuntimeError)):
            await store.claim(KEY, OPEN)


async def test_a_session_of_many_turns_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.sessions.dynamodb.ERASE_ROUNDS", 2)
    async with table() as at, store_on(at) as store:
        at.answers += [(200, {"Items": [DONE_ITEM]}), (200, {})] * 2
        with pytest.raises(StoreUnavailable, match=r"^the session is still not empty; delete it again$"):
            await store.delete(KEY)
    assert json.dumps(at.asked).count("BatchWriteItem") == 2
