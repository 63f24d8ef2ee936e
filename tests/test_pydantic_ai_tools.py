"""AGENT_TOOLS behind pydantic-ai: the same functions, the same keys, the same words for what went wrong."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

import pydantic_ai
import pytest
from pydantic_ai import messages
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, DeltaToolCalls, FunctionModel

from app.agents import OpenTurn, from_pydantic_ai
from app.agents.tools import ToolKey
from app.events import AgentEvent, Stop, ToolResult, Usage
from tests.conformance.agents.pydantic_ai_model import model_of
from tests.conformance.agents.script import Script

pytestmark = pytest.mark.anyio


def clock(key: ToolKey) -> str:
    """Return the key."""
    return key


keyed = [clock]


async def results(agent: from_pydantic_ai.PydanticAI, session: str) -> list[ToolResult]:
    turn = OpenTurn("again", [], b"", 1, session, "p", 2, asyncio.get_running_loop().time() + 10)
    async with aclosing(agent(turn)) as events:  # type: ignore[type-var]  # it is a generator
        return [event async for event in events if isinstance(event, ToolResult)]


async def test_a_tool_key_is_the_same_in_a_retry_and_no_other() -> None:
    agent = from_pydantic_ai.built_in("test", None, f"{__name__}:keyed")
    assert isinstance(agent, from_pydantic_ai.PydanticAI)
    with agent.agent.override(model=model_of(Script())):
        first, again, other = [await results(agent, session) for session in ("s", "s", "t")]
    assert [each.result for each in first] == [each.result for each in again]
    keys = {str(each.result) for each in first + other}
    assert len(keys) == 4
    assert {len(key) for key in keys} == {32}


async def test_the_budget_of_a_turn_ends_it() -> None:
    agent = from_pydantic_ai.built_in("test", None, f"{__name__}:keyed", output_tokens=100)
    assert isinstance(agent, from_pydantic_ai.PydanticAI)
    assert agent.agent.model_settings == {"max_tokens": 100}
    turn = OpenTurn("hello", [], b"", 1, "s", "p", 2, asyncio.get_running_loop().time() + 10, max_tokens=1)
    with agent.agent.override(model=model_of(Script())):
        async with aclosing(agent(turn)) as events:  # type: ignore[type-var]  # it is a generator
            *_, last = [event async for event in events]
    assert isinstance(last, Stop)
    assert last.reason == "budget"


async def test_a_run_that_fails_after_its_model_calls_tells_what_they_used() -> None:
    async def answer(_: Sequence[messages.ModelMessage], __: AgentInfo) -> AsyncIterator[str]:
        yield "words that do not fit"

    agent = pydantic_ai.Agent(FunctionModel(stream_function=answer), retries=2)

    @agent.output_validator
    def never(_: str) -> str:
        raise pydantic_ai.ModelRetry("no")

    turn = OpenTurn("hello", [], b"", 1, "s", "p", 8, asyncio.get_running_loop().time() + 10)
    told: list[AgentEvent] = []

    async def run() -> None:
        async with aclosing(from_pydantic_ai.adapt(agent)(turn)) as events:  # type: ignore[type-var]  # a generator
            async for event in events:
                told.append(event)  # noqa: PERF401 kept when it raises

    with pytest.raises(pydantic_ai.UnexpectedModelBehavior):
        await run()
    usages = [each for each in told if isinstance(each, Usage)]
    assert [each.steps for each in usages] == [0, 1, 2, 3]
    assert usages[-1].output_tokens > 0


async def test_no_model_call_follows_one_that_used_exactly_what_the_turn_may() -> None:
    async def ask(_: Sequence[messages.ModelMessage], __: AgentInfo) -> AsyncIterator[DeltaToolCalls]:
        yield {0: DeltaToolCall(name="clock", json_args="{}", tool_call_id=uuid.uuid4().hex)}

    agent = pydantic_ai.Agent(FunctionModel(stream_function=ask))

    @agent.tool_plain(name="clock")
    def noon() -> str:
        return "noon"

    async def usage(max_tokens: int) -> Usage | None:
        deadline = asyncio.get_running_loop().time() + 10
        turn = OpenTurn("hello", [], b"", 1, "s", "p", 8, deadline, max_tokens=max_tokens)
        async with aclosing(from_pydantic_ai.adapt(agent)(turn)) as events:  # type: ignore[type-var]  # a generator
            *_, last = [event async for event in events]
        assert isinstance(last, Stop)
        return last.usage

    one = await usage(1)
    assert one
    assert await usage(one.input_tokens + one.output_tokens) == one
