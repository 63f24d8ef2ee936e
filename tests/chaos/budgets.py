"""Replicas die in the middle of turns whose model counts for itself: what they took stays counted, no budget breaks.

The model's own count of a call begins when it is asked, before it has told anything.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp

from app.auth import ANONYMOUS
from app.budgets import USAGE
from tests.chaos.callers import Outcome, chat
from tests.chaos.replicas import OURS, Replica, broken
from tests.chaos.trial import Bar, Trial
from tests.fake_model import FakeModel
from tests.messages_rules import Issued
from tests.model_process import variables_for
from tests.model_script import USAGE as MODEL_USAGE
from tests.model_script import Answer, Call, says
from tests.servers import Table, sessions_table

CALL = 105  # tokens of a model call
TURN = 300  # what a turn may use: it ends with its third call
SESSION = 2_500
CALLERS = 12
PAUSE_S = 0.05  # of the model, in each answer
LIMIT_S = 120.0
SETTINGS = {
    "AGENT_TOOLS": "tests.chaos.agents:tools",
    "AGENT_TIMEOUT_S": "10",
    "AGENT_MAX_TOKENS": str(TURN),
    "SESSION_MAX_TOKENS": str(SESSION),
}


class Model:
    """Asks for another tool with every call, and counts what each session has used."""

    def __init__(self) -> None:
        self.counted: Counter[str] = Counter()
        self._numbers = count()

    def __call__(self, issued: Issued, body: dict[str, Any]) -> Answer:
        texts = [
            block["text"]
            for each in body["messages"]
            for block in each["content"]
            if each["role"] == "user" and block["type"] == "text"
        ]
        session = texts[-1].partition(" ")[0]
        self.counted[session] += CALL
        usage = MODEL_USAGE | {"input_tokens": CALL - 5}
        first, *rest = says("hm", Call("lookup", {"session": str(next(self._numbers))}), usage=usage)(
            issued, body
        ).steps
        return Answer([PAUSE_S, first, PAUSE_S, *rest])


class Ledger:
    """Compares what the service has counted with what the model has."""

    def __init__(self, trial: Trial, table: Table, model: Model, day: int) -> None:
        self._trial, self._table, self._model, self._day = trial, table, model, day

    async def check(self, when: str) -> None:
        """Check that nothing is counted too low, and that no budget was passed by more than a model call.

        The model's count is read first: what it counts meanwhile may be counted already.
        """
        counted = self._model.counted.copy()
        for session, used in counted.items():
            taken = await self._taken(session + USAGE)
            self._trial.check(taken >= used, f"{when}, {session} used {used}, and {taken} is counted")
            self._trial.check(used < SESSION + CALL, f"{when}, {session} used {used} of {SESSION}")
        taken, used = await self._taken(USAGE), counted.total()
        self._trial.check(taken >= used, f"{when}, {used} tokens were used in the day, and {taken} are counted")
        self._trial.check(used < self._day + CALL, f"{when}, {used} of {self._day} were used in the day")

    async def left_by_the_dead(self) -> int:
        """Return what is taken of the day and was never used."""
        return await self._taken(USAGE) - self._model.counted.total()

    async def _taken(self, name: str) -> int:
        page = await asyncio.to_thread(
            self._table.client.query,
            TableName=self._table.name,
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues={":pk": {"S": f"{ANONYMOUS}/{name}"}},
            ConsistentRead=True,
        )
        return sum(int(item["taken_tokens"]["N"]) for item in page["Items"])


class Caller:
    """Says one thing after the other, each until it is acknowledged, in a new session when the last is used up.

    refused: the day is used up, or held by turns that run or died
    """

    def __init__(self, trial: Trial, name: int, http: aiohttp.ClientSession, replicas: Sequence[Replica]) -> None:
        self._trial, self._name, self._http, self._replicas = trial, name, http, replicas
        self._sessions, self._messages = count(), count()
        self._session = f"{name}-{next(self._sessions)}"
        self.refused = False

    async def talk(self, stop: asyncio.Event) -> None:
        """Go on until told to stop, or refused by the day."""
        self.refused = False
        while not stop.is_set() and not self.refused:
            await self._say(f"{self._session} {next(self._messages)}", stop)

    async def _say(self, message: str, stop: asyncio.Event) -> None:
        while not stop.is_set():
            outcome = await self._send(message)
            if outcome.status == 200:
                self._trial.saw("turns")
                reason = outcome.json["stop_reason"]
                self._trial.check(reason == "budget", f"a turn ended with {reason}")
                return
            if outcome.status == 429:
                self._refused(outcome)
                return
            self._trial.saw("requests that died", outcome.status == 0)
            await asyncio.sleep(0.05)

    def _refused(self, outcome: Outcome) -> None:
        self._trial.check(outcome.slug == "quota-exceeded", f"a turn too many gets {outcome.slug}")
        if "retry-after" in outcome.headers:
            self.refused = True
        else:
            self._trial.saw("sessions used up")
            self._session = f"{self._name}-{next(self._sessions)}"

    async def _send(self, message: str) -> Outcome:
        replica = self._replicas[self._trial.random.randrange(len(self._replicas))]
        return await chat(
            self._http, replica.url, self._session, message, Idempotency_Key=message.replace(" ", "-"), Prefer="wait=5"
        )


async def run(trial: Trial) -> None:
    kills, day = (12, 250_000) if trial.full else (2, 50_000)
    command = broken("nothing is set aside", "usage is not taken at once") if trial.broken else OURS
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        table = stack.enter_context(sessions_table())
        server = await stack.enter_async_context(FakeModel())
        server.otherwise = model = Model()
        settings = variables_for(server) | SETTINGS | table.settings | {"DAILY_MAX_TOKENS": str(day)}
        http = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        replicas = [await stack.enter_async_context(Replica(folder, command, **settings)) for _ in range(2)]
        ledger = Ledger(trial, table, model, day)
        callers = [Caller(trial, number, http, replicas) for number in range(CALLERS)]
        for _ in range(kills):
            await _round(trial, ledger, callers, replicas)
        trial.saw("tokens that the dead left taken", await ledger.left_by_the_dead())
        async with asyncio.timeout(LIMIT_S):
            await asyncio.gather(*[caller.talk(asyncio.Event()) for caller in callers])
        await ledger.check("in the end")
        trial.check(all(each.refused for each in callers), "a caller was not refused by the day")
        trial.saw("model calls", model.counted.total() // CALL)
    trial.demand("kills", kills)
    trial.demand("requests that died", kills)
    trial.demand("tokens that the dead left taken", kills)
    trial.demand("sessions used up", kills)


async def _round(trial: Trial, ledger: Ledger, callers: Sequence[Caller], replicas: Sequence[Replica]) -> None:
    """Kill a replica while everybody talks, and look at once, and again when the others go on."""
    stop = asyncio.Event()
    talking = [asyncio.create_task(caller.talk(stop)) for caller in callers]
    await asyncio.sleep(trial.random.uniform(1.0, 2.0))
    victim = replicas[trial.random.randrange(len(replicas))]
    victim.kill()
    await victim.process.wait()
    trial.saw("kills")
    await ledger.check("after a kill")
    await victim.start()
    await victim.until_ready()
    await ledger.check("while it goes on")
    stop.set()
    async with asyncio.timeout(LIMIT_S):
        await asyncio.gather(*talking)


BAR = Bar(
    name="budgets",
    promise="What was used is never counted too low, whatever is killed, and no budget is passed by two model calls.",
    control="what a turn sets aside",
    run=run,
)
