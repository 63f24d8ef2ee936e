"""What the suite drives a store with: replicas of the service over one store, agents, clocks and meeting points."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from app import turn_log
from app.agents import Agent, OpenTurn
from app.agents.echo import echo
from app.errors import ServiceError
from app.events import AgentEvent, Turn, TurnDone
from app.running import RunningTurn
from app.sessions import SessionKey, SessionStore, TurnItem
from app.sessions.claims import Claim, Claims
from app.sessions.codec import unpack
from app.sessions.dynamodb import DynamoDBStore
from app.sessions.sqlite import SQLiteStore
from app.turns import TurnRequest, TurnService
from tests.faults import Faults, FaultyStore, Proxy
from tests.memory_store import MemoryStore
from tests.servers import CREDENTIALS, REGION, Server

KEY = SessionKey("principal", "session")
WINDOW = 20
KEEP_S = 3600
LEASE_S = 30.0
LIMIT_S = 30.0  # nothing here takes as long; what does hangs

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Parts:
    """The classes under test; `tests/mutants.py` puts broken ones in their place."""

    claims: type[Claims] = Claims
    sqlite: type[SQLiteStore] = SQLiteStore
    dynamodb: type[DynamoDBStore] = DynamoDBStore


REAL = Parts()


class Rig:
    """Replicas of the service over one store that holds nothing yet, with faults on the way to it.

    `store` is the first replica's; `crowd` is how many writers it takes in a test's time.
    """

    store: SessionStore
    crowd = 50

    def __init__(self, replica: Callable[[], SessionStore], faults: Faults, parts: Parts = REAL) -> None:
        self.faults = faults
        self._replica = replica
        self._claims = parts.claims
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self.store = await self.replica()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._open.aclose()

    async def replica(self) -> SessionStore:
        """Return another replica's way to the same turns."""
        return await self._open.enter_async_context(self._replica())

    def claims(
        self,
        store: SessionStore | None = None,
        *,
        window: int = WINDOW,
        clock: Callable[[], float] = time.time,
    ) -> Claims:
        """Return the claims of a replica: the first one's where no store is given."""
        return self._claims(store or self.store, window, KEEP_S, clock)

    async def items(self, key: SessionKey = KEY) -> list[TurnItem]:
        """Return everything that is stored of a session, oldest first."""
        found: list[TurnItem] = []
        while page := await self.store.newest(key, 100, found[-1].turn if found else None):
            found += page
        return found[::-1]

    async def transcript(self, key: SessionKey = KEY) -> list[Turn]:
        """Return the session's done turns, oldest first."""
        return [unpack(item.turn, item.body) for item in await self.items(key) if item.body is not None]


def in_memory() -> Rig:
    store, faults = MemoryStore(), Faults()
    return Rig(lambda: FaultyStore(store, faults), faults)


def on_sqlite(path: Path, parts: Parts = REAL) -> Rig:
    faults = Faults()
    return Rig(lambda: FaultyStore(parts.sqlite(path), faults), faults, parts)


class WireRig(Rig):
    """A rig on a DynamoDB server: its log of calls shows the wire."""

    def __init__(self, server: Server, faults: Faults, endpoint: str, parts: Parts = REAL) -> None:
        self._server = server
        self._table = server.create_table()
        super().__init__(lambda: parts.dynamodb(self._table, REGION, CREDENTIALS, endpoint), faults, parts)
        self.crowd = server.crowd

    def grow(self, turns: int, key: SessionKey = KEY) -> None:
        """Let the session grow to so many turns, all like its newest one, without the store under test."""
        self._server.repeat_newest(self._table, str(key), turns)


@asynccontextmanager
async def on_dynamodb(server: Server, parts: Parts = REAL) -> AsyncIterator[WireRig]:
    faults = Faults()
    async with Proxy(server.endpoint, faults) as endpoint, WireRig(server, faults, endpoint, parts) as rig:
        yield rig


def start(
    claims: Claims,
    message: str = "hello",
    *,
    agent: Agent = echo,
    key: SessionKey = KEY,
    req: str | None = None,
    wait_s: float = 0.0,
) -> RunningTurn:
    """Start a turn as a request would."""
    deadline = asyncio.get_running_loop().time() + LIMIT_S
    turns = TurnService(claims, agent, max_steps=1, report=turn_log.write)
    return turns.start(TurnRequest(key, message, req, wait_s, deadline))


async def end(running: RunningTurn) -> Turn:
    """Return the turn once it is acknowledged; raise the error that ended it."""
    async with asyncio.timeout(LIMIT_S):
        events = [event async for batch in running.batches(heartbeat_s=LIMIT_S) for event in batch]
    assert isinstance(events[-1], TurnDone)
    return events[-1].turn


async def take_turn(
    claims: Claims,
    message: str = "hello",
    *,
    agent: Agent = echo,
    key: SessionKey = KEY,
    req: str | None = None,
    wait_s: float = 0.0,
) -> Turn:
    """Run a turn from its request to its acknowledgement."""
    return await end(start(claims, message, agent=agent, key=key, req=req, wait_s=wait_s))


async def claimed(claims: Claims, req: str | None = None, lease_s: float = LEASE_S, key: SessionKey = KEY) -> Claim:
    """Claim the next turn and leave it open, as a process does that is still running, hangs or died."""
    claim = await claims.claim(key, req, "hello", lease_s)
    assert isinstance(claim, Claim)
    return claim


async def together(*work: Coroutine[Any, Any, T]) -> list[T]:
    """Run all at once and return their results in order."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each) for each in work]
    return [task.result() for task in tasks]


async def outcome(work: Coroutine[Any, Any, T]) -> T | ServiceError:
    """Return what came of it, an error of ours too."""
    try:
        return await work
    except ServiceError as error:
        return error


def answered(claim: Claim, message: str = "hello", answer: str = "answer") -> Turn:
    """Return the done turn that the claim's run would commit."""
    return Turn(claim.item.turn, message, answer)


def numbers(turns: Sequence[Turn] | Sequence[TurnItem]) -> list[int]:
    return [turn.number if isinstance(turn, Turn) else turn.turn for turn in turns]


class Clock:
    """Epoch seconds that pass only when told to; whole ones, for DynamoDB keeps a lease to the millisecond."""

    def __init__(self, ahead_s: float = 0.0) -> None:
        self._now = int(time.time()) + ahead_s

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds


class Recorder:
    """An agent that keeps what it was handed, and how many of its runs were under way at once."""

    def __init__(self) -> None:
        self.seen: list[OpenTurn] = []
        self.peak = 0
        self._running = 0

    async def __call__(self, turn: OpenTurn) -> AsyncIterator[AgentEvent]:
        self.seen.append(turn)
        self._running += 1
        self.peak = max(self.peak, self._running)
        await asyncio.sleep(0)  # a run that never waited could not overlap with another one
        yield f"answer to {turn.message}"
        self._running -= 1


class Gate:
    """An agent that says when it has started, and answers when it is let."""

    def __init__(self) -> None:
        self._started = asyncio.Event()
        self._open = asyncio.Event()

    async def __call__(self, turn: OpenTurn) -> AsyncIterator[AgentEvent]:
        self._started.set()
        await self._open.wait()
        yield f"answer to {turn.message}"

    async def started(self) -> None:
        async with asyncio.timeout(LIMIT_S):
            await self._started.wait()

    def open(self) -> None:
        self._open.set()
