"""Many writers on one session, and one key many times at once, spread over two replicas."""

import asyncio
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp

from tests.chaos.agents import runs
from tests.chaos.callers import Caller, transcript
from tests.chaos.replicas import OURS, Replica, broken
from tests.chaos.trial import Bar, Trial
from tests.servers import sessions_table

WRITERS = 50
AGENT = {"AGENT": "tests.chaos.agents:witness", "SESSIONS_WINDOW": "200"}


async def run(trial: Trial) -> None:
    command = broken("claim unconditional") if trial.broken else OURS
    with TemporaryDirectory() as folder, sessions_table() as table:
        settings = AGENT | table.settings
        async with (
            Replica(Path(folder), command, **settings) as one,
            Replica(Path(folder), command, **settings) as other,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http,
        ):
            urls = (one.url, other.url)
            for round_ in range(20 if trial.full else 2):
                await _many_writers(trial, http, urls, f"many-{round_}")
                await _one_key(trial, http, urls, f"one-{round_}", Path(folder))


async def _many_writers(trial: Trial, http: aiohttp.ClientSession, urls: tuple[str, str], session: str) -> None:
    """Every writer is kept once, and was told exactly what had been said before."""
    callers = [Caller(http, lambda url=urls[n % 2]: url) for n in range(WRITERS)]  # type: ignore[misc]
    said = [f"{session}-{n}|0.005" for n in range(WRITERS)]
    await asyncio.gather(*[each.say(session, message) for each, message in zip(callers, said, strict=True)])
    trial.saw("collisions", sum(each.met["session-busy"] + each.met["overloaded"] for each in callers))
    stored = await transcript(http, urls[0], session)
    messages = [turn["message"] for turn in stored]
    trial.check(sorted(messages) == sorted(said), f"{len(messages)} turns of {WRITERS} writers are stored")
    for n, turn in enumerate(stored):
        trial.check(turn["turn"] == n + 1, f"turn {n + 1} has the number {turn['turn']}")
        trial.check(json.loads(turn["answer"]) == messages[:n], f"turn {n + 1} did not see its predecessors")


async def _one_key(
    trial: Trial, http: aiohttp.ClientSession, urls: tuple[str, str], session: str, folder: Path
) -> None:
    """Its agent runs once, and everybody gets the one answer."""
    callers = [Caller(http, lambda url=urls[n % 2]: url) for n in range(WRITERS)]  # type: ignore[misc]
    answers = await asyncio.gather(*[each.say(session, f"{session}|0.3") for each in callers])
    began = [each for each in runs(folder) if each["session"] == session and each["what"] == "began"]
    trial.check(len(began) == 1, f"one key ran its agent {len(began)} times")
    trial.check(all(answer == answers[0] for answer in answers), "one key got different answers")
    trial.saw("replays", sum(each.met["replayed"] for each in callers))


BAR = Bar(
    name="writers",
    promise="Of many messages to one session at once, each is stored once and sees those before it; one key runs once.",
    control="the condition of a claim",
    run=run,
)
