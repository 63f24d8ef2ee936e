"""A process that sleeps beyond its leases and wakes, and clocks that differ: living runs are overtaken."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
from aiohttp import web

from tests.chaos.agents import runs
from tests.chaos.callers import Caller, Outcome, Said, send, transcript
from tests.chaos.history import check_history, lease_of, newest
from tests.chaos.replicas import OURS, Replica, broken
from tests.chaos.trial import Bar, Trial
from tests.faults import Faults, Proxy
from tests.servers import Table, sessions_table

SETTINGS = {"AGENT": "tests.chaos.agents:witness", "AGENT_TIMEOUT_S": "2", "SESSIONS_WINDOW": "200"}
FALLEN_ASLEEP = ("agent", "commit")  # what the process was at
OVERTAKEN_BY = ("retry", "another", "nobody")
REACH_S = 30.0
CALLERS, SESSIONS, TURNS_SHORT, TURNS_FULL = 10, 3, 6, 30
ROUNDS = 5  # at most, until clocks that differ have cost somebody a turn


class Holding(Proxy):
    """A proxy that lets no commit of some sessions through before its gate is open."""

    def __init__(self, upstream: str, sessions: Sequence[str]) -> None:
        super().__init__(upstream, Faults())
        self.gate = asyncio.Event()
        self.held: set[str] = set()
        self.late: Counter[int] = Counter()
        self._sessions = {session: f'"anonymous/{session}"'.encode() for session in sessions}

    async def _forward(self, request: web.BaseRequest, body: bytes) -> tuple[int, bytes]:
        session = next((name for name, key in self._sessions.items() if key in body and b'"body"' in body), None)
        if session is None or self.gate.is_set():
            return await super()._forward(request, body)
        self.held.add(session)
        await self.gate.wait()
        status, answer = await super()._forward(request, body)
        self.late[status] += 1
        return status, answer


@dataclass(slots=True)
class Sleeper:
    """A turn whose process falls asleep, what its callers were told, and what is stored since it was taken over."""

    asleep_in: str
    overtaken_by: str
    stream: bool
    said: list[Said] = field(default_factory=list)
    taken: Mapping[str, Any] = field(default_factory=dict)

    @property
    def session(self) -> str:
        return f"{self.asleep_in}-{self.overtaken_by}-{'sse' if self.stream else 'json'}"

    @property
    def message(self) -> str:
        return f"{self.session}|{1.8 if self.asleep_in == 'agent' else 0}"

    async def send(self, http: aiohttp.ClientSession, url: str, message: str) -> Outcome:
        """Send a message with itself as its key, and keep what was acknowledged."""
        outcome, said = await send(http, url, self.session, message, stream=self.stream)
        self.said += said
        return outcome


@dataclass(frozen=True, slots=True)
class Place:
    """Where it happens: the process that falls asleep, the one that does not, and the proxy before the first."""

    trial: Trial
    http: aiohttp.ClientSession
    table: Table
    folder: Path
    proxy: Holding
    zombie: Replica
    other: Replica


async def run(trial: Trial) -> None:
    sleepers = [
        Sleeper(asleep_in, overtaken_by, stream)
        for asleep_in in FALLEN_ASLEEP
        for overtaken_by in OVERTAKEN_BY
        for stream in (False, True)
    ]
    edits = ["commit unconditional"] if trial.broken else []
    command = broken(*edits) if edits else OURS
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        table = stack.enter_context(sessions_table())
        proxy = Holding(table.endpoint, [each.session for each in sleepers if each.asleep_in == "commit"])
        held = {"AWS_ENDPOINT_URL_DYNAMODB": await stack.enter_async_context(proxy)}
        settings = SETTINGS | table.settings
        http = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        zombie = await stack.enter_async_context(Replica(folder, command, **settings | held))
        other = await stack.enter_async_context(Replica(folder, command, **settings))
        skewed = [
            await stack.enter_async_context(Replica(folder, broken(clock, *edits), **settings))
            for clock in ("clock ahead", "clock behind")
        ]
        await asyncio.gather(
            _sleep(Place(trial, http, table, folder, proxy, zombie, other), sleepers),
            _differ(trial, http, [each.url for each in skewed], TURNS_FULL if trial.full else TURNS_SHORT),
        )
    trial.demand("told lease-lost", 2)
    trial.demand("told lease-lost by clocks that differ", 1)


async def _sleep(place: Place, sleepers: Sequence[Sleeper]) -> None:
    """Stop a process in the middle of its turns, let others take over, and wake it."""
    sending = [asyncio.create_task(each.send(place.http, place.zombie.url, each.message)) for each in sleepers]
    await _reach(place, sleepers)
    place.zombie.signal(signal.SIGSTOP)
    place.trial.saw("turns fallen asleep", len(sleepers))
    leases = [lease_of(place.table, each.session) or 0 for each in sleepers]
    place.trial.check(all(leases), "vacuous: a turn was stored before its process fell asleep")
    await asyncio.sleep(max(leases) - time.time() + 0.01)
    await asyncio.gather(*[_overtake(place, each) for each in sleepers if each.overtaken_by != "nobody"])
    await _let_through(place)
    place.zombie.signal(signal.SIGCONT)
    told = await asyncio.gather(*sending)
    await asyncio.gather(*[_check(place, *each) for each in zip(sleepers, told, strict=True)])


async def _overtake(place: Place, sleeper: Sleeper) -> None:
    message = sleeper.message if sleeper.overtaken_by == "retry" else f"another-{sleeper.session}"
    outcome = await sleeper.send(place.http, place.other.url, message)
    place.trial.check(outcome.done, f"{sleeper.session}: the taker was told {outcome.status} {outcome.slug}")
    sleeper.taken = newest(place.table, sleeper.session)


async def _check(place: Place, sleeper: Sleeper, told: Outcome) -> None:
    """Who was overtaken is told so, who was not has its turn; a retry and one more turn make the history whole."""
    trial, name = place.trial, sleeper.session
    what = told.slug or "done"
    trial.saw(f"told {what}")
    trial.check(what in _may_be_told(sleeper), f"{name}: told {told.status} {what}")
    stored = newest(place.table, name)
    if sleeper.taken:
        trial.check(stored == sleeper.taken, f"{name}: something of the overtaken run is stored")
    elif what == "done":
        trial.check("body" in stored, f"{name}: an acknowledged turn is not stored")
    for message in (sleeper.message, "after"):
        outcome = await sleeper.send(place.http, place.zombie.url, message)
        trial.check(outcome.done, f"{name}: {message} was told {outcome.status} {outcome.slug}")
    check_history(trial, name, await transcript(place.http, place.zombie.url, name), sleeper.said)


def _may_be_told(sleeper: Sleeper) -> set[str]:
    """Return what a caller may hear of a process that woke."""
    return {"done" if sleeper.overtaken_by == "nobody" else "lease-lost"}


async def _reach(place: Place, sleepers: Sequence[Sleeper]) -> None:
    """Return when every turn is where it shall fall asleep."""
    expected = {each.session for each in sleepers}
    commits = {each.session for each in sleepers if each.asleep_in == "commit"}
    async with asyncio.timeout(REACH_S):
        while place.proxy.held != commits or not expected <= {each["session"] for each in runs(place.folder)}:
            await asyncio.sleep(0.005)


async def _let_through(place: Place) -> None:
    """Open the gate, and return when the commits that were held back have been answered."""
    place.proxy.gate.set()
    async with asyncio.timeout(REACH_S):
        while place.proxy.late.total() < len(place.proxy.held):
            await asyncio.sleep(0.005)


async def _differ(trial: Trial, http: aiohttp.ClientSession, urls: Sequence[str], turns: int) -> None:
    """Let callers talk with two replicas, of which one takes the other's living leases for ended ones."""
    callers = [Caller(http, lambda: trial.random.choice(urls)) for _ in range(CALLERS)]

    async def take_turns(number: int, caller: Caller) -> None:
        for n in range(turns):
            message = f"{number}-{len(caller.said)}|0.15"
            await caller.say(f"skewed-{number % SESSIONS}", message, stream=n % 4 > 1)

    for _ in range(ROUNDS):
        await asyncio.gather(*[take_turns(number, caller) for number, caller in enumerate(callers)])
        if lost := sum(each.met["lease-lost"] for each in callers):
            break
    trial.saw("told lease-lost by clocks that differ", lost)
    said = [each for caller in callers for each in caller.said]
    for session in {each.session for each in said}:
        own = [each for each in said if each.session == session]
        check_history(trial, session, await transcript(http, urls[0], session), own)


BAR = Bar(
    name="zombie",
    promise="A run that was overtaken stores nothing and is told so, whether its process slept or clocks differ.",
    control="the condition of a commit",
    run=run,
)
