"""Ten times as many turns at once as a process may run."""

import asyncio
import time
from collections.abc import Awaitable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import aiohttp

from tests.chaos.agents import GATE, runs
from tests.chaos.callers import Outcome, ask, chat
from tests.chaos.replicas import OURS, Replica, broken
from tests.chaos.trial import Bar, Trial

MAX = {True: 100, False: 20}  # turns a process may run
TIMES = 10
CALM = 40  # further requests, one after the other, while the process is full
SLOWER = 5.0  # times a probe's median that a refusal's may take: it reads a body's head more, and the machine is noisy
WAIT_S = 60.0

Timed = tuple[Outcome, float]


async def run(trial: Trial) -> None:
    most = MAX[trial.full]
    command = broken("no limit of turns") if trial.broken else OURS
    for number in range(4 if trial.full else 1):
        with TemporaryDirectory() as folder:
            settings = {"AGENT": "tests.chaos.agents:gated", "MAX_CONCURRENT_TURNS": str(most)}
            async with (
                Replica(Path(folder), command, **settings) as replica,
                aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http,
            ):
                await _overload(trial, http, replica, f"round-{number}", most)
    trial.demand("refusals", (TIMES - 1) * most)
    trial.demand("probes", most)


async def _overload(trial: Trial, http: aiohttp.ClientSession, replica: Replica, name: str, most: int) -> None:
    """Send all at once, with a probe among every ten, and let the turns end only when all others have been answered."""
    turns, probes = [], []
    for n in range(TIMES * most):
        turns.append(asyncio.create_task(_timed(chat(http, replica.url, f"{name}-{n}", "hello"))))
        if n % TIMES == 0:
            probes.append(asyncio.create_task(_timed(ask(http, _probe(replica, n // TIMES)))))
    async with asyncio.timeout(WAIT_S):
        while len(runs(replica.folder)) + sum(each.done() for each in turns) < len(turns):
            await asyncio.sleep(0.05)
    began = len(runs(replica.folder))
    trial.check(began == most, f"{began} turns ran at once, not {most}")
    refused = [each.result() for each in turns if each.done()]
    _compare(trial, refused, await asyncio.gather(*probes), "all at once")
    if refused:
        await _calm(trial, http, replica, name)
    (replica.folder / GATE).touch()
    outcomes = [outcome for outcome, _ in await asyncio.gather(*turns)]
    served = sum(outcome.done is not None for outcome in outcomes)
    trial.check(served == most, f"{served} turns were answered, not {most}")
    trial.check(len(outcomes) - served == len(refused), "a turn was neither refused at once nor answered")
    again = await chat(http, replica.url, f"{name}-after", "hello")
    trial.check(again.done, f"after the crowd a turn gets {again.status}")


async def _calm(trial: Trial, http: aiohttp.ClientSession, replica: Replica, name: str) -> None:
    """Ask a full process for a turn and for its health by turns."""
    refused, probed = [], []
    for n in range(CALM):
        refused.append(await _timed(chat(http, replica.url, f"{name}-calm", "hello")))
        probed.append(await _timed(ask(http, _probe(replica, n))))
    _compare(trial, refused, probed, "one by one")


def _compare(trial: Trial, refused: list[Timed], probed: list[Timed], how: str) -> None:
    """Every refusal says what it is and when to come again, every probe is fine, and one takes as long as the other."""
    for outcome, _ in refused:
        right = outcome.status == 503 and outcome.slug == "overloaded" and outcome.headers.get("retry-after") == "1"
        trial.check(right, f"a turn too many gets {outcome.status} {outcome.text[:100]}")
    for outcome, _ in probed:
        trial.check(outcome.status == 200, f"a probe of a full process gets {outcome.status}")
    trial.saw("refusals", len(refused))
    trial.saw("probes", len(probed))
    if refused:
        ratio = median(seconds for _, seconds in refused) / median(seconds for _, seconds in probed)
        trial.check(ratio <= SLOWER, f"{how}, a refusal takes {ratio:.1f} times as long as a probe")
        trial.seen[f"% of a probe's time {how}"] = round(ratio * 100)


def _probe(replica: Replica, n: int) -> str:
    return f"{replica.url}/{'healthz' if n % 2 else 'readyz'}"


async def _timed(work: Awaitable[Outcome]) -> Timed:
    started = time.perf_counter()
    return await work, time.perf_counter() - started


BAR = Bar(
    name="overload",
    promise="Of ten times the turns that may run, as many do; the rest is told so as fast as a probe is answered.",
    control="the limit of turns",
    run=run,
    alone=True,
)
