"""How many tokens and dollars a session, and a principal in a day, may use: the same for all replicas.

They are counted in the sessions' table, under ids that no session can have (`wire.SESSION_ID` admits no `~`). What was
used is added when a turn has ended. What is compared with the budget is what was *taken*: used, or set aside for a turn
that runs. It goes up before the model is called, so that a process that is killed leaves too much there, never too
little.
"""

import asyncio
import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from app.errors import QuotaExceeded, StoreUnavailable, UsageNotCounted
from app.events import Usage
from app.sessions import Numbers, SessionKey
from app.sessions.claims import Claims

USAGE = "~usage"  # the id of a principal's days, and the end of that of a session's counter
DAY_S = 86_400
BUSY_RETRY_S = 2  # when the turns that hold the rest will end, nobody knows
ANSWER_S = 0.1  # for a store to say what it did for a turn that is stopped; it leaves time to give that back
MICRO = 1_000_000  # dollars are counted in whole millionths
MOST = 10**12  # of a turn: an agent that says it used more is wrong, and a store's numbers have an end

TOKENS, MICROUSD = "tokens", "microusd"
TAKEN = {TOKENS: "taken_tokens", MICROUSD: "taken_microusd"}


@dataclass(frozen=True, slots=True)
class Limit:
    """How many tokens, read and written, and dollars may be used; None for any number."""

    tokens: int | None = None
    usd: float | None = None

    @property
    def amounts(self) -> dict[str, int]:
        """The limits that are set, by the names of what they limit."""
        amounts = {} if self.tokens is None else {TOKENS: min(self.tokens, MOST)}
        return amounts if self.usd is None else {**amounts, MICROUSD: max(_microusd(self.usd), 1)}

    def is_reached(self, usage: Usage) -> bool:
        """Return whether this usage has reached one of them."""
        used = _used(usage)
        return any(used[name] >= most for name, most in self.amounts.items())

    def within(self, left: Numbers) -> "Limit":
        """Return the limit of what may use no more than this, and no more than is left."""
        least = {name: min(self.amounts.get(name, amount), amount) for name, amount in left.items()}
        return Limit(
            least.get(TOKENS, self.tokens),
            least[MICROUSD] / MICRO if MICROUSD in least else self.usd,
        )


@dataclass(frozen=True, slots=True)
class Budget:
    """A counter of what is taken, and its limit.

    expires: as of `SessionStore.add`
    ends:    epoch seconds at which counting begins anew; None for never
    """

    key: SessionKey
    window: int
    expires: int
    limit: Limit
    ends: int | None = None


@dataclass(frozen=True, slots=True)
class DayUsage:
    """What a principal has used in the day that ends at `ends`, in epoch seconds.

    running: what is set aside for turns that run, and stays so for those that died
    """

    ends: int
    turns: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    usd: float
    running_tokens: int
    running_usd: float
    limit: Limit


@dataclass(frozen=True, slots=True)
class Budgets:
    """What a turn, a session, and a principal in a day of UTC may use, in the store and by the clock of `claims`."""

    claims: Claims
    turn: Limit = Limit()
    session: Limit = Limit()
    day: Limit = Limit()

    def of(self, key: SessionKey) -> Iterator[Budget]:
        """Yield the budgets under which a turn begins now. The day comes first, because it refuses more often."""
        if self.day.amounts:
            yield self._today(key.principal)
        if self.session.amounts:
            kept = int(self.claims.clock()) + self.claims.keep_s
            yield Budget(SessionKey(key.principal, key.session_id + USAGE), 1, kept, self.session)

    async def used_today(self, principal: str) -> DayUsage:
        """Return what the principal has used.

        Raises:
            UsageNotCounted: no budget of the day is set.
            StoreUnavailable: the store did not answer.
        """
        if not self.day.amounts:
            raise UsageNotCounted
        today = self._today(principal)
        found = await self.claims.store.numbers(today.key, today.window)
        used = _counted(found)
        running = {name: max(found.get(TAKEN[name], 0) - used[name], 0) for name in used}
        return DayUsage(
            ends=today.ends or 0,
            turns=found.get("turns", 0),
            input_tokens=found.get("input_tokens", 0),
            output_tokens=found.get("output_tokens", 0),
            cached_tokens=found.get("cached_tokens", 0),
            usd=used[MICROUSD] / MICRO,
            running_tokens=running[TOKENS],
            running_usd=running[MICROUSD] / MICRO,
            limit=self.day,
        )

    def _today(self, principal: str) -> Budget:
        day = int(self.claims.clock() // DAY_S)
        ends = (day + 1) * DAY_S
        return Budget(SessionKey(principal, USAGE), day, ends + DAY_S, self.day, ends)


class Reservation:
    """What is taken for one turn under its budgets. `limit` is what the turn itself may use."""

    def __init__(self, budgets: Budgets, key: SessionKey) -> None:
        self.limit = budgets.turn
        self._budgets = budgets
        self._store = budgets.claims.store
        self._key = key
        self._held: list[Budget] = []
        self._taken: dict[str, int] = {}
        self._begun = False

    async def reserve(self) -> None:
        """Take twice what a turn may use: it ends with the model call that reaches its limit, which may be as large.

        Raises:
            QuotaExceeded: all of a budget is taken.
            StoreUnavailable: the store did not answer; something may have been taken for nobody.
        """
        wanted = list(self._budgets.of(self._key))
        limited = {name for each in wanted for name in each.limit.amounts}
        taken = {name: 2 * most for name, most in self._budgets.turn.amounts.items() if name in limited}
        self._taken = taken
        for each in wanted:
            below = {TAKEN[name]: most for name, most in each.limit.amounts.items()}
            amounts = {TAKEN[name]: amount for name, amount in taken.items()}
            now = await self._take(each, amounts, below)
            if now is None:
                raise await self._refusal(each)
            before = {name: now[TAKEN[name]] - taken[name] for name in each.limit.amounts}
            self.limit = self.limit.within({name: most - before[name] for name, most in each.limit.amounts.items()})
        self._begun = True

    async def _take(self, budget: Budget, amounts: Numbers, below: Numbers) -> Numbers | None:
        """Take of one budget. A turn that is stopped meanwhile waits for the answer, or nobody could give that back."""
        adding = asyncio.ensure_future(self._store.add(budget.key, budget.window, amounts, budget.expires, below=below))
        try:
            return await asyncio.shield(adding)
        finally:
            await asyncio.wait([adding], timeout=ANSWER_S)
            if not adding.cancel() and not adding.exception() and adding.result() is not None:
                self._held.append(budget)

    async def grow(self, usage: Usage) -> None:
        """Take what has been used and was not taken yet.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        used = _used(usage)
        more = {name: used[name] - taken for name, taken in self._taken.items() if used[name] > taken}
        if not more:
            return
        for each in self._held:
            amounts = {TAKEN[name]: amount for name, amount in more.items()}
            await self._store.add(each.key, each.window, amounts, each.expires)
        self._taken = self._taken | {name: used[name] for name in more}

    async def settle(self, usage: Usage) -> None:
        """Put what was used in the place of what was taken, if something was. If the store does not answer, that stays.

        Never sent twice, because what is given back twice would be counted too low.
        """
        held, self._held = self._held, []
        if not held:
            return
        amounts = {TAKEN[name]: used - self._taken.get(name, 0) for name, used in _used(usage).items()}
        if self._begun:
            amounts |= {
                "turns": 1,
                "input_tokens": _whole(usage.input_tokens),
                "output_tokens": _whole(usage.output_tokens),
                "cached_tokens": _whole(usage.cached_tokens),
                MICROUSD: _microusd(usage.usd),
            }
        await asyncio.gather(*[self._settle(each, amounts) for each in held])

    async def _settle(self, budget: Budget, amounts: Numbers) -> None:
        with suppress(StoreUnavailable):
            await self._store.add(budget.key, budget.window, amounts, budget.expires, once=True)

    async def _refusal(self, budget: Budget) -> QuotaExceeded:
        """Return the refusal, which says when to try again: where a session's budget is used up, never."""
        if budget.ends is None:
            return QuotaExceeded()
        used = _counted(await self._store.numbers(budget.key, budget.window))
        if any(used[name] >= most for name, most in budget.limit.amounts.items()):
            return QuotaExceeded(max(math.ceil(budget.ends - self._budgets.claims.clock()), 1))
        return QuotaExceeded(BUSY_RETRY_S)


def _used(usage: Usage) -> dict[str, int]:
    return {TOKENS: _whole(usage.input_tokens) + _whole(usage.output_tokens), MICROUSD: _microusd(usage.usd)}


def _counted(numbers: Numbers) -> dict[str, int]:
    """Return what a counter says was used."""
    tokens = numbers.get("input_tokens", 0) + numbers.get("output_tokens", 0)
    return {TOKENS: tokens, MICROUSD: numbers.get(MICROUSD, 0)}


def _whole(amount: float) -> int:
    return math.ceil(min(amount, MOST))


def _microusd(usd: float) -> int:
    return math.ceil(round(min(usd * MICRO, MOST), 3))  # what a float adds to a sum of prices is no millionth of it
