"""The script behind the Messages API: a server that lives as long as a turn, on the test's own event loop."""

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

from aiohttp import web

from tests.conformance.agents.script import Call, Said, Script

USAGE = {"input_tokens": 40, "output_tokens": 1, "cache_read_input_tokens": 10, "cache_creation_input_tokens": 0}


@asynccontextmanager
async def serving(script: Script) -> AsyncIterator[str]:
    """Yield the address of a server that answers what the script says."""

    async def messages(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        async with aclosing(_events(script, (await request.json())["messages"])) as events:
            async for event in events:
                await response.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
        return response

    app = web.Application()
    app.router.add_post("/v1/messages", messages)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1.0)  # a hang-up ends the script
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield "http://{}:{}".format(*runner.addresses[0])
    finally:
        await runner.cleanup()


async def _events(script: Script, history: Sequence[Any]) -> Any:
    yield {"type": "message_start", "message": {"role": "assistant", "content": [], "usage": USAGE}}
    index, called = 0, False
    async with aclosing(script.answer(list(_said(history)))) as pieces:
        async for piece in pieces:
            called = isinstance(piece, Call)
            for event in _block(index, piece):
                yield event
            index += 1
    reason = "tool_use" if called else "end_turn"
    yield {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 2}}
    yield {"type": "message_stop"}


def _block(index: int, piece: str | Call) -> Iterator[dict[str, Any]]:
    if isinstance(piece, Call):
        block: dict[str, Any] = {"type": "tool_use", "id": piece.id, "name": "clock", "input": {}}
        delta = {"type": "input_json_delta", "partial_json": "{}"}
    else:
        block = {"type": "text", "text": ""}
        delta = {"type": "text_delta", "text": piece}
    yield {"type": "content_block_start", "index": index, "content_block": block}
    yield {"type": "content_block_delta", "index": index, "delta": delta}
    yield {"type": "content_block_stop", "index": index}


def _said(history: Sequence[Any]) -> Iterator[Said]:
    for message in history:
        if text := "".join(block.get("text", "") for block in message["content"]):
            yield ("user" if message["role"] == "user" else "model"), text
        for block in message["content"]:
            if block["type"] == "tool_use":
                yield "call", block["id"]
            elif block["type"] == "tool_result":
                yield "result", block["content"]
