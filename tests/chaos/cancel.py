"""Turns cancelled at a replica that does not run them: they stop, their callers are told, their sessions go on."""

import asyncio
import signal
import time
from pathlib import Path

import aiohttp

from tests.chaos.agents import runs
from tests.chaos.callers import Outcome, ask, chat, transcript
from tests.chaos.replicas import OURS, Replica, broken, pair
from tests.chaos.trial import Bar, Trial

KINDS = ("silent", "spoken")
NOTICED_S = 2.0
BUSY_S = 1.0  # on top, for a machine that does other things
AGENT = {"AGENT": "tests.chaos.agents:endless", "AGENT_TIMEOUT_S": "8"}


async def run(trial: Trial) -> None:
    """Cancel many turns, spoken and silent, JSON and SSE; then those of a replica that was killed."""
    command = broken("no look") if trial.broken else OURS
    async with (
        pair(command, AGENT) as (one, other),
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http,
    ):
        for round_ in range(10 if trial.full else 1):
            names = [f"{round_}-{n}" for n in range(20 if trial.full else 3 if trial.broken else 8)]
            await asyncio.gather(
                *[_cancelled(trial, http, one, other, f"{kind}-{name}") for name in names for kind in KINDS],
                *[_ending(trial, http, one, other, f"ending-{name}") for name in names],
            )
        if not trial.broken:
            await _killed(trial, http, one, other)


async def _cancelled(trial: Trial, http: aiohttp.ClientSession, one: Replica, other: Replica, session: str) -> None:
    turn = asyncio.create_task(chat(http, one.url, session, session, stream=trial.random.random() < 0.5))
    await _noted(one.folder, session, "began")
    await asyncio.sleep(trial.random.uniform(0.2, 2))  # where the holder stands between two looks
    asked = time.time()
    settled = await ask(http, f"{other.url}/sessions/{session}/cancel", "POST")
    told = await turn
    ended = [each["at"] for each in runs(one.folder) if (each["session"], each["what"]) == (session, "ended")]
    late = not ended or float(ended[0]) - asked > NOTICED_S + BUSY_S
    trial.check(not late, f"{session}: its holder noticed after more than {NOTICED_S} s")
    trial.check(settled.status == 200, f"{session}: cancelling answered {settled.status}")
    _check_told(trial, session, told)
    stored = await _stored(http, other, session)
    reasons = [turn["stop_reason"] for turn in stored]
    trial.check(reasons == (["cancelled"] if session.startswith("spoken") else []), f"{session}: stored {reasons}")
    trial.check(settled.json["stop_reason"] == (reasons or [None])[0], f"{session}: cancelling told something else")
    trial.saw(f"{session.partition('-')[0]} turns cancelled")


async def _ending(trial: Trial, http: aiohttp.ClientSession, one: Replica, other: Replica, session: str) -> None:
    """A turn that ends by itself at about the time of the cancel: whichever is first, all three accounts agree."""
    turn = asyncio.create_task(chat(http, one.url, session, f"{session}|2"))
    await _noted(one.folder, session, "began")
    await asyncio.sleep(trial.random.uniform(0, 2.2))
    settled = await ask(http, f"{other.url}/sessions/{session}/cancel", "POST")
    told = (await turn).done or {}
    stored = await _stored(http, other, session)
    trial.check([told.get("stop_reason")] == [turn["stop_reason"] for turn in stored], f"{session}: told is not stored")
    trial.check([told.get("answer")] == [turn["answer"] for turn in stored], f"{session}: told another answer")
    late = settled.json["turn"] is None and told.get("stop_reason") == "end_turn"  # it had ended before
    trial.check(late or settled.json["stop_reason"] == told.get("stop_reason"), f"{session}: two ends")
    trial.saw(f"turns that ended by {told.get('stop_reason')}")


def _check_told(trial: Trial, session: str, told: Outcome) -> None:
    """A turn that said something is an answer; of one that said nothing, its caller learns why."""
    if session.startswith("spoken"):
        trial.check((told.done or {}).get("stop_reason") == "cancelled", f"{session}: its caller got {told.status}")
    else:
        trial.check(told.slug == "cancelled", f"{session}: its caller got {told.status} {told.slug}")


async def _killed(trial: Trial, http: aiohttp.ClientSession, one: Replica, other: Replica) -> None:
    """A turn of a dead process holds its session until its lease ends, or until somebody cancels it."""
    turn = asyncio.create_task(chat(http, one.url, "killed", "killed"))
    await _noted(one.folder, "killed", "began")
    one.signal(signal.SIGKILL)
    await turn
    busy = await chat(http, other.url, "killed", "next")
    trial.check(busy.slug == "session-busy", f"killed: not busy but {busy.status}")
    settled = await ask(http, f"{other.url}/sessions/killed/cancel", "POST")
    trial.check(settled.status == 200, f"killed: cancelling answered {settled.status}")
    again = asyncio.create_task(chat(http, other.url, "killed", "again"))
    await _noted(one.folder, "killed", "began", times=2)
    await ask(http, f"{other.url}/sessions/killed/cancel", "POST")
    trial.check(((await again).done or {}).get("turn") == 1, "killed: its session could not be used")


async def _stored(http: aiohttp.ClientSession, replica: Replica, session: str) -> list[dict[str, object]]:
    absent = (await ask(http, f"{replica.url}/sessions/{session}")).status == 404
    return [] if absent else await transcript(http, replica.url, session)


async def _noted(folder: Path, session: str, what: str, times: int = 1) -> None:
    async with asyncio.timeout(30):
        while sum((each["session"], each["what"]) == (session, what) for each in runs(folder)) < times:
            await asyncio.sleep(0.05)


BAR = Bar(
    name="cancel",
    promise="A turn is stopped from any replica, its caller told, what it said kept, and its session free.",
    control="the look at the store",
    run=run,
)
