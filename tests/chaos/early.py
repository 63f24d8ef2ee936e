"""Processes whose start has not come far: a signal ends them, and an absent store does not."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp

from app.lifecycle import SAME_SIGNAL_S
from tests.chaos.callers import ask, chat
from tests.chaos.doors import Door
from tests.chaos.replicas import OURS, START_S, Replica
from tests.chaos.trial import Trial
from tests.entry_points import ROOT
from tests.servers import CREDENTIALS, REGION, sessions_table

AT_ONCE = 3  # processes that start at a time
SOON_S = 3.0  # a process with nothing to finish ends in a second; a grace is 8 s
START_UP_S = 0.6  # within which a process comes to serve, or nearly
READY_S = 2.0  # promised, from the store's return
NOISE_S = 1.0  # of a busy machine, above what is promised
AWAY_S = 1.5
NAMESPACE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
PATH = f"{Path(sys.executable).parent}:{os.defpath}"  # where the image's entry point finds its Python

Stop = Callable[[Trial, Replica, float], Awaitable[set[int]]]


async def stopped_early(trial: Trial) -> None:
    """Stop processes in every way and at random moments of their start."""
    ways: dict[str, Stop] = {
        "while the store stalls": _while_warming,
        "before it listens": partial(_soon, signal.SIGTERM),
        "by SIGINT": partial(_soon, signal.SIGINT),
        "twice": _twice,
    }
    commands: dict[str, tuple[str, ...]] = dict.fromkeys(ways, OURS)
    if namespace := _namespace():
        ways["as process 1"] = _as_process_1
        commands["as process 1"] = (*namespace, "sh", str(ROOT / "docker" / "entrypoint.sh"))
    else:
        print("as process 1: not run, this machine gives no pid namespace", file=sys.stderr)
    turn = asyncio.Semaphore(AT_ONCE)
    with TemporaryDirectory() as folder:
        async with Door() as door, asyncio.TaskGroup() as tasks:
            await door.stall()
            for way, stop in ways.items():
                for number in range(20 if trial.full else 2):
                    own = Path(folder) / f"{way}-{number}"
                    own.mkdir()
                    settings = _settings(door.url) if way == "while the store stalls" else {}
                    replica = Replica(own, commands[way], PATH=PATH, AGENT="tests.chaos.agents:steady", **settings)
                    tasks.create_task(_ended(trial, replica, way, stop, turn))


def _settings(endpoint: str) -> dict[str, str]:
    key = CREDENTIALS.key
    assert key
    keys = {"AWS_ACCESS_KEY_ID": key.id, "AWS_SECRET_ACCESS_KEY": key.secret, "AWS_REGION": REGION}
    return keys | {"SESSIONS_TABLE": "sessions", "AWS_ENDPOINT_URL_DYNAMODB": endpoint}


async def _ended(trial: Trial, replica: Replica, way: str, stop: Stop, turn: asyncio.Semaphore) -> None:
    """Start a process, stop it in its way, and check that it ends soon and with a status of that way."""
    moment_s = trial.random.uniform(0, START_UP_S)
    async with turn:
        await replica.start()
        statuses = await stop(trial, replica, moment_s)
        signalled = time.monotonic()
        status = await replica.ended(SOON_S)
        if "KeyboardInterrupt" in replica.log.read_text():  # Python's own handler, before there is one of ours
            statuses = statuses | {1}
        trial.check(status in statuses, f"{way}, after {moment_s:.3f} s: ended with {status} in {SOON_S} s")
        trial.saw("ends within a second", status is not None and time.monotonic() - signalled < 1)
    trial.saw(f"stops {way}")


async def _while_warming(_: Trial, replica: Replica, moment_s: float) -> set[int]:
    await _listening(replica)
    await asyncio.sleep(moment_s)
    replica.signal(signal.SIGTERM)
    return {0}


async def _soon(number: signal.Signals, _: Trial, replica: Replica, moment_s: float) -> set[int]:
    """Signal a process that may not even have its handlers yet: it is then ended by the signal itself."""
    await asyncio.sleep(moment_s)
    replica.signal(number)
    return {0, -number}


async def _twice(trial: Trial, replica: Replica, _: float) -> set[int]:
    """Signal a process with a turn that would take all of the grace; the second signal is a hurry."""
    await replica.until_ready()
    async with aiohttp.ClientSession() as http:
        asked = asyncio.create_task(chat(http, replica.url, "s", "hi|50", stream=True))
        while (await ask(http, f"{replica.url}/readyz")).json.get("running_turns") != 1:
            await asyncio.sleep(0.02)
        replica.signal(signal.SIGTERM)
        await asyncio.sleep(SAME_SIGNAL_S + 0.1)  # sooner it counts as the same one
        replica.signal(signal.SIGTERM)
        trial.check((await asked).slug == "shutting-down", "the caller of a hurried process was not told")
    return {0}


async def _as_process_1(_: Trial, replica: Replica, moment_s: float) -> set[int]:
    """Signal process 1 of a namespace, to which the kernel passes on only what it handles."""
    children = Path(f"/proc/{replica.process.pid}/task/{replica.process.pid}/children")
    async with asyncio.timeout(START_S):
        while not (child := children.read_text().strip()) or not _name(child).startswith("python"):
            await asyncio.sleep(0.001)  # for the shell and env, which need a moment to hold the signal back
    await asyncio.sleep(moment_s / 6)  # that is when Python handles nothing yet, or hardly
    with suppress(ProcessLookupError):
        os.kill(int(child), signal.SIGTERM)
    return {0}


def _name(pid: str) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def _namespace() -> tuple[str, ...] | None:
    """Return how to run a command as process 1 here, if that is allowed."""
    if shutil.which("unshare"):
        for more in ((), ("--user", "--map-root-user")):
            tried = subprocess.run([*NAMESPACE, *more, "true"], capture_output=True, check=False)
            if tried.returncode == 0:
                return (*NAMESPACE, *more)
    return None


async def _listening(replica: Replica) -> None:
    """Wait until the process answers, ready or not."""
    async with asyncio.timeout(START_S), aiohttp.ClientSession() as http:
        while (await ask(http, f"{replica.url}/healthz")).status != 200:
            await asyncio.sleep(0.02)


async def store_away(trial: Trial) -> None:
    """Start processes whose store is away, refusing or silent, and let it come back."""
    for number in range(10 if trial.full else 2):
        with TemporaryDirectory() as folder, sessions_table() as table:
            async with Door(table.endpoint) as door, aiohttp.ClientSession() as http:
                if number % 2:
                    await door.stall()
                replica = Replica(Path(folder), OURS, **(table.settings | {"AWS_ENDPOINT_URL_DYNAMODB": door.url}))
                await replica.start()
                await _listening(replica)
                await _refuses(trial, http, replica)
                await door.let_in()
                back = time.monotonic()
                await replica.until_ready()
                took_s = time.monotonic() - back
                trial.check(took_s <= READY_S + NOISE_S, f"ready {took_s:.1f} s after the store's return")
                trial.saw("ready within two seconds", took_s <= READY_S)
                trial.check((await chat(http, replica.url, "s", "hello")).done, "a ready process takes no turn")
                trial.check(replica.process.returncode is None, "the process ended")
                await replica.__aexit__()
    trial.demand("probes while the store was away", 10)


async def _refuses(trial: Trial, http: aiohttp.ClientSession, replica: Replica) -> None:
    """Check for AWAY_S that the process lives, and says that it is not ready."""
    until = time.monotonic() + AWAY_S
    while time.monotonic() < until:
        trial.check((await ask(http, f"{replica.url}/healthz")).status == 200, "/healthz is not 200")
        for refused in (await ask(http, f"{replica.url}/readyz"), await chat(http, replica.url, "s", "hello")):
            got = (refused.status, refused.slug, "retry-after" in refused.headers)
            trial.check(got == (503, "warming-up", True), f"a process without a store said {got}")
        trial.saw("probes while the store was away")
        await asyncio.sleep(0.05)
