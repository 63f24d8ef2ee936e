"""The store down, the model down, the store slow, a tool that blocks: what the probes say meanwhile, and how soon."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import aiohttp

from tests.chaos.callers import ask, chat
from tests.chaos.replicas import OURS, Replica, broken
from tests.chaos.trial import Bar, Trial
from tests.fake_model import FakeModel
from tests.faults import Faults, Proxy
from tests.model_script import Call, error, says
from tests.servers import sessions_table

SLOW_S = 0.5  # each call to the slow store
TURNS = 50
RATIO = 5.0
NOISE_S = 0.02  # a probe that is faster than this tells of the machine and not of the service
MISSED_S = 1.0  # what a probe of an orchestrator waits at least
PAUSE_S = 0.02


async def run(trial: Trial) -> None:
    """Let one thing after the other fail; where the thread of a tool was taken away, only that."""
    with TemporaryDirectory() as folder, sessions_table() as table:
        faults = Faults()
        async with Proxy(table.endpoint, faults) as endpoint:
            settings = replace(table, endpoint=endpoint).settings
            if not trial.broken:
                await _store_down(trial, Path(folder), settings, faults)
                await _model_down(trial, Path(folder), settings)
                await _store_slow(trial, Path(folder), settings, faults)
            await _tool_blocks(trial, Path(folder), settings)


class Probed:
    """A replica whose probes are asked all the time, and what they said."""

    def __init__(self, replica: Replica, http: aiohttp.ClientSession) -> None:
        self.replica = replica
        self.http = http
        self.alive: Counter[int] = Counter()
        self.ready: list[int] = []
        self.seconds: list[float] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._ask("healthz")), asyncio.create_task(self._ask("readyz"))]
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _ask(self, probe: str) -> None:
        while True:
            began = time.monotonic()
            status = (await ask(self.http, f"{self.replica.url}/{probe}")).status
            if probe == "readyz":
                self.ready.append(status)
            else:
                self.alive[status] += 1
                self.seconds.append(time.monotonic() - began)
            await asyncio.sleep(PAUSE_S)

    async def until_ready(self, status: int) -> None:
        async with asyncio.timeout(60):
            while not self.ready or self.ready[-1] != status:
                await asyncio.sleep(PAUSE_S)

    def check(self, trial: Trial, when: str, *readiness: int) -> None:
        """Check that liveness never failed, and that readiness changed in this way."""
        trial.check(set(self.alive) == {200}, f"{when}: /healthz answered {dict(self.alive)}")
        flips = tuple(status for status, _ in groupby(self.ready))
        trial.check(flips == readiness, f"{when}: /readyz changed {flips}")
        trial.saw("probes", self.alive[200])


@asynccontextmanager
async def _probed(folder: Path, settings: Mapping[str, str], command: tuple[str, ...] = OURS) -> AsyncIterator[Probed]:
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http,
        Replica(folder, command, **settings) as replica,
        Probed(replica, http) as probed,
    ):
        yield probed


async def _store_down(trial: Trial, folder: Path, settings: dict[str, str], faults: Faults) -> None:
    """Readiness stays as it is, or changes once where it was asked to; turns are refused with the reason."""
    after_s = 10 if trial.full else 1
    async with (
        _probed(folder, settings) as usual,
        _probed(folder, settings | {"READYZ_STORE_FAIL_AFTER_S": str(after_s)}) as asked,
    ):
        faults.at_random(trial.random, rate=1)
        ends_at = time.monotonic() + (60 if trial.full else 4)
        while time.monotonic() < ends_at:
            for each in (usual, asked):
                await _refused(trial, each, "store-unavailable")
        await asked.until_ready(503)
        faults.at_random(trial.random, rate=0)
        await asked.until_ready(200)
        for each in (usual, asked):
            after = await chat(each.http, each.replica.url, "after", "hello", Prefer="wait=10")
            trial.check(after.done, f"after the outage of the store a turn got {after.status}")
    usual.check(trial, "store down", 200)
    asked.check(trial, "store down, readiness asked to fail", 200, 503, 200)


async def _refused(trial: Trial, probed: Probed, slug: str) -> None:
    outcome = await chat(probed.http, probed.replica.url, "outage", "hello")
    said = (outcome.status, outcome.slug, "retry-after" in outcome.headers)
    trial.check(said == (503, slug, True), f"in the outage a turn got {said}")
    trial.saw("turns refused")


async def _model_down(trial: Trial, folder: Path, settings: dict[str, str]) -> None:
    """A model that is overloaded is no matter of the probes."""
    async with FakeModel() as model, _probed(folder, settings | _claude(model)) as probed:
        model.otherwise = error(529, "overloaded_error")
        ends_at = time.monotonic() + (60 if trial.full else 2)
        while time.monotonic() < ends_at:
            await _refused(trial, probed, "model-overloaded")
        model.otherwise = says("fine")
        after = await chat(probed.http, probed.replica.url, "model", "hello")
        trial.check(after.done, f"after the outage of the model a turn got {after.status}")
    probed.check(trial, "model down", 200)


async def _store_slow(trial: Trial, folder: Path, settings: dict[str, str], faults: Faults) -> None:
    """Many turns that wait for the store keep no probe waiting."""
    async with _probed(folder, settings) as probed:
        await asyncio.sleep(2)
        idle = _p99(probed.seconds)
        probed.seconds.clear()
        faults.delay_s = SLOW_S
        turns = [chat(probed.http, probed.replica.url, f"slow-{n}", "hello") for n in range(TURNS)]
        outcomes = await asyncio.gather(*turns)
        faults.delay_s = 0.0
        slow = _p99(probed.seconds)
    trial.check(all(each.done for each in outcomes), "a turn failed because its store was slow")
    trial.check(slow <= RATIO * max(idle, NOISE_S), f"/healthz took {slow:.3f} s, idle {idle:.3f} s")
    probed.check(trial, "store slow", 200)


async def _tool_blocks(trial: Trial, folder: Path, settings: dict[str, str]) -> None:
    """A tool that waits without giving way does so in a thread."""
    command = broken("no thread for tools") if trial.broken else OURS
    settings |= {"AGENT_TOOLS": "tests.chaos.agents:tools"}
    async with FakeModel() as model, _probed(folder, settings | _claude(model), command) as probed:
        model.script[:] = [says(Call("block")), says("fine")]
        await asyncio.sleep(0.5)
        outcome = await chat(probed.http, probed.replica.url, "blocked", "hello")
    trial.check(outcome.done, f"the turn of a tool that blocks got {outcome.status}")
    missed = [seconds for seconds in probed.seconds if seconds > MISSED_S]
    trial.check(not missed, f"{len(missed)} probes were missed while a tool blocked")
    probed.check(trial, "tool blocks", 200)


def _claude(model: FakeModel) -> dict[str, str]:
    return {"AGENT": "claude", "ANTHROPIC_API_KEY": "key", "ANTHROPIC_BASE_URL": model.url}


def _p99(seconds: list[float]) -> float:
    return sorted(seconds)[int(len(seconds) * 0.99)]


BAR = Bar(
    name="outage",
    promise="Whatever the service depends on fails or is slow, it stays alive, ready as configured, and says why.",
    control="the thread of a blocking tool",
    run=run,
    alone=True,
)
