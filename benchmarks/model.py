"""`python -m benchmarks.model FD`: a model that answers at once, over the Messages API and over Chat Completions.

What it says is in the conversation: `calls=4 tokens=20 pause_ms=0` asks for four tool calls, one a model call, then
20 tokens with so long a pause after each. Without it the model says 20 tokens. Nothing is checked, nothing is kept.
"""

import asyncio
import json
import re
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

ASKED = re.compile(r"calls=(\d+) tokens=(\d+) pause_ms=(\d+)")
LENGTH = re.compile(rb"(?i)content-length: *(\d+)")
HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"request-id: req_1\r\ntransfer-encoding: chunked\r\n\r\n"
)
WORD = " token"
TOOL = "weather"


@dataclass(frozen=True)
class Asked:
    """What a request asks for: the number of its next tool call, or so many tokens."""

    call: int | None
    tokens: int
    pause_s: float


def read(body: bytes) -> Asked:
    """Return what the request asks for."""
    messages = json.loads(body)["messages"]
    found = ASKED.search(body.decode())
    calls, tokens, pause_ms = map(int, found.groups()) if found else (0, 20, 0)
    done = sum(map(_results, messages))
    return Asked(done if done < calls else None, tokens, pause_ms / 1000)


def _results(message: dict[str, Any]) -> int:
    """Return how many results of tools a message holds, in either API."""
    if message["role"] == "tool":
        return 1
    content = message["content"]
    return sum(block["type"] == "tool_result" for block in content) if isinstance(content, list) else 0


def of_messages(asked: Asked) -> Iterator[bytes]:
    """Yield the frames of a message of the Messages API."""
    for event in _events(asked):
        yield f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


def _events(asked: Asked) -> Iterator[dict[str, Any]]:
    usage = {"input_tokens": 50, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 1}
    message: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-5-5",
        "content": [],
    }
    end: dict[str, Any] = {"stop_reason": None, "stop_sequence": None}
    yield {"type": "message_start", "message": {**message, **end, "usage": usage}}
    block: dict[str, Any] = {"type": "text", "text": ""}
    deltas: list[dict[str, Any]] = [{"type": "text_delta", "text": WORD}] * asked.tokens
    if asked.call is not None:
        block = {"type": "tool_use", "id": f"toolu_{asked.call}", "name": TOOL, "input": {}}
        deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in _arguments(asked.call)]
    yield {"type": "content_block_start", "index": 0, "content_block": block}
    for delta in deltas:
        yield {"type": "content_block_delta", "index": 0, "delta": delta}
    yield {"type": "content_block_stop", "index": 0}
    reason = "end_turn" if asked.call is None else "tool_use"
    yield {"type": "message_delta", "delta": {**end, "stop_reason": reason}, "usage": {"output_tokens": asked.tokens}}
    yield {"type": "message_stop"}


def of_chat_completions(asked: Asked) -> Iterator[bytes]:
    """Yield the frames of a message of Chat Completions."""
    if asked.call is None:
        deltas: list[dict[str, Any]] = [{"content": WORD}] * asked.tokens
    else:
        first, second = _arguments(asked.call)
        name = {"id": f"call_{asked.call}", "type": "function", "function": {"name": TOOL, "arguments": first}}
        deltas = [{"tool_calls": [{"index": 0, **name}]}]
        deltas += [{"tool_calls": [{"index": 0, "function": {"arguments": second}}]}]
    choices: list[dict[str, Any]] = [
        {"delta": delta, "finish_reason": None} for delta in [{"role": "assistant", "content": ""}, *deltas]
    ]
    choices += [{"delta": {}, "finish_reason": "stop" if asked.call is None else "tool_calls"}]
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt"}
    usage = {"prompt_tokens": 50, "completion_tokens": asked.tokens, "total_tokens": 50 + asked.tokens}
    for choice in choices:
        yield b"data: %b\n\n" % json.dumps({**chunk, "choices": [{"index": 0, **choice}]}).encode()
    yield b"data: %b\n\n" % json.dumps({**chunk, "choices": [], "usage": usage}).encode()
    yield b"data: [DONE]\n\n"


def _arguments(call: int) -> tuple[str, str]:
    """Return the arguments of a tool call in two pieces; no two calls of a turn are the same."""
    return '{"city": ', f'"Bonn {call}"}}'


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer what comes over one connection."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = LENGTH.search(head)
            asked = read(await reader.readexactly(int(length[1]) if length else 0))
            frames = of_messages(asked) if b"/messages" in head.partition(b"\r\n")[0] else of_chat_completions(asked)
            await _send(writer, frames, asked.pause_s)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def _send(writer: asyncio.StreamWriter, frames: Iterator[bytes], pause_s: float) -> None:
    """Send the frames, each in a chunk of its own: in one piece, or one by one."""
    chunks = [b"%x\r\n%b\r\n" % (len(frame), frame) for frame in frames]
    if not pause_s:
        writer.write(b"".join([HEAD, *chunks, b"0\r\n\r\n"]))
        return
    writer.write(HEAD)
    for chunk in chunks:
        writer.write(chunk)
        await writer.drain()
        await asyncio.sleep(pause_s)
    writer.write(b"0\r\n\r\n")


async def main(descriptor: int) -> None:
    """Serve until killed."""
    server = await asyncio.start_server(answer, sock=socket.socket(fileno=descriptor))
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
