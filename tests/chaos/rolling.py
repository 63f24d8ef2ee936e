"""A rolling restart of three replicas behind HAProxy, which asks /readyz, while callers go on with their sessions.

Before it all replicas stand still for a moment together, as on a busy machine, and must not be taken for gone.

HAProxy runs docs/haproxy.cfg as it stands, but without a second try, which would hide a failure.
"""

import asyncio
import json
import os
import signal
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp

from tests.chaos.callers import ask, chat, transcript
from tests.chaos.replicas import START_S, Replica
from tests.chaos.trial import Bar, Trial
from tests.entry_points import ROOT
from tests.machine import free_port
from tests.servers import sessions_table

CONFIGURATION = ROOT / "docs" / "haproxy.cfg"
DRAIN_DELAY_S = "2"  # as the configuration asks for
GRACE_S = 10.0
STALL_S = 2.0
CALLERS = 10
NAMES = ("one", "two", "three")  # of the replicas, in the configuration
SETTINGS = {
    "AGENT": "tests.chaos.agents:witness",
    "DRAIN_DELAY_S": DRAIN_DELAY_S,
    "SHUTDOWN_GRACE_S": str(GRACE_S),
    "SESSIONS_WINDOW": "200",  # a witness then tells the whole session
}


async def run(trial: Trial) -> None:
    with TemporaryDirectory() as folder, sessions_table() as table:
        async with AsyncExitStack() as stack:
            settings = SETTINGS | table.settings
            replicas = [Replica(Path(folder), **settings) for _ in range(3)]  # type: ignore[arg-type]
            await asyncio.gather(*[stack.enter_async_context(each) for each in replicas])
            url = await stack.enter_async_context(_haproxy(Path(folder), replicas))
            load = Load(trial, url)
            async with asyncio.TaskGroup() as tasks:
                callers = [tasks.create_task(load.talk(f"s{n}")) for n in range(CALLERS)]
                await load.going()
                await _stall(load, replicas)
                for _ in range(5 if trial.full else 1):
                    await _restart_all(load, replicas[:1] if trial.broken else replicas)
                load.ends = True
                await asyncio.gather(*callers)
            await load.judge()
    trial.demand("turns in flight at a signal", 15 if trial.full else 3)
    trial.demand("turns", 500 if trial.full else 50)
    if trial.full:
        trial.demand("turns sent to a replica that leaves", 5)


@dataclass(slots=True)
class Load:
    """Callers that go on with their sessions, each message once, until the load `ends`.

    served:  by which replicas each session was served
    said:    the messages of each session that were acknowledged
    failed:  the sessions that go on no more, because what became of their last message nobody knows
    leaving: the name of the replica that has been told to end, and has not ended
    """

    trial: Trial
    url: str
    leaving: str = ""
    ends: bool = False
    served: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    said: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    failed: set[str] = field(default_factory=set)

    async def talk(self, session: str) -> None:
        """Send one message after another, every other one for a stream."""
        async with aiohttp.ClientSession() as http:
            while not self.ends:
                number = len(self.said[session])
                message = f"{session}-{number}|{self.trial.random.uniform(0.2, 1):.2f}"
                leaving = self.leaving
                outcome = await chat(http, self.url, session, message, stream=number % 2 == 0)
                got = "a cut answer" if outcome.cut else f"{outcome.status} {outcome.text[-80:]!r}"
                self.trial.check(outcome.done and not outcome.cut, f"{session} got {got}")
                if not outcome.done:
                    self.failed.add(session)
                    return
                self.said[session].append(message)
                replica = outcome.headers["x-served-by"]
                self.served[session].add(replica)
                self.trial.saw("turns sent to a replica that leaves", replica == leaving)
                self.trial.saw("turns")

    async def going(self) -> None:
        """Wait until everybody talks, or has failed."""
        async with asyncio.timeout(START_S):
            while len(self.failed.union(session for session, said in self.said.items() if said)) < CALLERS:
                await asyncio.sleep(0.02)

    async def judge(self) -> None:
        """Check that every session is whole and was told by more than one replica."""
        async with aiohttp.ClientSession() as http:
            for session, said in self.said.items():
                stored = await transcript(http, self.url, session)
                self.trial.check([turn["message"] for turn in stored] == said, f"{session} lost or repeated a message")
                for number, turn in enumerate(stored):
                    self.trial.check(turn["turn"] == number + 1, f"{session} has a hole before turn {turn['turn']}")
                    known = json.loads(turn["answer"]) == said[:number]
                    self.trial.check(known, f"turn {number + 1} of {session} did not see its predecessors")
                self.trial.check(len(self.served[session]) > 1, f"{session} was served by one replica only")


async def _stall(load: Load, replicas: list[Replica]) -> None:
    """Let all replicas stand still for a moment; who comes meanwhile must wait."""
    for replica in replicas:
        replica.signal(signal.SIGSTOP)
    await asyncio.sleep(STALL_S)
    async with aiohttp.ClientSession() as http, asyncio.TaskGroup() as tasks:
        late = tasks.create_task(ask(http, f"{load.url}/readyz"))
        await asyncio.sleep(0.2)
        for replica in replicas:
            replica.signal(signal.SIGCONT)
    load.trial.check(late.result().status == 200, f"who came to slow replicas got {late.result().status}")


async def _restart_all(load: Load, replicas: list[Replica]) -> None:
    """Restart one replica after the other, as a platform does: the next one when the last one is ready again."""
    for name, replica in zip(NAMES, replicas, strict=False):
        load.trial.saw("turns in flight at a signal", await _running(replica))
        replica.signal(signal.SIGKILL if load.trial.broken else signal.SIGTERM)
        load.leaving = name
        status = await replica.ended(GRACE_S)
        load.leaving = ""
        load.trial.check(status == 0 or load.trial.broken, f"a replica ended with {status}")
        await replica.start()
        await replica.until_ready()
        load.trial.saw("restarts")


async def _running(replica: Replica) -> int:
    """Wait until a turn runs there, and return how many do."""
    async with asyncio.timeout(START_S), aiohttp.ClientSession() as http:
        while not (running := (await ask(http, f"{replica.url}/readyz")).json.get("running_turns")):
            await asyncio.sleep(0.02)
        return int(running)


@asynccontextmanager
async def _haproxy(folder: Path, replicas: list[Replica]) -> AsyncIterator[str]:
    """Run HAProxy with the published configuration before the replicas, and yield its address."""
    at = f"127.0.0.1:{free_port()}"
    servers = {f"REPLICA_{n}": f"127.0.0.1:{each.port}" for n, each in enumerate(replicas, 1)}
    with (folder / "haproxy.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            os.environ["HAPROXY"],
            "-db",
            "-f",
            str(CONFIGURATION),
            env={"BIND": at, "RETRIES": "0", **servers},
            stdout=log,
            stderr=log,
        )
    try:
        async with asyncio.timeout(START_S), aiohttp.ClientSession() as http:
            while (await ask(http, f"http://{at}/readyz")).status != 200:
                assert process.returncode is None, (folder / "haproxy.log").read_text()
                await asyncio.sleep(0.05)
        yield f"http://{at}"
    finally:
        process.kill()
        await process.wait()


BAR = Bar(
    name="rolling",
    promise="A rolling restart behind a balancer that asks /readyz fails no request and cuts no stream or session.",
    control="the signal before the end (SIGKILL)",
    run=run,
    needs=("HAPROXY", "DYNOXIDE"),
)
