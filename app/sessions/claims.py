"""How a turn is claimed, committed and given back, over any SessionStore.

Three calls a turn: read the newest items, claim the next number, commit. No transaction, no second item to keep in
step. Every step is safe to repeat, and a step whose acknowledgement was lost is recognised by its `run`.
"""

import asyncio
import enum
import logging
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from app.errors import (
    DamagedTurn,
    IdempotencyKeyReused,
    LeaseLost,
    SessionBusy,
    SessionConflict,
    SessionNotFound,
    StoreRefused,
    StoreUnavailable,
    TurnInProgress,
)
from app.events import Turn
from app.sessions import SessionKey, SessionStore, TurnItem
from app.sessions.codec import pack, unpack

log = logging.getLogger(__name__)

ATTEMPTS = 5  # a claim loses only to another claim; five lost in a row is a busy session
CANCEL_S = 3.0  # from a cancel to the end of the lease; a holder looks every `running.WATCH_S` and then has to store
CANCEL_POLL_S = 0.2
POLL_S = (0.05, 0.5)  # first and longest pause between two looks at a busy session, before jitter
COMMIT_RETRY_S = 0.2  # on top of the store's own retries, for as long as the turn may still answer


class Standing(enum.Enum):
    """What has become of a claim whose agent still runs."""

    HELD = "nobody else wants the turn"
    CANCELLED = "somebody asked for its end"
    GONE = "it was released by somebody else, or its session deleted"
    TAKEN = "another run took it over"


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to commit one turn, and the history its agent must see: done turns, oldest first."""

    key: SessionKey
    item: TurnItem
    history: Sequence[Turn]


@dataclass(frozen=True, slots=True)
class Claims:
    """Claims turns in `store`.

    window: how many newest turns are read: history for the agent, and the reach of idempotency keys
    keep_s: seconds for which a turn is kept, from its writing
    clock:  epoch seconds; a skewed one costs wasted model calls, never a turn
    """

    store: SessionStore
    window: int
    keep_s: int
    clock: Callable[[], float] = time.time

    async def claim(self, key: SessionKey, req: str | None, message: str, lease_s: float) -> Claim | Turn:
        """Claim the session's next turn for `lease_s` seconds, or return the done turn that `req` already made.

        Raises:
            SessionBusy: another turn holds a living lease.
            TurnInProgress: the turn of the same `req` holds a living lease.
            IdempotencyKeyReused: `req` made a turn with another message.
            StoreUnavailable: the store did not answer; the turn may be open until its lease ends.
        """
        run = os.urandom(16).hex()
        request_id = req or run
        tried: TurnItem | None = None
        try:
            for _ in range(ATTEMPTS):
                items = await self.store.newest(key, self.window + 1)  # one more, for the newest may be open
                done = self._done(items)[: self.window]
                for item in done:
                    if item.req == request_id:
                        return _replay(item, message)
                head = items[0] if items else None
                history = _history(done)
                if head is not None and head.body is None and head.run == run:
                    return Claim(key, head, history)  # our write landed, its acknowledgement did not
                tried = None
                dead_run = self._dead_run(head, request_id)
                tried = self._next(head, run, request_id, lease_s)
                if await self.store.claim(key, tried, dead_run):
                    return Claim(key, tried, history)
            raise SessionBusy  # noqa: TRY301 the last attempt may have landed, too
        except BaseException:
            if tried:  # cut off or unanswered, it may have landed, and nobody will commit it
                await self._give_back(key, tried)
            raise

    async def claim_or_wait(
        self, key: SessionKey, req: str | None, message: str, lease_s: float, wait_s: float
    ) -> Claim | Turn:
        """`claim`, but look again for up to `wait_s` seconds while the session is busy. Polls with reads only.

        The lease counts from the call: what was waited is off.
        """
        began = self._now()
        give_up, lease_ends = began + wait_s, began + lease_s
        while True:
            try:
                return await self.claim(key, req, message, lease_ends - self._now())
            except SessionConflict:
                if not await self._wait_until_free(key, give_up):
                    raise

    async def commit(self, claim: Claim, turn: Turn, limit_s: float) -> None:
        """Store the done turn, trying for up to `limit_s` seconds while the store does not answer.

        Raises:
            LeaseLost: another run holds the turn, or the session was deleted; nothing is stored.
            ResponseTooLarge: the turn fits into no item.
            StoreUnavailable: the limit passed; whether the turn is stored is unknown.
        """
        now = self.clock()
        item = TurnItem(
            turn=claim.item.turn,
            run=claim.item.run,
            req=claim.item.req,
            expires=int(now) + self.keep_s,
            body=pack(turn),
            created=round(now, 3) if claim.item.turn == 1 else None,
        )
        give_up = self._now() + limit_s
        while True:
            try:
                if await self.store.commit(claim.key, item):
                    return
                raise LeaseLost
            except StoreUnavailable as exc:
                if isinstance(exc, StoreRefused) or self._now() >= give_up:
                    raise
            await asyncio.sleep(COMMIT_RETRY_S)

    async def standing(self, claim: Claim) -> Standing:
        """Return what has become of a claim while its agent runs.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        held = await self._now_of(claim.key, claim.item)
        if held is None:
            return Standing.GONE
        if held.run != claim.item.run:
            return Standing.TAKEN
        return Standing.CANCELLED if _is_shortened(held, claim.item) else Standing.HELD

    async def cancel(self, key: SessionKey, give_up: float) -> Turn | None:
        """Stop the turn that runs on the session, wherever, and return it once it is stored; None if nothing of it is.

        Its lease is shortened, which its holder sees. One that does not react until `give_up`, on the event loop's
        clock, loses the turn.

        Raises:
            SessionNotFound: there is no such session.
            StoreUnavailable: the store did not answer; the turn may have been cancelled all the same.
        """
        items = await self.store.newest(key, 1)
        held = items[0] if items else None
        if held is None or held.expires <= self.clock():
            raise SessionNotFound
        if held.lease is None:
            return None  # done already: nothing runs
        ends = min(held.lease - 1, self.clock() + CANCEL_S)  # less than before, so that it shows
        await self.store.claim(key, replace(held, lease=ends), held.run)
        while (seen := await self._now_of(key, held)) and seen.run == held.run:
            if seen.body is not None:
                return unpack(seen.turn, seen.body)
            if self._now() >= give_up:
                await self.store.release(key, held.turn, held.run)
            await asyncio.sleep(CANCEL_POLL_S)
        return None

    async def _now_of(self, key: SessionKey, item: TurnItem) -> TurnItem | None:
        """Return what stands in the place of an item now."""
        items = await self.store.newest(key, 1, item.turn + 1)
        return items[0] if items and items[0].turn == item.turn else None

    async def release(self, claim: Claim, limit_s: float = 0.0) -> None:
        """Give the turn back so that the next request need not wait for the lease; try for up to `limit_s` seconds."""
        give_up = self._now() + limit_s
        while not await self._give_back(claim.key, claim.item):
            if self._now() >= give_up:
                return
            await asyncio.sleep(COMMIT_RETRY_S)

    async def _give_back(self, key: SessionKey, item: TurnItem) -> bool:
        """Release the item and return whether the store answered; if it never does, the lease ends by itself."""
        try:
            await self.store.release(key, item.turn, item.run)
        except StoreUnavailable:
            return False
        return True

    def _done(self, items: Sequence[TurnItem]) -> list[TurnItem]:
        now = self.clock()
        return [item for item in items if item.body is not None and item.expires > now]

    def _dead_run(self, head: TurnItem | None, request_id: str) -> str | None:
        """Return the run to take over from, or None where the next turn is free; raise while a run lives."""
        if head is None or head.lease is None:
            return None
        if head.lease > self.clock():
            raise TurnInProgress if head.req == request_id else SessionBusy
        return head.run

    def _next(self, head: TurnItem | None, run: str, req: str, lease_s: float) -> TurnItem:
        now = self.clock()
        number = 1 if head is None else head.turn if head.body is None else head.turn + 1
        return TurnItem(turn=number, run=run, req=req, expires=int(now) + self.keep_s, lease=now + lease_s)

    async def _wait_until_free(self, key: SessionKey, give_up: float) -> bool:
        """Return True once no living lease is seen, False when `give_up` passes first."""
        pause_s, longest_s = POLL_S
        while self._now() < give_up:
            await asyncio.sleep(min(pause_s * random.uniform(0.5, 1.0), give_up - self._now()))  # noqa: S311 jitter
            pause_s = min(pause_s * 2, longest_s)
            items = await self.store.newest(key, 1)
            if not items or items[0].lease is None or items[0].lease <= self.clock():
                return True
        return False

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _is_shortened(held: TurnItem, claimed: TurnItem) -> bool:
    """Return whether a lease ends earlier than it was claimed for; DynamoDB keeps it to the millisecond."""
    return held.lease is not None and claimed.lease is not None and held.lease < claimed.lease - 0.01


def _history(done: Sequence[TurnItem]) -> list[Turn]:
    """Return the turns, oldest first. One that cannot be read is left out, or its session could never go on."""
    turns = []
    for item in reversed(done):
        try:
            turns.append(unpack(item.turn, item.body or b""))
        except DamagedTurn:
            log.error("a stored turn cannot be read", extra={"turn": item.turn})  # noqa: TRY400 the class says it all
    return turns


def _replay(item: TurnItem, message: str) -> Turn:
    turn = unpack(item.turn, item.body or b"")
    if turn.message != message:
        raise IdempotencyKeyReused
    return turn
