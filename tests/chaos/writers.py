"""Many writers on one session, and one key many times at once, spread over two replicas."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from tests.chaos.agents import runs
from tests.chaos.callers import Caller, Outcome, Said, chat, transcript
from tests.chaos.history import check_history
from tests.chaos.replicas import OURS, broken, pair
from tests.chaos.trial import Bar, Trial

WRITERS = 50
ROUNDS_SHORT, ROUNDS_FULL = 2, 20
ATTEMPTS = 5  # times the turns, at most: who is told busy waits, and does not hammer
AGENT = {"AGENT": "tests.chaos.agents:witness", "SESSIONS_WINDOW": "200"}


class Writer(Caller):
    """A caller at one replica that looks at every refusal: it must be one of a busy session, and say when to retry."""

    def __init__(self, http: aiohttp.ClientSession, url: str, trial: Trial) -> None:
        super().__init__(http, lambda: url)
        self._trial = trial
        self.answered_at: list[float] = []

    async def _send(self, session: str, message: str, *, stream: bool, **headers: str) -> Outcome:
        outcome = await super()._send(session, message, stream=stream, **headers)
        self.answered_at.append(asyncio.get_running_loop().time())
        if not outcome.acknowledgement:
            busy = outcome.status == 409 and outcome.slug in ("session-busy", "turn-in-progress")
            self._trial.check(busy, f"a writer was told {outcome.status} {outcome.slug}")
            self._trial.check("retry-after" in outcome.headers, f"{outcome.slug} does not say when to retry")
        return outcome


@dataclass(frozen=True, slots=True)
class Place:
    """Where the writers meet."""

    trial: Trial
    http: aiohttp.ClientSession
    urls: tuple[str, str]
    folder: Path

    def writers(self) -> list[Writer]:
        return [Writer(self.http, self.urls[n % 2], self.trial) for n in range(WRITERS)]

    def began(self, session: str) -> int:
        """Return how often an agent began a turn of the session."""
        return sum(each["session"] == session and each["what"] == "began" for each in runs(self.folder))


async def run(trial: Trial) -> None:
    command = broken("claim unconditional") if trial.broken else OURS
    rounds = ROUNDS_FULL if trial.full else ROUNDS_SHORT
    async with (
        pair(command, AGENT) as (one, other),
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http,
    ):
        place = Place(trial, http, (one.url, other.url), one.folder)
        for round_ in range(rounds):
            await _many_writers(place, f"many-{round_}")
            await _one_key(place, f"one-{round_}")
    trial.demand("of many writers told busy", rounds * WRITERS // 2)
    trial.demand("of one key told busy", rounds * WRITERS // 2)
    trial.demand("replays", rounds * (WRITERS - 1))


async def _many_writers(place: Place, session: str) -> None:
    """Every writer is kept once, and was told exactly what had been said before."""
    trial, writers = place.trial, place.writers()
    said = [f"{session}-{n}|0.005" for n in range(WRITERS)]
    await asyncio.gather(
        *[
            each.say(session, message, stream=n % 4 > 1, wait_s=60, at_once=True)
            for n, (each, message) in enumerate(zip(writers, said, strict=True))
        ]
    )
    _count_overlap(trial, writers, "of many writers")
    check_history(trial, session, await transcript(place.http, place.urls[0], session), _said_by(writers))
    attempts = sum(each.attempts for each in writers)
    trial.check(attempts <= ATTEMPTS * WRITERS, f"{session}: {WRITERS} turns took {attempts} attempts")


async def _one_key(place: Place, session: str) -> None:
    """Its agent runs once, and everybody gets the one answer."""
    trial, writers = place.trial, place.writers()
    message = f"{session}|0.3"
    await asyncio.gather(
        *[each.say(session, message, stream=n % 4 > 1, wait_s=60, at_once=True) for n, each in enumerate(writers)]
    )
    _count_overlap(trial, writers, "of one key")
    said = _said_by(writers)
    replays = [each for each in said if each.replayed]
    trial.saw("replays", len(replays))
    trial.check(place.began(session) == 1, f"one key ran its agent {place.began(session)} times")
    trial.check(len(replays) == len(said) - 1, f"{len(said) - len(replays)} answers of one key are no replays")
    trial.check({each.raw for each in said} == {said[0].raw}, "one key got different answers")
    await _same_key_elsewhere(place, session, message)


async def _same_key_elsewhere(place: Place, session: str, key: str) -> None:
    """The key of a stored turn makes no other message's turn in its session, and is a new one in another."""
    trial, other = place.trial, f"{session}-other"
    reused = await chat(place.http, place.urls[1], session, f"other {key}", Idempotency_Key=key)
    trial.check((reused.status, reused.slug) == (422, "idempotency-key-reused"), f"reused, a key got {reused.status}")
    trial.check(key not in reused.text, "a reused key shows what it was used for")
    alone = await chat(place.http, place.urls[1], other, key, Idempotency_Key=key)
    trial.check("idempotency-replayed" not in alone.headers, "a key of another session is replayed")
    trial.check((alone.done or {}).get("answer") == "[]", "a key of another session does not begin a new one")
    for each in (session, other):
        stored = [turn["message"] for turn in await transcript(place.http, place.urls[0], each)]
        trial.check(stored == [key], f"{each} holds {len(stored)} turns")


def _count_overlap(trial: Trial, writers: Sequence[Writer], whose: str) -> None:
    """Count who met another one's turn, which an attempt that does not wait is told; all were sent before an answer."""
    trial.saw(f"{whose} told busy", sum(each.met["session-busy"] + each.met["turn-in-progress"] for each in writers))
    first_answer = min(each.answered_at[0] for each in writers)
    if not trial.broken:
        last_sent = max(each.said[0].sent for each in writers)
        trial.check(last_sent < first_answer, f"vacuous: {whose} some were answered before all were sent")


def _said_by(writers: Sequence[Writer]) -> list[Said]:
    return [said for each in writers for said in each.said]


BAR = Bar(
    name="writers",
    promise="Of many messages to one session at once, each is stored once and sees those before it; one key runs once.",
    control="the condition of a claim",
    run=run,
)
