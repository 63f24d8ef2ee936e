"""Turns of the built-in agent that are interrupted in the middle of their tools: their sessions go on."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp

from app.events import ToolCall, ToolResult
from app.sessions.codec import unpack
from tests.chaos.agents import runs
from tests.chaos.callers import Outcome, chat
from tests.chaos.history import lease_of
from tests.chaos.replicas import OURS, Replica, broken
from tests.chaos.trial import Bar, Trial
from tests.fake_model import FakeModel
from tests.messages_rules import Issued
from tests.model_process import variables_for
from tests.model_script import Answer, Call, Fault, Script, error, says
from tests.model_script import broken as broken_off
from tests.servers import Table, sessions_table

SETTINGS = {"AGENT_TOOLS": "tests.chaos.agents:tools", "AGENT_TIMEOUT_S": "20"}
SHORT_S = 3  # a model is asked for no further step with less than two seconds left
REACH_S = 30.0
# By what a turn is interrupted, and what its caller is told then.
INTERRUPTED_BY = {
    "deadline": "done",
    "hang-up": "nothing",
    "model-error": "upstream-rejected",
    "model-cut": "upstream-invalid",
    "kill": "nothing",
}


@dataclass(frozen=True, slots=True)
class Case:
    """A session in which one turn is interrupted."""

    by: str
    stream: bool
    round_: int

    @property
    def session(self) -> str:
        return f"{self.by}-{'sse' if self.stream else 'json'}-{self.round_}"


class Model:
    """What the model says: in each turn it asks for tools first. Its connections are cut as the message demands.

    calm: nothing is interrupted any more
    """

    def __init__(self) -> None:
        self.calm = False

    def __call__(self, issued: Issued, body: dict[str, Any]) -> Answer:
        last = body["messages"][-1]["content"]
        used = any(block["type"] == "tool_result" for block in last)
        asked = [
            block["text"]
            for each in body["messages"]
            for block in each["content"]
            if each["role"] == "user" and block["type"] == "text"
        ]
        by, _, session = asked[-1].partition(" ")
        return self._script(by if not self.calm else "", session, used=used)(issued, body)

    @staticmethod
    def _script(by: str, session: str, *, used: bool) -> Script:
        where = {"session": session}
        match by, used:
            case "deadline" | "hang-up" | "kill", False:
                return says("Let me see.", Call("lookup", where), Call("forever", where))
            case "model-error", True:
                return error(529, "overloaded_error", x_should_retry="false")
            case "model-cut", True:
                return broken_off("content_block_delta", Fault.RESET, of=says(Call("lookup", where)))
            case _, True:
                return says("That is it.")
        return says("Let me see.", Call("lookup", where))


@dataclass(frozen=True, slots=True)
class Place:
    """Where it happens."""

    trial: Trial
    http: aiohttp.ClientSession
    table: Table
    folder: Path

    async def send(self, url: str, case: Case, by: str, time_s: int = 20) -> Outcome:
        """Send a message once, with itself as its key."""
        message = f"{by} {case.session}"
        return await chat(
            self.http,
            url,
            case.session,
            message,
            stream=case.stream,
            Idempotency_Key=message.replace(" ", "-"),
            X_Request_Timeout=str(time_s),
        )


async def run(trial: Trial) -> None:
    command = broken("no missing results", "no repair") if trial.broken else OURS
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        table = stack.enter_context(sessions_table())
        model = await stack.enter_async_context(FakeModel())
        http = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        place = Place(trial, http, table, folder)
        settings = variables_for(model) | SETTINGS | table.settings
        rounds = ("stop", "finish") * 2 if trial.full else ("stop",)
        for round_, on_disconnect in enumerate(rounds):
            settings["ON_DISCONNECT"] = on_disconnect
            async with Replica(folder, command, **settings) as steady, Replica(folder, command, **settings) as mortal:
                await _round(place, model, (steady, mortal), round_)
        for request in model.requests:
            trial.check(request.status != 400, "the model refused a history")
        trial.saw("model calls", len(model.requests))
    for by in INTERRUPTED_BY:
        trial.demand(by, 2 * len(rounds))


async def _round(place: Place, model: FakeModel, replicas: tuple[Replica, Replica], round_: int) -> None:
    """Interrupt a turn in each of the ways, as JSON and as SSE, and go on in every session."""
    model.otherwise = script = Model()
    steady, mortal = replicas
    cases = [Case(by, stream, round_) for by in INTERRUPTED_BY for stream in (False, True)]
    killed = [case for case in cases if case.by == "kill"]
    await asyncio.gather(*[_take(place, steady.url, case, "before") for case in cases])
    await asyncio.gather(
        _kill(place, mortal, killed), *[_interrupt(place, steady.url, case) for case in cases if case not in killed]
    )
    script.calm = True
    await asyncio.gather(*[_go_on(place, mortal.url, case) for case in cases])


async def _interrupt(place: Place, url: str, case: Case) -> None:
    sending = asyncio.create_task(place.send(url, case, case.by, SHORT_S))
    if case.by == "hang-up":
        await _in_tool(place, [case])
        sending.cancel()
        await asyncio.wait([sending])
        await _outlive_lease(place, case)
        place.trial.saw("hang-up")
        return
    outcome = await sending
    told = "done" if outcome.done else outcome.slug
    place.trial.check(told == INTERRUPTED_BY[case.by], f"{case.session}: told {outcome.status} {told}")
    place.trial.saw(case.by)


async def _kill(place: Place, replica: Replica, cases: Sequence[Case]) -> None:
    """Kill the process while it waits for tools, start it again, and wait for the end of its leases."""
    sending = [asyncio.create_task(place.send(replica.url, case, case.by, SHORT_S)) for case in cases]
    await _in_tool(place, cases)
    replica.kill()
    outcomes = await asyncio.gather(*sending)
    place.trial.saw("kill", sum(outcome.cut for outcome in outcomes))
    await replica.process.wait()
    await replica.start()
    await replica.until_ready()
    await asyncio.gather(*[_outlive_lease(place, case) for case in cases])


async def _in_tool(place: Place, cases: Sequence[Case]) -> None:
    """Return when a tool of each session runs that does not end."""
    sessions = {case.session for case in cases}
    async with asyncio.timeout(REACH_S):
        while not sessions <= {each["session"] for each in runs(place.folder) if each["what"] == "tool"}:
            await asyncio.sleep(0.01)


async def _outlive_lease(place: Place, case: Case) -> None:
    """Return when nobody holds the session any more."""
    async with asyncio.timeout(REACH_S):
        while (lease_of(place.table, case.session) or 0) > time.time():
            await asyncio.sleep(0.05)


async def _take(place: Place, url: str, case: Case, message: str) -> None:
    outcome = await place.send(url, case, message)
    place.trial.check(outcome.done, f"{case.session}: {message} was told {outcome.status} {outcome.slug}")


async def _go_on(place: Place, url: str, case: Case) -> None:
    """Repeat what was interrupted and take one more turn; what is stored pairs each tool call with its result."""
    await _take(place, url, case, case.by)
    await _take(place, url, case, "after")
    turns = place.table.turns(case.session)
    place.trial.check(len(turns) == 3, f"{case.session}: {len(turns)} turns are stored")
    for item in turns:
        turn = unpack(int(item["turn"]["N"]), item["body"]["S"].encode())
        calls = [tool.id for tool in turn.tools if isinstance(tool, ToolCall)]
        results = [tool.id for tool in turn.tools if isinstance(tool, ToolResult)]
        place.trial.check(sorted(calls) == sorted(results), f"{case.session}: turn {turn.number} has open tool calls")
        place.trial.saw("tool calls stored", len(calls))
        place.trial.saw(f"turns ended by {turn.stop_reason}")


BAR = Bar(
    name="interrupted",
    promise="However a turn is interrupted in the middle of its tools, its session goes on and the model takes it.",
    control="the results of tools that were interrupted",
    run=run,
)
