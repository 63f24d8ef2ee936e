"""A session's turns as messages of the Messages API, and a turn's messages as the bytes of its `State`.

Whatever a history went through, what comes out here is valid: every tool call has its result in the next message, no
message is empty. An unpaired one would make the API refuse this turn and every later one.
"""

import json
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any, TypeAlias

from app.events import ToolCall, Turn

Block: TypeAlias = dict[str, Any]
Message: TypeAlias = dict[str, Any]

FORMAT = "messages-api/1"
# Bound to the model, the instructions and all messages before, so out of its own turn a thought may be refused. Without
# it the API takes the message. https://platform.claude.com/docs/en/build-with-claude/extended-thinking
THOUGHTS = {"thinking", "redacted_thinking"}
TEXTS = {"text": ["text"], "tool_use": ["id", "name"], "tool_result": ["tool_use_id"]}  # what is read here of a block
NOT_FINISHED = "This tool call was not finished."
CUT_SHORT = "(This answer was cut short.)"


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


def of_history(history: Sequence[Turn], tools: AbstractSet[str], max_chars: int) -> list[Message]:
    """Return the messages of the newest turns, oldest first, in about `max_chars` characters of JSON at most.

    The oldest turn moves in steps of half the history and not with every turn: each move makes the API read again what
    its cache had. A refused turn is left out, because with it in sight the model goes on refusing.
    """
    turns = [turn for turn in history if turn.stop_reason != "refusal"]
    step = max(len(history) // 2, 1)
    numbers = [turn.number for turn in turns]
    sizes = {turn.number: _size(turn) for turn in turns}
    for start in [number for number in numbers if (number - 1) % step == 0] + numbers:
        if sum(size for number, size in sizes.items() if number >= start) <= max_chars:
            return [message for turn in turns if turn.number >= start for message in of_turn(turn, tools)]
    return []


def of_turn(turn: Turn, tools: AbstractSet[str]) -> list[Message]:
    """Return the messages of a done turn: those its state holds, else what its message and its answer amount to.

    The state is of no use where it calls tools that are not among `tools`: the API takes no calls of unknown ones.
    """
    messages = _unpack(turn.state)
    if messages is None or not _called(messages) <= tools:
        return _neutral(turn)
    return repaired(messages)


def pack(messages: Sequence[Message]) -> bytes:
    """Return the state that `of_turn` reads. Thoughts are left out, for they count within their turn only."""
    kept = [message | {"content": _without_thoughts(message["content"])} for message in messages]
    return json.dumps({"format": FORMAT, "messages": kept}, ensure_ascii=False, separators=(",", ":")).encode()


def repaired(messages: Sequence[Message]) -> list[Message]:
    """Return the messages with a result for every tool call, without results that no call asked for, no text empty."""
    found: list[Message] = []
    open_calls: list[str] = []
    for message in messages:
        blocks = [block for block in message["content"] if block.get("type") != "text" or block["text"].strip()]
        if message["role"] == "user":
            blocks = _answered(open_calls, blocks)
            open_calls = []
        elif open_calls:
            found.append(user(*_answered(open_calls, [])))
        if message["role"] == "assistant":
            open_calls = [block["id"] for block in blocks if block.get("type") == "tool_use"]
        if blocks:
            found.append(message | {"content": blocks})
    if open_calls:
        found.append(user(*_answered(open_calls, [])))
    return found


def _answered(calls: Sequence[str], blocks: Sequence[Block]) -> list[Block]:
    """Return the blocks of a user's message with exactly one result for each call, the results first."""
    results = {block.get("tool_use_id"): block for block in blocks if block.get("type") == "tool_result"}
    others = [block for block in blocks if block.get("type") != "tool_result"]
    return [results.get(call) or tool_result(call, NOT_FINISHED, ok=False) for call in calls] + others


def _unpack(state: bytes) -> list[Message] | None:
    """Return the messages in a state, or None where it holds none of this format."""
    try:
        document = json.loads(state)
    except ValueError:
        return None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        return None
    messages = document.get("messages")
    valid = isinstance(messages, list) and all(_is_message(each) for each in messages)
    return messages if valid else None


def _is_message(message: object) -> bool:
    if not isinstance(message, dict) or message.get("role") not in ("user", "assistant"):
        return False
    blocks = message.get("content")
    return isinstance(blocks, list) and all(
        isinstance(each, dict)
        and all(isinstance(each.get(name), str) for name in TEXTS.get(str(each.get("type")), ["type"]))
        for each in blocks
    )


def _called(messages: Sequence[Message]) -> set[str]:
    return {block["name"] for message in messages for block in message["content"] if block.get("type") == "tool_use"}


def _neutral(turn: Turn) -> list[Message]:
    """Return a turn that another agent took, or that was cut short, without the steps that led to its answer."""
    said = [turn.answer] if turn.answer.strip() else [CUT_SHORT]
    if called := sorted({tool.name for tool in turn.tools if isinstance(tool, ToolCall)}):
        said.append(f"(Tools called for this answer: {', '.join(called)})")
    return [user(text(turn.message)), assistant(text("\n\n".join(said)))]


def _without_thoughts(blocks: Sequence[Block]) -> list[Block]:
    return [block for block in blocks if block.get("type") not in THOUGHTS]


def _size(turn: Turn) -> int:
    """Return about how many characters the turn's messages have."""
    return len(turn.state) or len(turn.message) + len(turn.answer) + sum(len(str(tool)) for tool in turn.tools)
