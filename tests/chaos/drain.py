"""SIGTERM in the middle of everything: turns in flight, arrivals from behind a balancer, callers that keep connections.

A process drains as long as turns run, and uvicorn's workers as well as `python -m app`. Noise: the listener may close
LATE_S after the drain delay; and where an answer to the balancer took a third of the delay, or the flight did not get
into the air together, this machine was too slow for what the round is to show, and it is made again.
"""

import asyncio
import json
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp

from tests.chaos.agents import runs
from tests.chaos.balancer import Balancer
from tests.chaos.callers import Outcome, chat
from tests.chaos.keep_alive import Kept
from tests.chaos.replicas import OURS, START_S, Replica, broken
from tests.chaos.stored import judge
from tests.chaos.trial import Bar, Trial
from tests.servers import Table, sessions_table

WORKERS = ("sh", "-c", f'exec {sys.executable} -m uvicorn app:app --workers 2 --port "$PORT"')  # exec: it gets signals
DELAYS_S = (0.5, 2.0)
GRACE_S = 10.0  # above the longest delay, the turns begun until then, and the reserve of a stop
LATE_S = 0.5  # uvicorn looks every 0.1 s whether it shall end
ATTEMPTS = 5
IN_FLIGHT = "turns in flight at a signal"
LAST_S = 0.1  # before the delay ends: who sends later may find the listener closed


@dataclass(frozen=True, slots=True)
class Load:
    """What goes on at the signal: turns in flight of so many seconds, arrivals a second, connections kept."""

    flight: int
    seconds: float
    rate: int
    kept: int


FULL, SHORT = Load(200, 2.0, 100, 50), Load(40, 1.2, 40, 20)


async def run(trial: Trial) -> None:
    acknowledged: set[str] = set()
    with sessions_table() as table:
        for number in range(5 if trial.full else 1):
            for delay_s in DELAYS_S[:1] if trial.broken else DELAYS_S:
                await _quiet_round(trial, f"{number}-{delay_s}", delay_s, 1, acknowledged, table)
            if not trial.broken:
                await _quiet_round(trial, f"{number}-workers", DELAYS_S[number % 2], 2, acknowledged, table)
        judge(trial, table, acknowledged)
    rounds = 15 if trial.full else 3
    load = FULL if trial.full else SHORT
    trial.demand(IN_FLIGHT, rounds * load.flight)
    trial.demand("arrivals after a signal", rounds)
    trial.demand("connections used again", rounds * load.kept * 3 // 4)
    trial.demand("goodbyes", rounds * load.kept // 4)


async def _quiet_round(
    trial: Trial, name: str, delay_s: float, workers: int, acknowledged: set[str], table: Table
) -> None:
    """Make a round, again where the machine was too slow for what it shows, and add what the last one found."""
    for attempt in range(ATTEMPTS):
        part = Trial(trial.full, trial.random.getrandbits(32), trial.broken)
        stop = Stop(part, f"{name}-{attempt}", delay_s, workers, acknowledged)
        await _round(stop, WORKERS if workers > 1 else broken("no drain") if trial.broken else OURS, table)
        if stop.balancer.slowest_s < delay_s / 3 and part.seen[IN_FLIGHT] == stop.load.flight:
            break
        trial.saw("rounds that noise spoilt")
    trial.add(part)


@dataclass(slots=True)
class Stop:
    """One process that is stopped under load. What was acknowledged is added to `acknowledged`, by session."""

    trial: Trial
    name: str
    delay_s: float
    workers: int
    acknowledged: set[str]
    load: Load = field(init=False)
    balancer: Balancer = field(init=False)

    def __post_init__(self) -> None:
        self.load = FULL if self.trial.full else SHORT

    async def flight(self, http: aiohttp.ClientSession) -> None:
        """Turns that have begun when the signal comes."""
        sent = range(self.load.flight)
        await asyncio.gather(*[self._turn(http, f"{self.name}-flight-{n}", self.load.seconds, n) for n in sent])

    async def arrivals(self, http: aiohttp.ClientSession) -> None:
        """Turns that are sent as long as the balancer sends them here."""
        turns: list[asyncio.Task[None]] = []
        while self.balancer.sends:
            n = len(turns)
            turns.append(asyncio.create_task(self._turn(http, f"{self.name}-arrival-{n}", self._random_s(0.3), n)))
            self.trial.saw("arrivals after a signal", time.monotonic() > self.balancer.signalled)
            await asyncio.sleep(1 / self.load.rate)
        await asyncio.gather(*turns)

    async def keep(self, kept: Kept, session: str) -> None:
        """Send the next message on a connection at a random moment of the drain."""
        await asyncio.sleep(self._random_s(self.delay_s - LAST_S))
        sent = time.monotonic()
        if sent > self.balancer.signalled + self.delay_s - LAST_S:
            return
        outcome = await kept.chat(session, "again")
        self.judge_turn(session, outcome)
        self.trial.saw("connections used again")
        if sent > self.balancer.first_refusal and self.workers == 1:  # of more, the other one may have refused
            self.trial.saw("goodbyes")
            closing = outcome.headers.get("connection")
            self.trial.check(closing == "close", f"a draining process said connection: {closing}")

    async def _turn(self, http: aiohttp.ClientSession, session: str, seconds: float, number: int) -> None:
        self.judge_turn(session, await chat(http, self.balancer.url, session, f"hi|{seconds}", stream=number % 2 == 0))

    def judge_turn(self, session: str, outcome: Outcome) -> None:
        got = "a cut answer" if outcome.cut else outcome.slug or outcome.status
        self.trial.check(outcome.done and not outcome.cut, f"{session} got {got}")
        if outcome.done:
            self.acknowledged.add(session)

    def _random_s(self, most: float) -> float:
        return self.trial.random.uniform(0, most)


async def _round(stop: Stop, command: tuple[str, ...], table: Table) -> None:
    settings = table.settings | {
        "AGENT": "tests.chaos.agents:steady",
        "DRAIN_DELAY_S": str(stop.delay_s),
        "SHUTDOWN_GRACE_S": str(GRACE_S),
        "MAX_CONCURRENT_TURNS": "1000",
    }
    with TemporaryDirectory() as folder:
        async with (
            Replica(Path(folder), command, **settings) as replica,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http,
        ):
            await _until_warm(replica, stop.workers)
            stop.balancer = Balancer(replica.url)
            await _stopped_under_load(stop, replica, http)
        began = Counter(each["session"] for each in runs(Path(folder)) if each["what"] == "began")
        for session, times in began.items():
            stop.trial.check(times == 1, f"the agent of {session} ran {times} times")


async def _stopped_under_load(stop: Stop, replica: Replica, http: aiohttp.ClientSession) -> None:
    """Send everything, then the signal, and check how the process ends."""
    sessions = [f"{stop.name}-kept-{n}" for n in range(stop.load.kept)]
    kept = [await Kept.open(replica.port) for _ in sessions]
    for each, session in zip(kept, sessions, strict=True):
        stop.judge_turn(f"{session}-first", await each.chat(f"{session}-first", "hello"))
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(stop.balancer.watch())
        tasks.create_task(stop.arrivals(http))
        tasks.create_task(stop.flight(http))
        stop.trial.saw(IN_FLIGHT, await _in_flight(stop, replica))
        stop.balancer.signalled = time.monotonic()
        replica.signal(signal.SIGTERM)
        for each, session in zip(kept, sessions, strict=True):
            tasks.create_task(stop.keep(each, session))
        await watching
        left_s = stop.balancer.signalled + GRACE_S - time.monotonic()
        status = await replica.ended(left_s)
    for each in kept:
        each.close()
    stop.trial.check(status == 0, f"{stop.name}: at the end of its grace the process had ended with {status}")
    late_s = LATE_S if stop.workers == 1 else float("inf")  # a parent of workers holds the listener to its own end
    stop.balancer.judge(stop.trial, stop.delay_s, late_s)


async def _in_flight(stop: Stop, replica: Replica) -> int:
    """Wait until every turn of the flight has begun, and return how many of them run."""
    async with asyncio.timeout(START_S):
        while True:
            ours = [each["what"] for each in runs(replica.folder) if "-flight-" in each["session"]]
            if ours.count("began") == stop.load.flight:
                return ours.count("began") - ours.count("ended")
            await asyncio.sleep(0.02)


async def _until_warm(replica: Replica, workers: int) -> None:
    async with asyncio.timeout(START_S):
        while _phases(replica.log).count("ready") < workers:
            await asyncio.sleep(0.05)


def _phases(log: Path) -> list[str]:
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return [line["phase"] for line in lines if line["event"] == "phase changed"]


BAR = Bar(
    name="drain",
    promise="A stop under load drops, cuts, repeats and refuses nothing, and tells balancers before it closes.",
    control="the drain between the signal and the end of listening",
    run=run,
    needs=("DYNOXIDE",),
)
