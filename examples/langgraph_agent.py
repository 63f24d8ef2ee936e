"""A LangGraph graph: `AGENT=examples.langgraph_agent:agent`. It needs `langchain-anthropic` and ANTHROPIC_API_KEY."""

from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from app.agents.basic_tools import calculator, clock

TOOLS = [tool(clock), tool(calculator)]


def build(model: BaseChatModel) -> CompiledStateGraph[MessagesState]:
    """Return a graph that lets the model use the tools until it has an answer."""
    with_tools = model.bind_tools(TOOLS)

    async def think(state: MessagesState) -> dict[str, object]:
        return {"messages": [await with_tools.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("think", think)
    graph.add_node("tools", ToolNode(TOOLS))
    graph.add_edge(START, "think")
    graph.add_conditional_edges("think", tools_condition)
    graph.add_edge("tools", "think")
    return graph.compile()


agent = build(ChatAnthropic(model="claude-sonnet-5-5"))
