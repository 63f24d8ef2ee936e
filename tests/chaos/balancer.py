"""What looks at a replica as a balancer does: on a new connection each time, and trusting nothing but the answer."""

import asyncio
import time
from dataclasses import dataclass, field

import aiohttp

from tests.chaos.callers import Outcome, ask
from tests.chaos.trial import Trial

LOOK_S = 0.05
GONE_S = 40.0  # a replica whose listener is still open then never closes it


@dataclass(slots=True)
class Balancer:
    """One replica as seen from outside.

    sends:         whether new requests may go there
    refusals:      how often /readyz said 503 while the listener was open
    first_refusal: when it first did, on the monotonic clock; infinite before
    last_answer:   when the last request began that was answered
    gone:          when a request had failed, and so the listener was closed; infinite before
    signalled:     when the replica was told to end; infinite before
    slowest_s:     the longest that an answer took since then, or that the event loop of this process was late
    """

    url: str
    sends: bool = True
    refusals: int = 0
    unwell: list[int] = field(default_factory=list)
    first_refusal: float = float("inf")
    last_answer: float = 0.0
    gone: float = float("inf")
    signalled: float = float("inf")
    slowest_s: float = 0.0

    async def watch(self) -> None:
        """Look every LOOK_S until the listener is closed."""
        async with (
            asyncio.timeout(GONE_S),
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as http,
        ):
            while self.gone == float("inf"):
                await self._look(http)
                woken = time.monotonic() + LOOK_S
                await asyncio.sleep(LOOK_S)
                self._took(time.monotonic() - woken)

    async def _look(self, http: aiohttp.ClientSession) -> None:
        began = time.monotonic()
        ready, alive = await self._ask(http, "/readyz"), await self._ask(http, "/healthz")
        self.sends = ready.status == 200
        if ready.status == 503:
            self.refusals += 1
            self.first_refusal = min(self.first_refusal, time.monotonic())
        if 0 in (ready.status, alive.status):
            self.gone = time.monotonic()
        else:
            self.last_answer = began
            self.unwell += [alive.status] * (alive.status != 200)

    async def _ask(self, http: aiohttp.ClientSession, path: str) -> Outcome:
        began = time.monotonic()
        outcome = await ask(http, self.url + path)
        if outcome.status:  # else nobody was there to take the time
            self._took(time.monotonic() - began)
        return outcome

    def _took(self, seconds: float) -> None:
        if time.monotonic() > self.signalled:
            self.slowest_s = max(self.slowest_s, seconds)

    def judge(self, trial: Trial, delay_s: float, late_s: float) -> None:
        """Check what a process that ends must show, from the signal to `late_s` after its delay."""
        trial.check(self.refusals >= 2, f"/readyz said 503 {self.refusals} times before the listener closed")
        trial.check(not self.unwell, f"/healthz said {self.unwell[:3]} while the listener was open")
        early_s = delay_s - (self.gone - self.signalled)
        trial.check(early_s <= 0, f"the listener closed {early_s:.2f} s before its delay of {delay_s} s was over")
        over_s = self.last_answer - self.signalled - delay_s
        trial.check(over_s <= late_s, f"the listener was open {over_s:.2f} s after its delay of {delay_s} s")
