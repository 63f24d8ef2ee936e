"""Any order of calls, by the port and through Claims, checked step by step against a plain dict."""

import asyncio
import zlib
from collections import Counter, defaultdict
from collections.abc import Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    multiple,
    rule,
    run_state_machine_as_test,
)

from app.errors import IdempotencyKeyReused, LeaseLost, ServiceError, SessionBusy, TurnInProgress
from app.events import Turn
from app.sessions import SessionKey, SessionStart, SessionStore, TurnItem
from app.sessions.claims import Claim, Claims
from app.sessions.codec import pack, unpack
from tests.conformance.stores.rig import KEEP_S, LEASE_S, Clock, Rig, answered, outcome

T = TypeVar("T")

WINDOW = 3  # so short that turns leave it
STEPS = 50  # of one run of the machine
EVERYTHING = 200  # turns, more than a run makes
SESSIONS = ("one", "two")
REQUESTS = ("a", "b")
MESSAGES = ("hello", "goodbye")
PASSING_S = (1.0, LEASE_S + 1, KEEP_S + 1)  # nothing ends, leases end, turns expire


class Model:
    """The port as a dict."""

    def __init__(self) -> None:
        self._sessions: dict[SessionKey, dict[int, TurnItem]] = defaultdict(dict)

    def newest(self, key: SessionKey, limit: int, before: int | None = None) -> list[TurnItem]:
        turns = self._sessions[key]
        return [turns[each] for each in sorted(turns, reverse=True) if before is None or each < before][:limit]

    def claim(self, key: SessionKey, item: TurnItem, dead_run: str | None = None) -> bool:
        held = self._sessions[key].get(item.turn)
        wins = held is None if dead_run is None else held is not None and held.body is None and held.run == dead_run
        if wins:
            self._sessions[key][item.turn] = item
        return wins

    def commit(self, key: SessionKey, item: TurnItem) -> bool:
        held = self._sessions[key].get(item.turn)
        if held is None or held.run != item.run:
            return False
        self._sessions[key][item.turn] = item
        return True

    def release(self, key: SessionKey, turn: int, run: str) -> bool:
        held = self._sessions[key].get(turn)
        if held is None or held.run != run or held.body is not None:
            return False
        del self._sessions[key][turn]
        return True

    def delete(self, key: SessionKey) -> None:
        self._sessions[key].clear()

    def list_sessions(self, keys: Sequence[SessionKey]) -> list[SessionStart]:
        firsts = [(key, self._sessions[key].get(1)) for key in keys]
        return [
            SessionStart(key.session_id, first.created, first.expires)
            for key, first in firsts
            if first is not None and first.created is not None
        ]


@dataclass(frozen=True, slots=True)
class Attempt:
    """A run that tried to hold a turn: what it wrote then, and what it writes when it has its answer."""

    key: SessionKey
    item: TurnItem
    dead_run: str | None
    done: TurnItem


class StoreMachine(RuleBasedStateMachine):
    """One run of the machine, on sessions of its own.

    met: what happened in all runs; it shows that they were not empty
    """

    attempts: Bundle[Attempt] = Bundle("attempts")
    claimed: Bundle[Claim] = Bundle("claimed")
    rig: ClassVar[Rig]
    other: ClassVar[SessionStore]  # of another replica, which reads what the first one wrote
    runner: ClassVar[asyncio.Runner]
    met: ClassVar[Counter[str]]

    def __init__(self) -> None:
        super().__init__()
        self.met["runs"] += 1
        self._model = Model()
        self._clock = Clock()
        self._claims: Claims = self.rig.claims(window=WINDOW, clock=self._clock)
        self._runs = 0

    @rule(target=attempts, session=st.sampled_from(SESSIONS), req=st.sampled_from(REQUESTS), above=st.integers(0, 2))
    def claim(self, session: str, req: str, above: int) -> Attempt:
        key = self._key(session)
        return self._attempt(key, max(self._newest(key) + above, 1), req, None)

    @rule(target=attempts, session=st.sampled_from(SESSIONS), turns=st.integers(1, WINDOW))
    def grow(self, session: str, turns: int) -> "MultipleResults[Attempt]":
        """Take whole turns, or sessions would hardly pass the window."""
        key, grown = self._key(session), []
        for _ in range(turns):
            grown.append(self._attempt(key, self._newest(key) + 1, "abcde"[self._runs % 5], None))
            self.commit(grown[-1])
        return multiple(*grown)

    @rule(target=attempts, victim=attempts, req=st.sampled_from(REQUESTS))
    def take_over(self, victim: Attempt, req: str) -> Attempt:
        return self._attempt(victim.key, victim.item.turn, req, victim.item.run)

    @rule(attempt=attempts)
    def claim_again(self, attempt: Attempt) -> None:
        self._claim(attempt, "late claims")

    @rule(attempt=attempts)
    def commit(self, attempt: Attempt) -> None:
        expected = self._model.commit(attempt.key, attempt.done)
        self.met["commits" if expected else "zombies refused"] += 1
        assert self._run(self.rig.store.commit(attempt.key, attempt.done)) is expected
        self._compare(attempt.key)

    @rule(attempt=attempts)
    def release(self, attempt: Attempt) -> None:
        self.met["releases"] += self._model.release(attempt.key, attempt.item.turn, attempt.item.run)
        self._run(self.rig.store.release(attempt.key, attempt.item.turn, attempt.item.run))
        self._compare(attempt.key)

    @rule(session=st.sampled_from(SESSIONS), sure=st.integers(0, 3))
    def delete(self, session: str, sure: int) -> None:
        if sure == 0:  # seldom, or no session grows
            self._model.delete(self._key(session))
            self._run(self.rig.store.delete(self._key(session)))
        for each in SESSIONS:
            self._compare(self._key(each))

    @rule(session=st.sampled_from(SESSIONS), limit=st.integers(1, 4), before=st.none() | st.integers(1, 8))
    def page(self, session: str, limit: int, before: int | None) -> None:
        key = self._key(session)
        assert list(self._run(self.other.newest(key, limit, before))) == self._model.newest(key, limit, before)

    @rule()
    def list_sessions(self) -> None:
        keys = [self._key(each) for each in SESSIONS]
        listed = self._run(self.other.list_sessions(keys[0].principal, EVERYTHING))
        self.met["lists"] += bool(listed)
        assert sorted(listed, key=str) == sorted(self._model.list_sessions(keys), key=str)

    @rule(seconds=st.sampled_from(PASSING_S))
    def wait(self, seconds: float) -> None:
        self._clock.advance(seconds)

    @rule(
        target=claimed,
        session=st.sampled_from(SESSIONS),
        req=st.none() | st.sampled_from(REQUESTS),
        message=st.sampled_from(MESSAGES),
    )
    def ask(self, session: str, req: str | None, message: str) -> "Claim | MultipleResults[Claim]":
        """Claim as a request does: a free turn, a dead one, an answer that is there already, or a refusal."""
        key = self._key(session)
        head, expected = self._expected(key, req, message)
        got = self._run(outcome(self._claims.claim(key, req, message, LEASE_S)))
        if not isinstance(got, Claim):
            self.met["replays" if isinstance(got, Turn) else "refusals"] += 1
            assert (type(got) if isinstance(got, ServiceError) else got) == expected
            return multiple()
        dead = head is not None and head.body is None
        self.met["takeovers"] += dead
        assert list(got.history) == expected
        assert got.item.turn == (1 if head is None else head.turn if dead else head.turn + 1)
        assert got.item.req == (req or got.item.run)
        assert self._model.claim(key, got.item, head.run if head and dead else None)
        self._compare(key)
        return got

    @rule(claim=claimed, message=st.sampled_from(MESSAGES))
    def answer(self, claim: Claim, message: str) -> None:
        turn = answered(claim, message, f"answer of {claim.item.run}")
        held = {each.turn: each for each in self._model.newest(claim.key, EVERYTHING)}.get(claim.item.turn)
        if held is not None and held.run == claim.item.run and held.body is not None:
            return  # a run answers once
        expires, created = int(self._clock()) + KEEP_S, self._clock() if turn.number == 1 else None
        done = replace(claim.item, expires=expires, lease=None, body=pack(turn), created=created)
        kept = self._model.commit(claim.key, done)
        got = self._run(outcome(self._claims.commit(claim, turn, limit_s=0.0)))
        self.met["commits" if kept else "leases lost"] += 1
        assert (got is None) is kept
        assert kept or isinstance(got, LeaseLost)
        self._compare(claim.key)

    @rule(claim=claimed)
    def give_up(self, claim: Claim) -> None:
        self._model.release(claim.key, claim.item.turn, claim.item.run)
        self._run(self._claims.release(claim))
        self._compare(claim.key)

    def _attempt(self, key: SessionKey, turn: int, req: str, dead_run: str | None) -> Attempt:
        self._runs += 1
        now, run = self._clock(), f"run-{self._runs}"
        item = TurnItem(turn=turn, run=run, req=req, expires=int(now) + KEEP_S, lease=now + LEASE_S)
        body = pack(Turn(turn, MESSAGES[self._runs % 2], f"answer of {run}"))
        body = zlib.compress(body) if self._runs % 3 == 0 else body
        done = replace(item, lease=None, body=body, created=now + 0.25 if turn == 1 else None)
        attempt = Attempt(key, item, dead_run, done)
        self._claim(attempt, "claims" if dead_run is None else "takeovers")
        return attempt

    def _claim(self, attempt: Attempt, what: str) -> None:
        expected = self._model.claim(attempt.key, attempt.item, attempt.dead_run)
        self.met[what if expected else f"{what} refused"] += 1
        assert self._run(self.rig.store.claim(attempt.key, attempt.item, attempt.dead_run)) is expected
        self._compare(attempt.key)

    def _expected(self, key: SessionKey, req: str | None, message: str) -> tuple[TurnItem | None, Any]:
        """Return the session's newest item, and what a claim gives: a history, an answer or an error's class."""
        items, now = self._model.newest(key, WINDOW + 1), self._clock()
        done = [each for each in items if each.body is not None and each.expires > now][:WINDOW]
        turns = {each.req: unpack(each.turn, each.body or b"") for each in reversed(done)}
        head = items[0] if items else None
        if req in turns:
            return head, turns[req] if turns[req].message == message else IdempotencyKeyReused
        if head is not None and head.lease is not None and head.lease > now:
            return head, TurnInProgress if head.req == req else SessionBusy
        return head, [unpack(each.turn, each.body or b"") for each in reversed(done)]

    def _compare(self, key: SessionKey) -> None:
        self.met["steps"] += 1
        stored: Sequence[TurnItem] = self._run(self.other.newest(key, EVERYTHING))
        assert list(stored) == self._model.newest(key, EVERYTHING)

    def _newest(self, key: SessionKey) -> int:
        return max((each.turn for each in self._model.newest(key, 1)), default=0)

    def _key(self, session: str) -> SessionKey:
        return SessionKey(f"principal-{self.met['runs']}", session)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)


def explore(deployment: AbstractAsyncContextManager[Rig], runs: int, seeded: int = 1) -> Counter[str]:
    """Run the machine so often and return what it met; raise where the store and the dict part ways."""
    with asyncio.Runner() as runner:
        rig = runner.run(deployment.__aenter__())
        try:
            other = runner.run(rig.replica())
            parts = {"rig": rig, "other": other, "runner": runner, "met": Counter()}
            machine: type[StoreMachine] = type("Machine", (StoreMachine,), parts)
            run_state_machine_as_test(
                seed(seeded)(machine),
                settings=settings(
                    max_examples=runs,
                    stateful_step_count=STEPS,
                    database=None,
                    deadline=None,
                    phases=[Phase.generate],
                    report_multiple_bugs=False,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            runner.run(deployment.__aexit__(None, None, None))
    return machine.met
