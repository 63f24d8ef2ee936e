"""What one framework alone needs looking after."""

from collections.abc import AsyncIterator

import pydantic_ai
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from pydantic_ai import messages
from pydantic_ai.models.function import AgentInfo, FunctionModel

from app.agents import from_langgraph, from_pydantic_ai
from tests.conformance.agents.langchain_model import ScriptedChatModel
from tests.conformance.agents.rig import Sessions
from tests.conformance.agents.script import Script

pytestmark = pytest.mark.anyio


async def test_langgraphs_checkpointer_keeps_nothing_of_a_turn() -> None:
    script, saver = Script(), InMemorySaver()
    model = ScriptedChatModel(script=script)

    async def think(state: MessagesState) -> dict[str, object]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("think", think)
    graph.add_edge(START, "think")
    sessions = Sessions(from_langgraph.adapt(graph.compile(checkpointer=saver)))
    await sessions.turn("one")
    assert (await sessions.turn("two")).answer == "one two "
    assert not saver.storage


async def test_a_call_that_a_graph_leaves_open_is_closed_in_the_next_turn() -> None:
    script = Script()
    model = ScriptedChatModel(script=script)

    async def think(state: MessagesState) -> dict[str, object]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)  # nobody runs the tools
    graph.add_node("think", think)
    graph.add_edge(START, "think")
    sessions = Sessions(from_langgraph.adapt(graph.compile()))
    await sessions.turn("time")
    await sessions.turn("two")
    assert [role for role, text in script.asked[-1] if text] == ["user", "call", "result", "user"]


async def test_pydantic_ai_sees_the_system_prompt_in_every_turn_and_no_state_holds_it() -> None:
    seen: list[int] = []

    async def stream(history: list[messages.ModelMessage], _: AgentInfo) -> AsyncIterator[str]:
        seen.append(str(history).count("canary"))
        yield "hello"

    agent = pydantic_ai.Agent(FunctionModel(stream_function=stream), system_prompt="canary")
    sessions = Sessions(from_pydantic_ai.adapt(agent))
    turns = [await sessions.turn(word) for word in ("one", "two", "three")]
    assert seen == [1, 1, 1]
    assert all(b"canary" not in turn.state for turn in turns)
