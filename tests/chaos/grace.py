"""Processes that are ended when they cannot finish: turns longer than the grace, and a start that has not come far."""

import asyncio
import signal
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp

from tests.chaos.agents import runs
from tests.chaos.callers import Outcome, chat
from tests.chaos.early import stopped_early, store_away
from tests.chaos.replicas import OURS, START_S, Replica, broken
from tests.chaos.stored import judge
from tests.chaos.trial import Bar, Trial
from tests.servers import Table, sessions_table

LONG_S = 50  # below the deadline of a turn, which would end it as well
ALLOWED_S = 1.0  # above the grace


async def run(trial: Trial) -> None:
    command = broken("no release") if trial.broken else OURS
    for number, grace_s in enumerate((3, 4, 6) if trial.full else (3,)):
        with TemporaryDirectory() as folder, sessions_table() as table:
            settings = table.settings | {"SHUTDOWN_GRACE_S": str(grace_s), "MAX_CONCURRENT_TURNS": "1000"}
            settings["AGENT"] = "tests.chaos.agents:steady"
            replica = Replica(Path(folder), command, **settings)
            sessions = await _outlived(trial, replica, f"{number}", grace_s, table)
            async with Replica(Path(folder), OURS, **settings) as another:
                await _usable(trial, another, sessions)
    trial.demand("turns longer than the grace", 600 if trial.full else 40)
    if not trial.broken:
        await stopped_early(trial)
        await store_away(trial)


async def _outlived(trial: Trial, replica: Replica, name: str, grace_s: float, table: Table) -> dict[str, int]:
    """Stop a process whose turns do not end, and return its sessions, each with the number of its next turn."""
    count = 200 if trial.full else 40
    async with replica, aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        long = [chat(http, replica.url, f"{name}-long-{n}", f"hi|{LONG_S}", stream=n % 2 == 0) for n in range(count)]
        brief = [chat(http, replica.url, f"{name}-brief-{n}", f"hi|{n / 7}") for n in range(10)]  # until the grace ends
        asked = asyncio.gather(*long, *brief)
        trial.saw("turns longer than the grace", await _begun(replica, count))
        replica.signal(signal.SIGTERM)
        status = await replica.ended(grace_s + ALLOWED_S)
        trial.check(status == 0, f"{ALLOWED_S} s after its grace of {grace_s} s the process had ended with {status}")
        outcomes = await asked
    for number, outcome in enumerate(outcomes):
        if number < count or not outcome.done:
            _told(trial, outcome, stream=number < count and number % 2 == 0)
    served = {f"{name}-brief-{n}" for n, outcome in enumerate(outcomes[count:]) if outcome.done}
    trial.saw("turns that ended in the grace", len(served))
    trial.demand("turns that ended in the grace", 1)
    judge(trial, table, served)
    errors = [line for line in replica.log.read_text().splitlines() if '"level":"error"' in line.replace(" ", "")]
    trial.check(not errors, f"{len(errors)} errors are logged, first: {errors[:1]}")
    return {f"{name}-long-{n}": 1 for n in range(count)} | dict.fromkeys(served, 2)


def _told(trial: Trial, outcome: Outcome, *, stream: bool) -> None:
    """Check that a caller whose turn was stopped knows it, in the way it listens."""
    trial.check(not outcome.cut, "a connection was cut")
    trial.check(outcome.slug == "shutting-down", f"a caller was told {outcome.slug or outcome.text[-80:]!r}")
    if stream:
        trial.check(outcome.is_stream and outcome.status == 200, "an event stream did not go on to its end")
    else:
        trial.check(outcome.status == 503 and "retry-after" in outcome.headers, f"the status is {outcome.status}")


async def _usable(trial: Trial, replica: Replica, sessions: dict[str, int]) -> None:
    """Check that each session takes its next turn at once, without waiting for a lease to end."""
    async with aiohttp.ClientSession() as http:
        for session, number in sessions.items():
            outcome = await chat(http, replica.url, session, "and now?")
            turn = outcome.json["turn"] if outcome.status == 200 else outcome.slug
            trial.check(turn == number, f"the next turn of {session} is {turn}, not {number}")


async def _begun(replica: Replica, count: int) -> int:
    """Wait until every long turn has begun, and return how many of them run."""
    async with asyncio.timeout(START_S):
        while True:
            ours = [each["what"] for each in runs(replica.folder) if "-long-" in each["session"]]
            if ours.count("began") == count:
                return count - ours.count("ended")
            await asyncio.sleep(0.02)


BAR = Bar(
    name="grace",
    promise="A process ends in time whatever it does; what it cannot finish is told, given back and not stored.",
    control="giving a stopped turn's session back",
    run=run,
    needs=("DYNOXIDE",),
)
