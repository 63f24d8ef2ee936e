"""SessionStore in one DynamoDB table: `pk` (S, HASH), `turn` (N, RANGE), TTL on `expires`. Nothing else is needed.

Spoken through aiodynamo's client (signing, retries, errors) with the expressions written out, so that the conditions
that carry the design can be read here. No attribute name is a reserved word (Developer Guide, "Reserved words").
"""

import asyncio
import base64
import logging
import random
from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from typing import Any, Self, TypeAlias

import aiohttp
from aiodynamo.client import Client
from aiodynamo.credentials import Credentials, TooManyRetries
from aiodynamo.errors import (
    AccessDenied,
    AIODynamoError,
    ConditionalCheckFailed,
    IncompleteSignature,
    MissingAuthenticationToken,
    SerializationException,
    TableNotFound,
    UnrecognizedClient,
    ValidationException,
)
from aiodynamo.http.aiohttp import AIOHTTP
from aiodynamo.models import RetryConfig, RetryTimeout
from aiodynamo.types import Seconds
from yarl import URL

from app.errors import StoreRefused, StoreUnavailable
from app.sessions import SessionKey, TurnItem
from app.sessions.codec import is_text

# DynamoDB answers in milliseconds. What takes longer is a dead connection or an outage, and the turn must still answer.
TIMEOUT = aiohttp.ClientTimeout(total=2.0, connect=1.0)
ATTEMPTS = 3
BACKOFF_S = 0.05  # before the second attempt, doubled before the third; full jitter
IDLE_CONNECTION_S = 55  # below a minute, where the service and most NAT gateways drop idle connections
CONNECTIONS = 1000  # a call waits for a free one within its time, and turns are limited elsewhere
BATCH_DELETES = 25  # BatchWriteItem's limit
UNPROCESSED_PAUSE_S = 0.1
ERASE_ROUNDS = 400  # bounds `delete` at 10,000 turns a call; nobody types that many

# What asking again does not change.
REFUSED = (
    AccessDenied,
    IncompleteSignature,
    MissingAuthenticationToken,
    SerializationException,
    TableNotFound,
    UnrecognizedClient,
    ValidationException,
)

# aiodynamo's clients log whole requests and credential errors; a level no record reaches keeps users' words out.
SILENCED = ("aiodynamo", "aiodynamo.request", "aiodynamo.response")

Attributes: TypeAlias = dict[str, dict[str, str]]


class ShortRetry(RetryConfig):
    """Up to ATTEMPTS attempts with short pauses; aiodynamo's own start at seconds."""

    def delays(self) -> Iterable[Seconds]:
        return (random.uniform(0, BACKOFF_S * 2**n) for n in range(ATTEMPTS - 1))  # noqa: S311 jitter

    async def attempts(self) -> AsyncIterable[None]:
        yield
        for delay in self.delays():
            await asyncio.sleep(delay)
            yield
        raise RetryTimeout


class DynamoDBStore:
    """Turns in `table` of `region`; `endpoint` replaces the service's own address, for a local server."""

    def __init__(self, table: str, region: str, credentials: Credentials, endpoint: str | None = None) -> None:
        self._table = table
        self._region = region
        self._credentials = credentials
        self._endpoint = URL(endpoint) if endpoint else None
        self._session: aiohttp.ClientSession | None = None
        for name in SILENCED:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)

    async def __aenter__(self) -> Self:
        # DummyCookieJar: DynamoDB sets no cookies, and the real jar costs time on every request.
        self._session = aiohttp.ClientSession(
            timeout=TIMEOUT,
            connector=aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=IDLE_CONNECTION_S),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self._client = Client(
            http=AIOHTTP(self._session),
            credentials=self._credentials,
            region=self._region,
            endpoint=self._endpoint,
            throttle_config=ShortRetry(),
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._session is not None:
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
        return _items(page)

    async def claim(self, key: SessionKey, item: TurnItem, dead_run: str | None = None) -> bool:
        if dead_run is None:
            return await self._write("PutItem", "attribute_not_exists(pk)", Item=_dump(key, item))
        return await self._write(
            "PutItem", "run = :run AND attribute_not_exists(body)", dead_run, Item=_dump(key, item)
        )

    async def commit(self, key: SessionKey, item: TurnItem) -> bool:
        return await self._write("PutItem", "run = :run", item.run, Item=_dump(key, item))

    async def release(self, key: SessionKey, turn: int, run: str) -> None:
        await self._write("DeleteItem", "run = :run AND attribute_not_exists(body)", run, Key=_key(key, turn))

    async def delete(self, key: SessionKey) -> None:
        for _ in range(ERASE_ROUNDS):
            items = await self.newest(key, BATCH_DELETES)
            if not items:
                return
            deletes = [{"DeleteRequest": {"Key": _key(key, item.turn)}} for item in items]
            answer = await self._send("BatchWriteItem", RequestItems={self._table: deletes})
            if answer.get("UnprocessedItems"):  # the table throttles; they are found again by the next round
                await asyncio.sleep(UNPROCESSED_PAUSE_S)
        raise StoreUnavailable("the session is still not empty; delete it again")

    async def ping(self) -> None:
        # No session id is empty, so this partition is: half a read unit.
        page = await self._send(
            "Query",
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues={":pk": {"S": "/"}},
            Limit=1,
        )
        _items(page)

    async def _write(self, action: str, condition: str, run: str | None = None, **payload: object) -> bool:
        """Send a conditional write and return whether its condition held."""
        if run is not None:
            payload["ExpressionAttributeValues"] = {":run": {"S": run}}
        try:
            await self._send(action, ConditionExpression=condition, **payload)
        except ConditionalCheckFailed:
            return False
        return True

    async def _send(self, action: str, **payload: object) -> Mapping[str, Any]:
        """Send one request and return the answer. aiodynamo types answers as `Any`; `_load` narrows them."""
        if action != "BatchWriteItem":  # which names its tables itself
            payload["TableName"] = self._table
        try:
            return await self._client.send_request(action=action, payload=payload)
        except ConditionalCheckFailed:
            raise
        except REFUSED as exc:  # here and below: the class tells an operator enough, and the text may hold an item
            raise StoreRefused(f"DynamoDB {action} failed: {type(exc).__name__}") from exc
        except (AIODynamoError, RetryTimeout, TooManyRetries, aiohttp.ClientError, OSError, ValueError) as exc:
            raise StoreUnavailable(f"DynamoDB {action} failed: {type(exc).__name__}") from exc


def _key(key: SessionKey, turn: int) -> Attributes:
    return {"pk": {"S": str(key)}, "turn": {"N": str(turn)}}


def _dump(key: SessionKey, item: TurnItem) -> Attributes:
    attributes = {
        **_key(key, item.turn),
        "run": {"S": item.run},
        "req": {"S": item.req},
        "expires": {"N": str(item.expires)},
    }
    if item.lease is not None:
        attributes["lease"] = {"N": f"{item.lease:.3f}"}
    if item.body is not None:
        attributes["body"] = (
            {"S": item.body.decode()} if is_text(item.body) else {"B": base64.b64encode(item.body).decode()}
        )
    return attributes


def _items(page: Mapping[str, Any]) -> list[TurnItem]:
    try:
        return [_load(item) for item in page["Items"]]
    except (KeyError, TypeError, ValueError, AttributeError) as exc:  # some other server, or some other table
        raise StoreUnavailable("DynamoDB Query answered something that is no session") from exc


def _load(attributes: Mapping[str, Mapping[str, str]]) -> TurnItem:
    body = attributes.get("body", {})
    lease = attributes.get("lease")
    return TurnItem(
        turn=int(attributes["turn"]["N"]),
        run=attributes["run"]["S"],
        req=attributes["req"]["S"],
        expires=int(attributes["expires"]["N"]),
        lease=float(lease["N"]) if lease else None,
        body=body["S"].encode() if "S" in body else base64.b64decode(body["B"]) if "B" in body else None,
    )
