"""SIGKILLs at random moments, while callers on few sessions repeat what was not acknowledged."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import aiohttp

from tests.chaos.callers import Caller, Outcome, transcript
from tests.chaos.history import check_history, lease_of
from tests.chaos.replicas import OURS, Replica, broken
from tests.chaos.trial import Bar, Trial
from tests.servers import Table, sessions_table

CALLERS, SESSIONS = 10, 5
TURNS_SHORT, TURNS_FULL = 80, 500
TURNS_A_KILL = 6.0  # acknowledged until the next kill, in the mean; while a replica starts again, as many more
IMPATIENT = 0.1  # of the attempts; who hangs up finds its turn stored when it comes again
TURN_S = 0.2
# A killed run holds its session until its deadline and five seconds more.
SETTINGS = {"AGENT": "tests.chaos.agents:witness", "SESSIONS_WINDOW": "200", "AGENT_TIMEOUT_S": "1"}


class Impatient(Caller):
    """A caller that asks any of the replicas, and now and then hangs up in the middle of a turn."""

    def __init__(self, http: aiohttp.ClientSession, urls: Sequence[str], random: Random) -> None:
        super().__init__(http, lambda: random.choice(urls))
        self._random = random

    async def _send(self, session: str, message: str, *, stream: bool, **headers: str) -> Outcome:
        patience_s = self._random.uniform(0, TURN_S) if self._random.random() < IMPATIENT else None
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                return await super()._send(session, message, stream=stream, **headers)
        return Outcome(cut=True)


@dataclass(slots=True)
class Talk:
    """All the callers, how many turns they have seen acknowledged, and after how many they wait for the next kill."""

    callers: Sequence[Impatient]
    random: Random
    acknowledged: int = 0
    allowed: float = TURNS_A_KILL
    progress: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def hold(self, turns: int) -> None:
        """Let each caller take its share of the turns; two of them share a session."""
        async with asyncio.TaskGroup() as group:
            for n, caller in enumerate(self.callers):
                messages = [f"{n}-{k}|{self.random.uniform(0, TURN_S):.3f}" for k in range(turns // CALLERS)]
                group.create_task(self._take_turns(caller, f"s{n % SESSIONS}", messages))

    async def _take_turns(self, caller: Impatient, session: str, messages: Sequence[str]) -> None:
        for message in messages:
            async with self.progress:
                await self.progress.wait_for(lambda: self.acknowledged < self.allowed)
            await caller.say(session, message, stream=self.random.random() < 0.5)
            async with self.progress:
                self.acknowledged += 1
                self.progress.notify_all()

    async def after(self, turns: float) -> None:
        """Return when so many turns have been acknowledged; let the callers go no further than to the next kill."""
        async with self.progress:
            self.allowed = turns + TURNS_A_KILL
            self.progress.notify_all()
            await self.progress.wait_for(lambda: self.acknowledged >= turns)


async def run(trial: Trial) -> None:
    command = broken("no replay") if trial.broken else OURS
    turns = TURNS_FULL if trial.full else TURNS_SHORT
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        table = stack.enter_context(sessions_table())
        replicas = [
            await stack.enter_async_context(Replica(folder, command, **SETTINGS, **table.settings)) for _ in range(2)
        ]
        http = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        urls = [each.url for each in replicas]
        talk = Talk([Impatient(http, urls, Random(trial.random.random())) for _ in range(CALLERS)], trial.random)  # noqa: S311 nothing here is secret
        killing = asyncio.create_task(_kill(trial, talk, replicas))
        await talk.hold(turns)
        killing.cancel()
        await asyncio.wait([killing])
        for each in replicas:
            await each.until_ready()
        await _check(trial, table, talk, http, urls[0])
    _demand(trial, talk, turns)


async def _kill(trial: Trial, talk: Talk, replicas: Sequence[Replica]) -> None:
    """Kill one of the replicas at a random moment, start it again on its port, and when it is ready go on."""
    at = 0.0
    while True:
        at = max(at, talk.acknowledged) + trial.random.uniform(0.5, 1.5) * TURNS_A_KILL
        await talk.after(at)
        await asyncio.sleep(trial.random.uniform(0, TURN_S))
        await asyncio.shield(_restart(trial.random.choice(replicas)))
        trial.saw("kills")


async def _restart(replica: Replica) -> None:
    replica.kill()
    await replica.process.wait()
    await replica.start()
    await replica.until_ready()


async def _check(trial: Trial, table: Table, talk: Talk, http: aiohttp.ClientSession, url: str) -> None:
    """Compare every session with what its callers were told."""
    said = [each for caller in talk.callers for each in caller.said]
    for session in [f"s{n}" for n in range(SESSIONS)]:
        own = [each for each in said if each.session == session]
        check_history(trial, session, await transcript(http, url, session), own)
        trial.check(lease_of(table, session) is None, f"{session}: a turn is left open")


def _demand(trial: Trial, talk: Talk, turns: int) -> None:
    trial.saw("acknowledged", talk.acknowledged)
    for caller in talk.callers:
        for what, times in caller.met.items():
            trial.saw({"replayed": "replays", "refused": "refused or hung up"}.get(what, what), times)
    trial.demand("kills", turns // 20)
    trial.demand("cut", turns // 100)
    trial.demand("replays", turns // 50)


BAR = Bar(
    name="kill",
    promise="Servers die at any moment: no acknowledged turn is lost, none is stored twice, none out of order.",
    control="the replay of a stored turn",
    run=run,
)
