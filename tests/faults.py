"""Faults between a store and what calls it: requests refused, and replies lost after the write was applied.

They are injected where each store can be cut off: `Proxy` stands in the wire before a DynamoDB server, `FaultyStore`
around a store that has no wire.
"""

import asyncio
import json
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import Literal, Self, TypeAlias, TypeVar

import aiohttp
from aiohttp import web

from app.errors import StoreUnavailable
from app.sessions import NONE, Numbers, SessionKey, SessionStart, SessionStore, TurnItem

T = TypeVar("T")

Operation: TypeAlias = Literal["newest", "claim", "commit", "release", "delete", "list", "add", "numbers"]
STORE_ATTEMPTS = 3  # requests a store makes before it raises StoreUnavailable; `app.sessions.dynamodb.ATTEMPTS`


class Fault(Enum):
    """What happens to one request."""

    THROTTLED = "refused for now, nothing applied"
    BROKEN = "failed inside the store, nothing applied"
    RESET = "the connection died before anything was applied"
    STALLED = "nothing applied, and the answer never comes"
    REPLY_LOST = "applied, and the connection died before the answer"
    HUNG = "applied, and the answer never comes"


SILENT = (Fault.STALLED, Fault.HUNG)  # these cost the caller's whole timeout
SUDDEN = tuple(fault for fault in Fault if fault not in SILENT)
APPLIED = (Fault.REPLY_LOST, Fault.HUNG)


def seeded(seed: int) -> Random:
    """Return a source of the same numbers in every run."""
    return Random(seed)  # noqa: S311 nothing here is secret


@dataclass(slots=True)
class Call:
    """A request as it was seen on its way. Where there is no wire, its body is empty and its answer has no bytes."""

    operation: Operation
    body: bytes
    fault: Fault | None
    answer_bytes: int = 0


class Faults:
    """Which fault the next requests meet, and a log of all requests. `delay_s` holds each up on the wire."""

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.calls: list[Call] = []
        self._planned: dict[Operation, deque[Fault | None]] = defaultdict(deque)
        self._random: tuple[Random, float] | None = None

    def plan(self, operation: Operation, *faults: Fault | None) -> None:
        """Let the next requests of this operation meet these faults, one each, and with None nothing."""
        self._planned[operation].extend(faults)

    def end(self) -> None:
        """Let no further request meet what is still planned."""
        self._planned.clear()

    def at_random(self, random: Random, rate: float) -> None:
        """From here on, let each request meet some fault with a probability of `rate`; 0 ends all faults."""
        self._random = (random, rate)

    def meet(self, operation: Operation, body: bytes = b"") -> Call:
        """Log a request and return it with the fault that it meets."""
        call = Call(operation, body, self._next(operation))
        self.calls.append(call)
        return call

    def met(self, fault: Fault) -> int:
        """Return how many requests met this fault."""
        return sum(call.fault is fault for call in self.calls)

    def operations(self) -> list[Operation]:
        """Return the operations that were asked for, in order."""
        return [call.operation for call in self.calls]

    def _next(self, operation: Operation) -> Fault | None:
        if planned := self._planned[operation]:
            return planned.popleft()
        if self._random is None:
            return None
        random, rate = self._random
        return random.choice(SUDDEN) if random.random() < rate else None


class FaultyStore:
    """A store behind `faults`, which repeats a request that failed as the DynamoDB adapter does."""

    def __init__(self, store: SessionStore, faults: Faults) -> None:
        self._store = store
        self._faults = faults

    async def __aenter__(self) -> Self:
        await self._store.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._store.__aexit__(*exc)

    async def newest(self, key: SessionKey, limit: int, before: int | None = None) -> Sequence[TurnItem]:
        return await self._try("newest", lambda: self._store.newest(key, limit, before))

    async def claim(self, key: SessionKey, item: TurnItem, dead_run: str | None = None) -> bool:
        return await self._try("claim", lambda: self._store.claim(key, item, dead_run))

    async def commit(self, key: SessionKey, item: TurnItem) -> bool:
        return await self._try("commit", lambda: self._store.commit(key, item))

    async def release(self, key: SessionKey, turn: int, run: str) -> None:
        await self._try("release", lambda: self._store.release(key, turn, run))

    async def delete(self, key: SessionKey) -> None:
        await self._try("delete", lambda: self._store.delete(key))

    async def list_sessions(
        self, principal: str, limit: int, before: SessionStart | None = None
    ) -> Sequence[SessionStart]:
        return await self._try("list", lambda: self._store.list_sessions(principal, limit, before))

    async def add(
        self, key: SessionKey, window: int, amounts: Numbers, expires: int, *, below: Numbers = NONE, once: bool = False
    ) -> Numbers | None:
        return await self._try(
            "add", lambda: self._store.add(key, window, amounts, expires, below=below, once=once), once=once
        )

    async def numbers(self, key: SessionKey, window: int) -> Numbers:
        return await self._try("numbers", lambda: self._store.numbers(key, window))

    async def ping(self) -> None:
        await self._store.ping()

    async def _try(self, operation: Operation, request: Callable[[], Awaitable[T]], *, once: bool = False) -> T:
        for _ in range(STORE_ATTEMPTS):
            await asyncio.sleep(0)  # others may run before a request arrives, as they may on a network
            fault = self._faults.meet(operation).fault
            if fault is None:
                answer = await request()
                await asyncio.sleep(0)  # and before its answer does
                return answer
            if fault in APPLIED:
                await request()
            if once and fault is not Fault.THROTTLED:
                break
        raise StoreUnavailable("a fault was injected")


class Proxy:
    """An HTTP server before the DynamoDB server at `upstream`."""

    def __init__(self, upstream: str, faults: Faults) -> None:
        self._upstream = upstream
        self._faults = faults
        self._closing = asyncio.Event()
        self._runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=0.1)

    async def __aenter__(self) -> str:
        """Start, and return the address to use instead of the server's own."""
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        return f"http://{host}:{port}"

    async def __aexit__(self, *exc: object) -> None:
        self._closing.set()
        await self._runner.cleanup()
        await self._session.close()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        call = self._faults.meet(_operation(request.headers["X-Amz-Target"], body), body)
        await asyncio.sleep(self._faults.delay_s)
        match call.fault:
            case Fault.THROTTLED:
                return _problem(400, "ProvisionedThroughputExceededException")
            case Fault.BROKEN:
                return _problem(500, "InternalServerError")
        status, answer = 503, b""
        if call.fault is None or call.fault in APPLIED:
            status, answer = await self._forward(request, body)
            call.answer_bytes = len(answer)
        if call.fault in SILENT:
            await self._closing.wait()
        if call.fault in (Fault.RESET, Fault.REPLY_LOST) and request.transport is not None:
            request.transport.abort()
        return web.Response(status=status, body=answer)

    async def _forward(self, request: web.BaseRequest, body: bytes) -> tuple[int, bytes]:
        names = ("X-Amz-Target", "X-Amz-Date", "Authorization", "Content-Type")
        headers = {name: request.headers[name] for name in names if name in request.headers}
        async with self._session.post(self._upstream, data=body, headers=headers) as answer:
            return answer.status, await answer.read()


def _problem(status: int, name: str) -> web.Response:
    return web.json_response({"__type": f"com.amazonaws.dynamodb.v20120810#{name}"}, status=status)


def _operation(target: str, body: bytes) -> Operation:
    match target.rpartition(".")[2]:
        case "Query":
            query = json.loads(body)
            if "turn = " in query["KeyConditionExpression"]:
                return "numbers"
            return "list" if "IndexName" in query else "newest"
        case "PutItem":
            return "commit" if "body" in json.loads(body)["Item"] else "claim"
        case "DeleteItem":
            return "release"
        case "BatchWriteItem":
            return "delete"
        case "UpdateItem":
            return "add"
    raise AssertionError(f"the design does not use {target}")
