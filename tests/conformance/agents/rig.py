"""The agents under test, and sessions to hold with them."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, aclosing, contextmanager
from dataclasses import dataclass

from app import turn_log
from app.agents import Agent, OpenTurn, from_langgraph, from_pydantic_ai, from_strands
from app.agents.basic_tools import clock
from app.agents.echo import echo
from app.budgets import Budgets, Limit
from app.events import AgentEvent, Turn, TurnDone, TurnEvent
from app.running import RunningTurn
from app.sessions import SessionKey
from app.sessions.claims import Claims
from app.turns import TurnRequest, TurnService
from examples import langgraph_agent, pydantic_ai_agent, strands_agent, ten_lines
from tests.conformance.agents.langchain_model import ScriptedChatModel
from tests.conformance.agents.messages_model import serving
from tests.conformance.agents.pydantic_ai_model import model_of
from tests.conformance.agents.script import Script
from tests.conformance.agents.strands_model import ScriptedModel
from tests.memory_store import MemoryStore
from tests.with_model import claude

MAX_STEPS = 3
PATIENCE_S = 10.0
HEARTBEAT_S = 60.0


@dataclass(frozen=True, slots=True)
class Subject:
    """An agent and what it can do.

    remembers:   its answer depends on the turns before
    script:      the model it calls, None where it calls none
    """

    agent: Agent
    remembers: bool
    script: Script | None


@contextmanager
def _echo() -> Iterator[Subject]:
    yield Subject(echo, remembers=False, script=None)


@contextmanager
def _ten_lines() -> Iterator[Subject]:
    yield Subject(ten_lines.agent, remembers=True, script=None)


@contextmanager
def _claude() -> Iterator[Subject]:
    script = Script()

    async def agent(turn: OpenTurn) -> AsyncIterator[AgentEvent]:
        async with (
            serving(script) as url,
            claude(url, functions=[clock]) as built_in,
            aclosing(built_in(turn)) as events,  # type: ignore[type-var]  # it is a generator
        ):
            async for event in events:
                yield event

    yield Subject(agent, remembers=True, script=script)


@contextmanager
def _pydantic_ai() -> Iterator[Subject]:
    script = Script()
    with pydantic_ai_agent.agent.override(model=model_of(script)):
        yield Subject(from_pydantic_ai.adapt(pydantic_ai_agent.agent), remembers=True, script=script)


@contextmanager
def _langgraph() -> Iterator[Subject]:
    script = Script()
    graph = langgraph_agent.build(ScriptedChatModel(script=script))
    yield Subject(from_langgraph.adapt(graph), remembers=True, script=script)


@contextmanager
def _strands() -> Iterator[Subject]:
    script = Script()
    yield Subject(from_strands.adapt(strands_agent.build(ScriptedModel(script))), remembers=True, script=script)


# Every agent there is. One with a model speaks the script of `script.py`.
SUBJECTS: dict[str, Callable[[], AbstractContextManager[Subject]]] = {
    "echo": _echo,
    "ten lines": _ten_lines,
    "claude": _claude,
    "pydantic-ai": _pydantic_ai,
    "langgraph": _langgraph,
    "strands": _strands,
}
WITH_MODEL = ["claude", "pydantic-ai", "langgraph", "strands"]
WITHOUT_MODEL = ["echo", "ten lines"]


class Sessions:
    """Sessions with one agent, through the turn service."""

    def __init__(self, agent: Agent, max_steps: int = MAX_STEPS, limit: Limit = Limit()) -> None:  # noqa: B008 frozen
        self._store = MemoryStore()
        claims = Claims(self._store, 20, 60, time.time)
        self._turns = TurnService(claims, agent, max_steps, turn_log.write, None, Budgets(claims, limit))

    def start(self, message: str, session: str = "s", timeout_s: float = PATIENCE_S) -> RunningTurn:
        deadline = asyncio.get_running_loop().time() + timeout_s
        return self._turns.start(TurnRequest(SessionKey("p", session), message, None, PATIENCE_S, deadline))

    async def turn(self, message: str, session: str = "s", timeout_s: float = PATIENCE_S) -> Turn:
        return done(await events_of(self.start(message, session, timeout_s)))


async def events_of(running: RunningTurn) -> list[TurnEvent]:
    return [event async for batch in running.batches(HEARTBEAT_S) for event in batch]


def done(events: list[TurnEvent]) -> Turn:
    [turn] = [event.turn for event in events if isinstance(event, TurnDone)]
    return turn


def opened(message: str, *history: Turn, max_steps: int = MAX_STEPS) -> OpenTurn:
    """Return a turn as the service hands it over."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    state = next((each.state for each in reversed(history) if each.state), b"")
    return OpenTurn(message, history, state, len(history) + 1, "s", "p", max_steps, deadline)
