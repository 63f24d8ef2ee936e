"""The agents and clients that are compared, each as its documentation shows it, with one async tool, streaming.

Each factory imports what it is about, because imports are measured, and takes the address of a canned model.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, TypeAlias

Take: TypeAlias = Callable[[str], Awaitable[None]]  # a whole turn, or with a client a whole model call
Factory: TypeAlias = Callable[[str], Awaitable[Take]]

KEY = "benchmark"
MODEL = "claude-sonnet-5-5"
INSTRUCTIONS = "Be brief."
OUTPUT_TOKENS = 1000
FAR_S = 3600.0


async def weather(city: str) -> str:
    """Return the weather of a city."""
    return f"Sun in {city}."


async def claude(url: str) -> Take:
    """Return turns of the built-in agent."""
    import asyncio  # noqa: PLC0415

    from app.agents import OpenTurn  # noqa: PLC0415
    from app.agents.claude import Claude, Limits  # noqa: PLC0415
    from app.agents.messages_api import MessagesAPI  # noqa: PLC0415
    from app.agents.prices import price_of  # noqa: PLC0415
    from app.agents.tools import Toolbox  # noqa: PLC0415

    agent = Claude(
        MessagesAPI(url, KEY),
        MODEL,
        instructions=INSTRUCTIONS,
        toolbox=Toolbox([weather]),
        limits=Limits(OUTPUT_TOKENS),
        price=price_of(MODEL),
    )
    await agent.__aenter__()

    async def take(message: str) -> None:
        deadline = asyncio.get_running_loop().time() + FAR_S
        async with aclosing(agent(OpenTurn(message, (), b"", 1, "s", "p", 20, deadline))) as events:  # type: ignore[type-var]
            async for _ in events:
                pass

    return take


async def pydantic_ai(url: str) -> Take:
    """Return turns of a pydantic-ai Agent on its Anthropic provider."""
    from pydantic_ai import Agent  # noqa: PLC0415
    from pydantic_ai.models.anthropic import AnthropicModel  # noqa: PLC0415
    from pydantic_ai.providers.anthropic import AnthropicProvider  # noqa: PLC0415

    model = AnthropicModel(MODEL, provider=AnthropicProvider(api_key=KEY, base_url=url))
    agent = Agent(model, instructions=INSTRUCTIONS, tools=[weather])

    async def take(message: str) -> None:
        async with agent.run_stream_events(message) as events:
            async for _ in events:
                pass

    return take


async def langgraph(url: str) -> Take:
    """Return turns of a LangGraph graph on LangChain's Anthropic model."""
    from langchain_anthropic import ChatAnthropic  # noqa: PLC0415
    from langchain_core.tools import tool  # noqa: PLC0415
    from langgraph.graph import START, MessagesState, StateGraph  # noqa: PLC0415
    from langgraph.prebuilt import ToolNode, tools_condition  # noqa: PLC0415

    tools = [tool(weather)]
    model: Any = ChatAnthropic(model=MODEL, base_url=url, api_key=KEY, max_tokens=OUTPUT_TOKENS).bind_tools(tools)

    async def think(state: MessagesState) -> dict[str, object]:
        return {"messages": [await model.ainvoke([("system", INSTRUCTIONS), *state["messages"]])]}

    graph = StateGraph(MessagesState)
    graph.add_node("think", think)
    graph.add_node("tools", ToolNode(tools))
    graph.add_edge(START, "think")
    graph.add_conditional_edges("think", tools_condition)
    graph.add_edge("tools", "think")
    agent: Any = graph.compile()

    async def take(message: str) -> None:
        async for _ in agent.astream({"messages": [("user", message)]}, stream_mode=["messages", "updates"]):
            pass

    return take


async def strands(url: str) -> Take:
    """Return turns of a Strands Agent on its Anthropic model, each with nothing of the one before, one at a time."""
    from strands import Agent, tool  # noqa: PLC0415
    from strands.models.anthropic import AnthropicModel  # noqa: PLC0415

    options = {"api_key": KEY, "base_url": url}
    model = AnthropicModel(client_args=options, model_id=MODEL, max_tokens=OUTPUT_TOKENS)
    agent = Agent(model, tools=[tool(weather)], system_prompt=INSTRUCTIONS, callback_handler=None)

    async def take(message: str) -> None:
        agent.messages.clear()
        async for _ in agent.stream_async(message):
            pass

    return take


async def openai_agents(url: str) -> Take:
    """Return turns of openai-agents, on the same model behind Chat Completions."""
    from agents import (  # type: ignore[import-not-found]  # noqa: PLC0415
        Agent,
        OpenAIChatCompletionsModel,
        Runner,
        function_tool,
        set_tracing_disabled,
    )
    from openai import AsyncOpenAI  # type: ignore[import-not-found]  # noqa: PLC0415

    set_tracing_disabled(disabled=True)
    model = OpenAIChatCompletionsModel(MODEL, AsyncOpenAI(api_key=KEY, base_url=f"{url}/v1"))
    agent = Agent("benchmark", instructions=INSTRUCTIONS, model=model, tools=[function_tool(weather)])

    async def take(message: str) -> None:
        async for _ in Runner.run_streamed(agent, message, max_turns=20).stream_events():
            pass

    return take


def _request(message: str) -> dict[str, Any]:
    return {
        "model": MODEL,
        "max_tokens": OUTPUT_TOKENS,
        "system": INSTRUCTIONS,
        "messages": [{"role": "user", "content": [{"type": "text", "text": message}]}],
        "cache_control": {"type": "ephemeral"},
    }


async def client(url: str) -> Take:
    """Return model calls of our client, the message put together."""
    import asyncio  # noqa: PLC0415

    from app.agents.messages_api import MessagesAPI  # noqa: PLC0415
    from app.agents.reply import Reply  # noqa: PLC0415

    api = await MessagesAPI(url, KEY).__aenter__()

    async def take(message: str) -> None:
        reply, deadline = Reply(), asyncio.get_running_loop().time() + FAR_S
        async with aclosing(api.stream({**_request(message), "stream": True}, deadline)) as events:
            async for event in events:
                reply.take(event)
        assert reply.blocks

    return take


async def sdk(url: str) -> Take:
    """Return model calls of the official SDK, the message put together."""
    from anthropic import AsyncAnthropic  # noqa: PLC0415

    api = AsyncAnthropic(base_url=url, api_key=KEY)

    async def take(message: str) -> None:
        async with api.messages.stream(**_request(message)) as stream:
            async for _ in stream.text_stream:
                pass
            assert (await stream.get_final_message()).content

    return take


async def sdk_events(url: str) -> Take:
    """Return model calls of the official SDK that only look at the events."""
    from anthropic import AsyncAnthropic  # noqa: PLC0415

    api = AsyncAnthropic(base_url=url, api_key=KEY)

    async def take(message: str) -> None:
        async with await api.messages.create(**_request(message), stream=True) as events:
            async for _ in events:
                pass

    return take


# The frameworks by name: what makes their turns, and the packages that must be there, its own first.
FRAMEWORKS: dict[str, tuple[Factory, tuple[str, ...]]] = {
    "pydantic-ai": (pydantic_ai, ("pydantic-ai-slim", "anthropic")),
    "LangGraph": (langgraph, ("langgraph", "langchain-anthropic")),
    "Strands": (strands, ("strands-agents", "anthropic")),
    "openai-agents": (openai_agents, ("openai-agents",)),
}


def version(packages: Sequence[str]) -> str | None:
    """Return the version of the first of the packages; None where one of them is not installed."""
    import importlib.metadata  # noqa: PLC0415

    try:
        found = list(map(importlib.metadata.version, packages))
    except importlib.metadata.PackageNotFoundError:
        return None
    return found[0]
