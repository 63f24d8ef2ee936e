"""One principal asks two replicas for far more turns than it may run, and the replicas die with some of them."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from itertools import count

import aiohttp

from app.deadline import LEASE_MARGIN_S
from tests.chaos.agents import GATE, runs
from tests.chaos.callers import Outcome, chat
from tests.chaos.replicas import OURS, Replica, broken, pair
from tests.chaos.trial import Bar, Trial

MOST, CROWD = 5, 40  # turns that the principal may run, and asks for at once
TURN_S = 8.0  # no turn here waits as long for its gate
WAIT_S = 60.0
SETTINGS = {
    "AGENT": "tests.chaos.agents:gated",
    "AGENT_TIMEOUT_S": f"{TURN_S:.0f}",
    "MAX_TURNS_PER_PRINCIPAL": f"{MOST}",
}

Turns = Sequence[asyncio.Task[Outcome]]


class Principal:
    """Who asks, in sessions that it never used before, both replicas by turns."""

    def __init__(self, trial: Trial, replicas: Sequence[Replica], http: aiohttp.ClientSession) -> None:
        self._trial, self._replicas, self._http = trial, replicas, http
        self._sessions = count()

    async def ask(self, expected: int, when: str) -> Turns:
        """Send a crowd, wait until each either runs or has been answered, and check how many run."""
        began = len(runs(self._replicas[0].folder))
        turns = [asyncio.create_task(self._chat(self._replicas[n % 2])) for n in range(CROWD)]
        async with asyncio.timeout(WAIT_S):
            while len(runs(self._replicas[0].folder)) - began + sum(each.done() for each in turns) < CROWD:
                await asyncio.sleep(0.02)
        running = len(runs(self._replicas[0].folder)) - began
        self._trial.check(running == expected, f"{when}, {running} turns of {CROWD} run, not {expected}")
        for each in turns:
            if each.done():
                answer = each.result()
                right = answer.status == 429 and answer.slug == "rate-limited" and answer.headers["retry-after"] == "2"
                self._trial.check(right, f"{when}, a turn too many gets {answer.status} {answer.text[:100]}")
                self._trial.saw("refusals")
        return turns

    async def _chat(self, replica: Replica) -> Outcome:
        return await chat(self._http, replica.url, f"s{next(self._sessions)}", "hello")


async def run(trial: Trial) -> None:
    command = broken("slots of the living are taken") if trial.broken else OURS
    async with (
        pair(command, SETTINGS) as replicas,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http,
    ):
        principal = Principal(trial, replicas, http)
        for _ in range(12 if trial.full else 1):
            await _round(trial, principal, replicas)
    trial.demand("kills", 12 if trial.full else 1)
    trial.demand("turns that died", MOST // 2 + 1)
    trial.demand("refusals", 3 * (CROWD - MOST))


async def _round(trial: Trial, principal: Principal, replicas: Sequence[Replica]) -> None:
    """Kill a replica: its turns hold their slots until their leases end, and no longer; the others go on."""
    gate = replicas[0].folder / GATE
    gate.unlink(missing_ok=True)
    turns = await principal.ask(MOST, "at first")
    of_one = sum(not each.done() for each in turns[::2])
    victim = replicas[0] if of_one > MOST / 2 else replicas[1]  # whichever runs more of them
    victim.kill()
    await victim.process.wait()
    trial.saw("kills")
    lease_ends = asyncio.get_running_loop().time() + TURN_S + LEASE_MARGIN_S
    gate.touch()
    ended = Counter(outcome.status for outcome in await asyncio.gather(*turns))
    died = ended[0]
    trial.check(ended[200] == MOST - died, f"{died} turns died, and {ended[200]} of the others are answered")
    trial.saw("turns that died", died)
    gate.unlink()
    await victim.start()
    await victim.until_ready()
    free = await principal.ask(MOST - died, "while leases of the dead run")
    gate.touch()
    await asyncio.gather(*free)
    await asyncio.sleep(max(lease_ends - asyncio.get_running_loop().time(), 0) + 0.5)
    gate.unlink()
    again = await principal.ask(MOST, "when they have ended")
    gate.touch()
    answered = Counter(outcome.status for outcome in await asyncio.gather(*again))
    trial.check(answered[200] == MOST, f"when they have ended, {answered[200]} turns are answered, not {MOST}")


BAR = Bar(
    name="limits",
    promise="A principal runs as many turns as it may on all replicas together, never more, and after kills no fewer.",
    control="the respect for a slot that is held",
    run=run,
)
