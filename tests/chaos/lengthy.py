"""A session of thousands of turns beside a young one, and turns up to and beyond every limit of size."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import aiohttp

from app.agents import OpenTurn
from app.errors import ServiceError
from app.events import Turn
from app.problems import kind_of
from app.sessions.codec import pack
from app.work import MAX_CHARS, Work
from tests import servers
from tests.chaos.agents import sized
from tests.chaos.callers import ask, chat, transcript
from tests.chaos.replicas import OURS, Replica, broken
from tests.chaos.trial import Bar, Trial
from tests.faults import Call, Faults, Proxy
from tests.servers import Table

TURNS = {True: 5_000, False: 500}
WINDOW = 20
COMPARED = 20  # turns of each session
CALLS = ["newest", "claim", "commit"]
MORE_BYTES = 1.1  # of a turn in the long session: its numbers have more digits
MAX_MESSAGE_BYTES = 32_768
STORED = "stored"
SMALL = ("plain 0", "plain 900000", "floats 0", "nothing 0", "nan 0")


async def run(trial: Trial) -> None:
    command = broken("read without limit") if trial.broken else OURS
    faults = Faults()
    with TemporaryDirectory() as folder, (servers.dynoxide if "DYNOXIDE" in os.environ else servers.moto)() as server:
        async with Proxy(server.endpoint, faults) as endpoint, aiohttp.ClientSession() as http:
            table = Table(server.create_table(), endpoint, server.client)
            settings = {"AGENT": "tests.chaos.agents:sized", "SESSIONS_WINDOW": str(WINDOW), **table.settings}
            async with Replica(Path(folder), command, **settings) as replica:
                for session, turns in (("young", WINDOW), ("long", TURNS[trial.full] - COMPARED)):
                    assert (await chat(http, replica.url, session, "hello")).done
                    await asyncio.to_thread(server.repeat_newest, table.name, f"anonymous/{session}", turns)
                await _compare(trial, http, replica, faults)
                await _read_through(trial, http, replica)
                await _sizes(trial, http, replica)
    trial.demand("turns stored at the limit", 3)
    trial.demand("turns refused beyond it", 3)


async def _compare(trial: Trial, http: aiohttp.ClientSession, replica: Replica, faults: Faults) -> None:
    """A turn of the long session costs and says what one of the young session does."""
    answers, calls = {}, {}
    for session in ("young", "long"):
        before = len(faults.calls)
        turns = [await chat(http, replica.url, session, f"word {n}") for n in range(COMPARED)]
        answers[session] = [each.json["answer"] for each in turns]
        calls[session] = faults.calls[before:]
        done = [each.operation for each in calls[session]]
        trial.check(done == CALLS * COMPARED, f"{COMPARED} turns of the {session} session made {len(done)} calls")
    for n, (young, long) in enumerate(zip(answers["young"], answers["long"], strict=True)):
        trial.check(long == young, f"turn {n} of the long session answers {long[:100]}, not {young[:100]}")
    for way, young_bytes, long_bytes in zip(("up", "down"), _bytes(calls["young"]), _bytes(calls["long"]), strict=True):
        most = young_bytes * MORE_BYTES
        trial.check(long_bytes <= most, f"the long session's turn moves {long_bytes} bytes {way}, not {most:.0f}")
        trial.seen[f"bytes {way} a long session's turn"] = round(long_bytes)
    keyed = [await chat(http, replica.url, "long", "word again", Idempotency_Key="key") for _ in range(2)]
    trial.check(keyed[0].done == keyed[1].done, "a key gets two answers in the long session")


def _bytes(calls: Sequence[Call]) -> tuple[float, float]:
    """Return what a usual turn sends and gets."""
    turns = [calls[first : first + len(CALLS)] for first in range(0, len(calls), len(CALLS))]
    sent = median(sum(len(each.body) for each in turn) for turn in turns)
    return sent, median(sum(each.answer_bytes for each in turn) for turn in turns)


async def _read_through(trial: Trial, http: aiohttp.ClientSession, replica: Replica) -> None:
    """Page by page the long session is complete; erased, it is gone."""
    numbers = [turn["turn"] for turn in await transcript(http, replica.url, "long")]
    trial.check(
        numbers == list(range(1, TURNS[trial.full] + 2)), f"paging shows {len(numbers)} turns of the long session"
    )
    trial.saw("turns paged", len(numbers))
    erased = await ask(http, f"{replica.url}/sessions/long", "DELETE")
    gone = await ask(http, f"{replica.url}/sessions/long")
    trial.check(
        (erased.status, gone.status) == (204, 404), f"erased with {erased.status}, then read with {gone.status}"
    )


async def _sizes(trial: Trial, http: aiohttp.ClientSession, replica: Replica) -> None:
    """In one session, turns of every size are stored or refused in words, and the next one is a turn as any other."""
    stored = 0
    for kind in ("answer", "tool", "state"):
        fits = await _largest(kind)
        for size in (fits - 1, fits, fits + 1, fits + 1000, MAX_CHARS + 1):
            stored += await _turn(trial, http, replica, f"{kind} {size}")
            trial.saw("turns stored at the limit", size == fits)
            trial.saw("turns refused beyond it", size == fits + 1)
    for message in SMALL:
        stored += await _turn(trial, http, replica, message)
    for bytes_, status in ((-1, 200), (0, 200), (1, 413)):
        for letter in ("x", "\u00e9"):
            said = letter * ((MAX_MESSAGE_BYTES - 2) // len(letter.encode())) + "x" * (2 + bytes_)
            outcome = await chat(http, replica.url, "heavy", said)
            trial.check(outcome.status == status, f"{len(said.encode())} bytes of message get {outcome.status}")
            stored += status == 200
    numbers = [turn["turn"] for turn in await transcript(http, replica.url, "heavy")]
    trial.check(numbers == list(range(1, stored + 1)), f"{len(numbers)} turns are stored, not {stored}")


async def _turn(trial: Trial, http: aiohttp.ClientSession, replica: Replica, message: str) -> int:
    """Send the message and one after it; return how many turns must be stored now."""
    expected = await _made(message)
    outcome = await chat(http, replica.url, "heavy", message)
    got = STORED if outcome.done else outcome.slug
    trial.check(got == expected, f"{message}: {got}, not {expected}")
    after = await chat(http, replica.url, "heavy", "recall 0")
    trial.check(after.done, f"after {message} the session gets {after.status} {after.text[:200]}")
    if expected == STORED and after.done:
        seen = after.json["answer"]
        trial.check(seen == await _recalled(message), f"after {message} the agent was handed {seen[:200]}")
    return (expected == STORED) + 1


async def _made(message: str) -> str:
    """Return what must come of the message: `stored`, or the slug of the problem."""
    try:
        pack((await _work(message)).finish(1, message))
    except ServiceError as exc:
        return kind_of(exc).slug
    return STORED


async def _recalled(message: str) -> str:
    """Return what the agent says on the next turn of what it did on this one."""
    turn = (await _work(message)).finish(1, message)
    said = [event async for event in sized(_open("recall 0", [turn]))]
    return "".join(map(str, said))


async def _work(message: str) -> Work:
    work = Work()
    async for event in sized(_open(message, [])):
        work.take(event)
    return work


def _open(message: str, history: Sequence[Turn]) -> OpenTurn:
    return OpenTurn(message, history, b"", len(history) + 1, "heavy", "anonymous", 1, 0.0)


async def _largest(kind: str) -> int:
    """Return the largest size of this kind that an item of the store holds."""
    fits, not_ = 1000, MAX_CHARS
    while fits + 1 < not_:
        middle = (fits + not_) // 2
        if await _made(f"{kind} {middle}") == STORED:
            fits = middle
        else:
            not_ = middle
    return fits


BAR = Bar(
    name="lengthy",
    promise="A turn of an endless session costs what a young one's does; of any size it is stored or refused.",
    control="the limit of a read",
    run=run,
)
