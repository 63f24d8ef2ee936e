"""SessionStore in one DynamoDB table: `pk` (S, HASH), `turn` (N, RANGE), TTL on `expires`.

The list of sessions comes from an index `begun`: `principal` (S, HASH), `created` (N, RANGE), projecting `expires`.
Only first turns have these attributes, so it costs one write unit a session.

A counter is an item of its own in a partition that no session has: its window stands in `turn`, and beside `expires`
all its attributes are its numbers.

aiodynamo finds keys, signs and names errors; its client, whose import is a twentieth of a cold start, is not needed to
send what is written out here, so that the conditions that carry the design can be read. No attribute name is a reserved
word (Developer Guide, "Reserved words").
"""

import asyncio
import json
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Self, TypeVar

import aiohttp
from aiodynamo.credentials import Credentials, TooManyRetries
from aiodynamo.errors import (
    AIODynamoError,
    ConditionalCheckFailed,
    ExpiredToken,
    InternalDynamoError,
    NoCredentialsFound,
    ProvisionedThroughputExceeded,
    ServiceUnavailable,
    Throttled,
    UnknownError,
    exception_from_response,
)
from aiodynamo.http.aiohttp import AIOHTTP
from aiodynamo.sign import signed_dynamo_request
from yarl import URL

from app.errors import StoreRefused, StoreUnavailable
from app.sessions import NONE, Numbers, SessionKey, SessionStart, TurnItem
from app.sessions.items import Attributes, dump, key_of, load, load_numbers

T = TypeVar("T")

# DynamoDB answers in milliseconds. What takes longer is a dead connection or an outage, and the turn must still answer.
TIMEOUT = aiohttp.ClientTimeout(total=2.0, connect=1.0)
ATTEMPTS = 3
BACKOFF_S = 0.05  # before the second attempt, doubled before the third; full jitter
IDLE_CONNECTION_S = 55  # below a minute, where the service and most NAT gateways drop idle connections
CONNECTIONS = 0  # no limit of its own: turns are limited elsewhere, and each holds one at most
BATCH_DELETES = 25  # BatchWriteItem's limit
UNPROCESSED_PAUSE_S = 0.1
ERASE_ROUNDS = 400  # bounds `delete` at 10,000 turns a call; nobody types that many

# What another attempt may not meet again. Whatever else DynamoDB answers, it would answer again.
PASSING = (
    aiohttp.ClientError,
    TimeoutError,
    ExpiredToken,
    InternalDynamoError,
    NoCredentialsFound,
    ProvisionedThroughputExceeded,
    ServiceUnavailable,
    Throttled,
)

# What shows that a request was not applied: it was refused before anything was written, or never left.
NOT_APPLIED = (
    aiohttp.ClientConnectorError,
    ExpiredToken,
    NoCredentialsFound,
    ProvisionedThroughputExceeded,
    Throttled,
)

# How reading fails what some other server answers, or some other table holds.
NOT_OURS = (KeyError, TypeError, ValueError, AttributeError)


class DynamoDBStore:
    """Turns in `table` of `region`; `endpoint` replaces the service's own address, for a local server."""

    def __init__(self, table: str, region: str, credentials: Credentials, endpoint: str | None = None) -> None:
        self._table = table
        self._region = region
        self._credentials = credentials
        self._endpoint = URL(endpoint) if endpoint else None
        self._session: aiohttp.ClientSession  # `__aenter__` opens it
        # It logs keys' errors with their texts; a level no record reaches keeps them out.
        logging.getLogger("aiodynamo").setLevel(logging.CRITICAL + 1)

    async def __aenter__(self) -> Self:
        # DummyCookieJar: DynamoDB sets no cookies, and the real jar costs time on every request.
        self._session = aiohttp.ClientSession(
            timeout=TIMEOUT,
            connector=aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=IDLE_CONNECTION_S),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._session.close()

    async def newest(self, key: SessionKey, limit: int, before: int | None = None) -> Sequence[TurnItem]:
        condition, values = "pk = :pk", {":pk": {"S": str(key)}}
        if before is not None:
            condition, values = (
                f"{condition} AND turn < :before",
                {**values, ":before": {"N": str(before)}},
            )
        page = await self._send(
            "Query",
            KeyConditionExpression=condition,
            ExpressionAttributeValues=values,
            ScanIndexForward=False,
            ConsistentRead=True,
            Limit=limit,
        )
        return _read(page, load)

    async def claim(self, key: SessionKey, item: TurnItem, dead_run: str | None = None) -> bool:
        if dead_run is None:
            return await self._write("PutItem", "attribute_not_exists(pk)", Item=dump(key, item))
        return await self._write("PutItem", "run = :run AND attribute_not_exists(body)", dead_run, Item=dump(key, item))

    async def commit(self, key: SessionKey, item: TurnItem) -> bool:
        return await self._write("PutItem", "run = :run", item.run, Item=dump(key, item))

    async def release(self, key: SessionKey, turn: int, run: str) -> None:
        await self._write("DeleteItem", "run = :run AND attribute_not_exists(body)", run, Key=key_of(key, turn))

    async def delete(self, key: SessionKey) -> None:
        for _ in range(ERASE_ROUNDS):
            items = await self.newest(key, BATCH_DELETES)
            if not items:
                return
            deletes = [{"DeleteRequest": {"Key": key_of(key, item.turn)}} for item in items]
            answer = await self._send("BatchWriteItem", RequestItems={self._table: deletes})
            if answer.get("UnprocessedItems"):  # the table throttles; they are found again by the next round
                await asyncio.sleep(UNPROCESSED_PAUSE_S)
        raise StoreUnavailable("the session is still not empty; delete it again")

    async def list_sessions(
        self, principal: str, limit: int, before: SessionStart | None = None
    ) -> Sequence[SessionStart]:
        start = {"ExclusiveStartKey": _index_key(principal, before)} if before else {}
        page = await self._send(
            "Query",
            IndexName="begun",
            KeyConditionExpression="principal = :principal",
            ExpressionAttributeValues={":principal": {"S": principal}},
            ScanIndexForward=False,
            Limit=limit,
            **start,
        )
        return _read(page, _load_start)

    async def add(
        self, key: SessionKey, window: int, amounts: Numbers, expires: int, *, below: Numbers = NONE, once: bool = False
    ) -> Numbers | None:
        values = {":expires": expires} | {f":{name}": amount for name, amount in amounts.items()}
        values |= {f":most_{name}": bound for name, bound in below.items()}
        payload: dict[str, object] = {
            "Key": key_of(key, window),
            "UpdateExpression": "SET expires = :expires ADD " + ", ".join(f"{name} :{name}" for name in amounts),
            "ExpressionAttributeValues": {name: {"N": str(value)} for name, value in values.items()},
            "ReturnValues": "ALL_NEW",  # the updated ones alone may lack what 0 was added to
        }
        if below:
            free = [f"(attribute_not_exists({name}) OR {name} < :most_{name})" for name in below]
            payload["ConditionExpression"] = " AND ".join(free)
        try:
            answer = await self._send("UpdateItem", NOT_APPLIED if once else PASSING, **payload)
        except ConditionalCheckFailed:
            return None
        try:
            return {name: int(answer["Attributes"][name]["N"]) for name in amounts}
        except NOT_OURS as exc:
            raise StoreUnavailable("DynamoDB UpdateItem answered something that is no counter") from exc

    async def numbers(self, key: SessionKey, window: int) -> Numbers:
        # A Query, which the role has anyway, in the place of a GetItem.
        page = await self._send(
            "Query",
            KeyConditionExpression="pk = :pk AND turn = :window",
            ExpressionAttributeValues={":pk": {"S": str(key)}, ":window": {"N": str(window)}},
            ConsistentRead=True,
        )
        return next(iter(_read(page, load_numbers)), {})

    async def ping(self) -> None:
        # No session id is empty, so this partition is: half a read unit.
        page = await self._send(
            "Query",
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues={":pk": {"S": "/"}},
            Limit=1,
        )
        _read(page, load)

    async def _write(self, action: str, condition: str, run: str | None = None, **payload: object) -> bool:
        """Send a conditional write and return whether its condition held."""
        if run is not None:
            payload["ExpressionAttributeValues"] = {":run": {"S": run}}
        try:
            await self._send(action, ConditionExpression=condition, **payload)
        except ConditionalCheckFailed:
            return False
        return True

    async def _send(
        self, action: str, retried: tuple[type[Exception], ...] = PASSING, /, **payload: object
    ) -> Mapping[str, Any]:
        """Send one request, up to ATTEMPTS times within a second while it fails as `retried`; return the answer."""
        if action != "BatchWriteItem":  # which names its tables itself
            payload["TableName"] = self._table
        try:
            for attempt in range(ATTEMPTS - 1):
                with suppress(*retried):
                    return await self._attempt(action, payload)
                await asyncio.sleep(random.uniform(0, BACKOFF_S * 2**attempt))  # noqa: S311 jitter
            return await self._attempt(action, payload)
        except ConditionalCheckFailed:
            raise
        except (*PASSING, UnknownError, TooManyRetries, OSError, ValueError) as exc:
            # The class tells an operator enough (TableNotFound, AccessDenied …); the text may hold an item.
            raise StoreUnavailable(f"DynamoDB {action} failed: {type(exc).__name__}") from exc
        except AIODynamoError as exc:
            raise StoreRefused(f"DynamoDB {action} failed: {type(exc).__name__}") from exc

    async def _attempt(self, action: str, payload: Mapping[str, object]) -> Mapping[str, Any]:
        key = await self._credentials.get_key(AIOHTTP(self._session))
        if key is None:
            raise NoCredentialsFound
        request = signed_dynamo_request(
            key=key, payload=payload, action=action, region=self._region, endpoint=self._endpoint
        )
        async with self._session.post(request.url, headers=request.headers, data=request.body) as response:
            body = await response.read()
        if response.status == HTTPStatus.OK:
            answer: Mapping[str, Any] = json.loads(body)  # `load` narrows it
            return answer
        error = exception_from_response(response.status, body)
        if isinstance(error, ExpiredToken):
            self._credentials.invalidate()
        raise error


def _index_key(principal: str, start: SessionStart) -> Attributes:
    """Return where the index holds a session: what a page ended with."""
    created = {"principal": {"S": principal}, "created": {"N": f"{start.created:.3f}"}}
    return key_of(SessionKey(principal, start.session_id), 1) | created


def _read(page: Mapping[str, Any], read: Callable[[Mapping[str, Mapping[str, str]]], T]) -> list[T]:
    try:
        return [read(item) for item in page["Items"]]
    except NOT_OURS as exc:
        raise StoreUnavailable("DynamoDB Query answered something that is no session") from exc


def _load_start(attributes: Mapping[str, Mapping[str, str]]) -> SessionStart:
    return SessionStart(
        session_id=attributes["pk"]["S"].rpartition("/")[2],
        created=float(attributes["created"]["N"]),
        expires=int(attributes["expires"]["N"]),
    )
