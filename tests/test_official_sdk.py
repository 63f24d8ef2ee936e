"""The official SDK as a reference: it and our client send the same requests and read the same messages."""

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from app.agents.messages_api import MessagesAPI
from app.agents.reply import Reply
from app.agents.tools import Request, Toolbox, ToolKey
from tests import model_tools
from tests.fake_model import FakeModel
from tests.model_script import USAGE, Call, Other, Part, Script, Thought, says
from tests.with_model import KEY, MODEL, talking

anthropic = pytest.importorskip("anthropic")
pytestmark = pytest.mark.anyio

TOOLS = Toolbox(model_tools.tools)
SYSTEM = "Be brief."


def conversation() -> list[Script]:
    """Two turns with thoughts, texts, parallel calls, a call that fails, and a block of an unknown kind."""
    city, item = Call("weather", {"city": "Köln", "days": 2}), Call("stock", {"item": "tea"})
    return [
        says(Thought("first this"), "Let me", " see.", city, item),
        says(Thought(redacted=True), Other({"type": "hologram", "data": {"x": [1]}}), Call("failing", {"text": "x"})),
        says("Sun! ☀"),
        says("You are welcome."),
    ]


async def reference(url: str, messages: list[dict[str, Any]]) -> str:
    """Hold one turn with the SDK, as its documentation shows it; `messages` grows. Return the answer."""
    said = ""
    async with anthropic.AsyncAnthropic(base_url=url, api_key=KEY, max_retries=0) as client:
        while True:
            async with client.messages.stream(
                model=MODEL,
                max_tokens=1000,
                system=SYSTEM,
                messages=messages,
                tools=TOOLS.definitions,
                cache_control={"type": "ephemeral"},
            ) as stream:
                async for text in stream.text_stream:
                    said += text
                message = await stream.get_final_message()
            messages.append({"role": "assistant", "content": blocks_of(message)})
            if message.stop_reason != "tool_use":
                return said
            messages.append({"role": "user", "content": await results(messages[-1]["content"])})


async def results(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    calls = [Request(each["id"], each["name"], each["input"], ToolKey("")) for each in blocks if "input" in each]
    found = {}
    async with aclosing(TOOLS.run(calls, asyncio.get_running_loop().time() + 5)) as outcomes:
        async for each in outcomes:
            error = {} if each.ok else {"is_error": True}
            found[each.id] = {"type": "tool_result", "tool_use_id": each.id, "content": each.text, **error}
    return [found[call.id] for call in calls]


def blocks_of(message: Any) -> list[dict[str, Any]]:
    return [block.to_dict(mode="json") for block in message.content]


async def test_a_turn_with_tools_makes_the_same_requests_and_the_same_answer() -> None:
    async with FakeModel(*conversation()) as model, talking(*conversation(), instructions=SYSTEM) as talk:
        theirs = await reference(model.url, [{"role": "user", "content": [{"type": "text", "text": "Weather?"}]}])
        ours = (await talk.ask("Weather?")).json
    assert (ours["answer"], ours["usage"]["steps"]) == (theirs, 3)
    assert [request.body for request in talk.model.requests] == [request.body for request in model.requests]
    assert talk.model.refused == model.refused == []


async def test_the_headers_say_the_same_and_differ_in_two_known_ways() -> None:
    async with FakeModel() as model, talking() as talk:
        await reference(model.url, [{"role": "user", "content": "hello"}])
        await talk.ask()
    [theirs], [ours] = [each.headers for each in model.requests], [each.headers for each in talk.model.requests]
    assert ours["content-type"] == theirs["content-type"]
    assert f"Bearer {ours['x-api-key']}" == theirs["authorization"]  # the API takes the key in either header
    assert (ours["anthropic-version"], theirs["anthropic-version"]) == ("2023-06-01", "2026-10-21")


MESSAGES: dict[str, tuple[tuple[Part, ...], dict[str, Any]]] = {
    "text": (("Hel", "lo"), {}),
    "nothing": ((), {}),
    "call without arguments": ((Call("stock", ""),), {}),
    "calls": (("hm", Call("stock", {"item": "ü", "n": [1, {"a": None}]}), Call("weather", {"city": "Bonn"})), {}),
    "thoughts": ((Thought("long thought"), Thought(redacted=True), "so"), {}),
    "unknown block": ((Other({"type": "hologram", "data": {"x": [1]}}), "so"), {}),
    "server tool": ((Other({"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}}),), {}),
    "pause": (("hm",), {"stop_reason": "pause_turn"}),
    "unknown reason": (("hm",), {"stop_reason": "unheard_of"}),
    "cached": (("hm",), {"usage": USAGE | {"cache_read_input_tokens": 7, "cache_creation_input_tokens": 8}}),
    "new usage": (("hm",), {"usage": USAGE | {"server_tool_use": {"web_search_requests": 1}, "cache_creation": None}}),
}


@pytest.mark.parametrize("case", MESSAGES)
async def test_a_stream_is_read_as_the_same_message(case: str) -> None:
    parts, options = MESSAGES[case]
    request = {"model": MODEL, "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}
    reply, limit = Reply(), asyncio.get_running_loop().time() + 5
    async with FakeModel(says(*parts, **options), says(*parts, **options)) as model:
        async with (
            MessagesAPI(model.url, KEY) as api,
            aclosing(api.stream(request | {"stream": True}, limit)) as events,
        ):
            said = "".join([reply.take(event) async for event in events])
        async with (
            anthropic.AsyncAnthropic(base_url=model.url, api_key=KEY, max_retries=0) as client,
            client.messages.stream(**request) as stream,
        ):
            message = await stream.get_final_message()
    assert without_names(reply.blocks) == without_names(blocks_of(message))
    assert reply.stop_reason == message.stop_reason
    assert said == "".join(block.text for block in message.content if block.type == "text")
    for name in ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"):
        assert reply.count(name) == getattr(message.usage, name)


def without_names(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the blocks without what the fake server makes anew for each answer."""
    return [
        {name: value for name, value in block.items() if name not in ("id", "signature", "data")} for block in blocks
    ]
