"""How many turns a principal may begin in a minute, and how many may run at once: the same for all replicas.

Both are kept in the sessions' table, under ids that no session can have (`wire.SESSION_ID` admits no `~`). What runs is
counted by slots: a slot is held like a turn, by a run and with a lease, so that it frees itself when its process dies.
"""

import math
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass

from app.errors import RateLimited
from app.sessions import SessionKey, TurnItem
from app.sessions.claims import Claim, Claims

RATE, SLOTS = "~rate", "~slots"
TURNS = "turns"
WINDOW_S = 60
KEEP_S = 3600  # after a window or a lease has ended, on whatever clock
SLOT_ATTEMPTS = 10  # a hundred that take a hundred slots at once all have one after five to seven
BUSY_RETRY_S = 2  # when one of the principal's turns will end, nobody knows


@dataclass(frozen=True, slots=True)
class PrincipalLimits:
    """The limits of every principal, on the store and by the clock of `claims`; None for no limit.

    per_minute: turns begun in a minute of the clock
    at_once:    turns that run
    """

    claims: Claims
    per_minute: int | None
    at_once: int | None

    async def count(self, principal: str) -> dict[str, str]:
        """Count a turn that is about to begin, and return the fields of its response.

        Raises:
            RateLimited: it is one too many for this minute.
            StoreUnavailable: the store did not answer; the turn may have been counted.
        """
        if self.per_minute is None:
            return {}
        window, passed_s = divmod(self.claims.clock(), WINDOW_S)
        ends_s = math.ceil(WINDOW_S - passed_s)
        expires = (int(window) + 1) * WINDOW_S + KEEP_S
        counted = await self.claims.store.add(SessionKey(principal, RATE), int(window), {TURNS: 1}, expires)
        used = counted[TURNS] if counted else 0
        fields = self._fields(f'"turns";r={max(self.per_minute - used, 0)};t={ends_s}')
        if used > self.per_minute:
            raise RateLimited(ends_s, fields)
        return fields

    async def take_slot(self, principal: str, lease_s: float) -> Claim | None:
        """Take one of the principal's slots for `lease_s` seconds; release it as a claim. None where none is needed.

        Raises:
            RateLimited: all of them are held.
            StoreUnavailable: the store did not answer; a slot may be held until its lease ends.
        """
        if self.at_once is None:
            return None
        key, run = SessionKey(principal, SLOTS), os.urandom(16).hex()
        tried: Claim | None = None
        try:
            for _ in range(SLOT_ATTEMPTS):
                held = {item.turn: item for item in await self.claims.store.newest(key, self.at_once, self.at_once + 1)}
                for item in held.values():
                    if item.run == run:
                        return Claim(key, item, ())  # our write landed, its acknowledgement did not
                tried = None
                number = self._free(held)
                tried = Claim(key, self._slot(number, run, lease_s), ())
                dead = held.get(number)
                if await self.claims.store.claim(key, tried.item, dead.run if dead else None):
                    return tried
            raise self._busy()  # noqa: TRY301 the last attempt may have landed, too
        except BaseException:
            if tried:  # cut off or unanswered, it may have landed
                await self.claims.release(tried)
            raise

    def _free(self, held: Mapping[int, TurnItem]) -> int:
        """Return a slot that nobody holds, or whose lease has passed: any of them, so that few want the same."""
        now, numbers = self.claims.clock(), range(1, (self.at_once or 0) + 1)
        free = [each for each in numbers if each not in held or (held[each].lease or 0) <= now]
        if not free:
            raise self._busy()
        return random.choice(free)  # noqa: S311 no secret

    def _slot(self, number: int, run: str, lease_s: float) -> TurnItem:
        ends = self.claims.clock() + lease_s
        return TurnItem(turn=number, run=run, req=run, expires=int(ends) + KEEP_S, lease=ends)

    def _busy(self) -> RateLimited:
        return RateLimited(BUSY_RETRY_S, self._fields('"running";r=0'))

    def _fields(self, left: str) -> dict[str, str]:
        """Return the fields of draft-ietf-httpapi-ratelimit-headers-11: the limits that are set, and what is left."""
        rate = f'"turns";q={self.per_minute};w={WINDOW_S}' if self.per_minute else None
        running = f'"running";q={self.at_once};qu="concurrent-requests"' if self.at_once else None
        return {"RateLimit-Policy": ", ".join(filter(None, (rate, running))), "RateLimit": left}
