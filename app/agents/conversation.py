"""A session's turns as messages of the Messages API, and a turn's messages as the bytes of its `State`.

Whatever a history went through, what comes out here is valid: every tool call has its result in the next message, no
message is empty. An unpaired one would make the API refuse this turn and every later one.
"""

import hashlib
import json
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from itertools import accumulate
from typing import Any, TypeAlias

from app.events import ToolCall, Turn

Block: TypeAlias = dict[str, Any]
Message: TypeAlias = dict[str, Any]

FORMAT = b"messages-api/1"
# Bound to the model, the instructions and all messages before, so out of its own turn a thought may be refused. Without
# it the API takes the message. https://platform.claude.com/docs/en/build-with-claude/extended-thinking
THOUGHTS = {"thinking", "redacted_thinking"}
NOT_FINISHED = "This tool call was not finished."
CUT_SHORT = "(This answer was cut short.)"
BLANK = "(This message was blank.)"  # the API takes no text of white space only


def user(*blocks: Block) -> Message:
    """Return a message of the user."""
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Block) -> Message:
    """Return a message of the model."""
    return {"role": "assistant", "content": list(blocks)}


def text(words: str) -> Block:
    """Return a block of text."""
    return {"type": "text", "text": words}


def tool_result(call_id: str, result: str, *, ok: bool) -> Block:
    """Return what a tool gave back, for the model."""
    block = {"type": "tool_result", "tool_use_id": call_id, "content": result}
    return block if ok else block | {"is_error": True}


def question(message: str) -> Message:
    """Return the message that a turn begins with."""
    return user(text(message if message.strip() else BLANK))


def of_history(history: Sequence[Turn], tools: AbstractSet[str], max_bytes: int) -> list[Message]:
    """Return the messages of the newest turns, oldest first, in about `max_bytes` of JSON at most.

    The oldest turn moves in steps of a quarter to a half of what fits, and not with every turn: each move makes the API
    read again what its cache had. A refused turn is left out, because with it in sight the model goes on refusing.
    """
    fitting = sum(size <= max_bytes for size in accumulate(map(_size, reversed(history))))
    newest = history[len(history) - fitting :]
    step = max(2 ** (fitting // 2).bit_length() // 2, 1)  # a power of two, so that a start for one is one for smaller
    start = next((index for index, turn in enumerate(newest) if (turn.number - 1) % step == 0), 0)
    messages: list[Message] = []
    for turn in newest[start:]:
        if turn.stop_reason != "refusal":
            messages += _of_turn(turn, tools, {call["id"] for call in calls_of(messages)})
    return messages


def _of_turn(turn: Turn, tools: AbstractSet[str], used: AbstractSet[str]) -> list[Message]:
    """Return the messages of a done turn: those its state holds, else what its message and its answer amount to.

    The state is of no use where it calls what is not among `tools`, or under an id that was used before: the API takes
    neither.
    """
    messages = _unpack(turn.state)
    calls = calls_of(messages or ())
    ids = {call["id"] for call in calls}
    if not messages or not {call["name"] for call in calls} <= tools or ids & used or len(ids) < len(calls):
        return _neutral(turn)
    return messages


def plain_answer(turn: Turn) -> str:
    """Return what a model may be told of a turn whose steps are not at hand: never empty."""
    said = [turn.answer] if turn.answer.strip() else [CUT_SHORT]
    if called := sorted({tool.name for tool in turn.tools if isinstance(tool, ToolCall)}):
        said.append(f"(Tools called for this answer: {', '.join(called)})")
    return "\n\n".join(said)


def pack(messages: Sequence[Message]) -> bytes:
    """Return the state that `of_history` reads. It is sealed: after any change the state counts for nothing."""
    body = json.dumps(messages, ensure_ascii=False, separators=(",", ":")).encode()
    return _seal(body) + body


def repaired(messages: Sequence[Message]) -> list[Message]:
    """Return a turn's messages as they can be told later: a result for every tool call, no thought, nothing empty."""
    found: list[Message] = []
    open_calls: list[str] = []
    for message in messages:
        blocks = [block for block in message["content"] if block["type"] not in THOUGHTS]
        if message["role"] == "user":
            blocks = _answered(open_calls, blocks)
            open_calls = []
        elif open_calls:
            found.append(user(*_answered(open_calls, [])))
        if message["role"] == "assistant":
            open_calls = [call["id"] for call in calls_of([message])]
        if blocks:
            found.append({**message, "content": blocks})
    if open_calls:
        found.append(user(*_answered(open_calls, [])))
    return found


def _answered(calls: Sequence[str], blocks: Sequence[Block]) -> list[Block]:
    """Return the blocks of a user's message with exactly one result for each call, the results first."""
    results = {block.get("tool_use_id"): block for block in blocks if block.get("type") == "tool_result"}
    others = [block for block in blocks if block.get("type") != "tool_result"]
    return [results.get(call) or tool_result(call, NOT_FINISHED, ok=False) for call in calls] + others


def _unpack(state: bytes) -> list[Message] | None:
    """Return the messages in a state, or None where it is none of ours or was changed."""
    seal, end, body = state.partition(b"\n")
    if seal + end != _seal(body):
        return None
    messages: list[Message] = json.loads(body)
    return messages


def _seal(body: bytes) -> bytes:
    return b"%b %b\n" % (FORMAT, hashlib.sha256(body).hexdigest().encode())


def calls_of(messages: Sequence[Message]) -> list[Block]:
    """Return the tool calls in messages."""
    return [block for message in messages for block in message["content"] if block["type"] == "tool_use"]


def _neutral(turn: Turn) -> list[Message]:
    """Return a turn that another agent took, or that was cut short, without the steps that led to its answer."""
    return [question(turn.message), assistant(text(plain_answer(turn)))]


def _size(turn: Turn) -> int:
    """Return about how many bytes the turn's messages have. Bytes tell of tokens in any script, characters do not."""
    if turn.stop_reason == "refusal":
        return 0
    return len(turn.state) if turn.state.startswith(FORMAT) else len((turn.message + turn.answer).encode())
