"""A done turn as bytes and back: UTF-8 JSON, compressed where it is long."""

import base64
import zlib
from typing import Any

from pydantic_core import from_json, to_json

from app.errors import DamagedTurn, ResponseTooLarge
from app.events import ToolCall, ToolResult, Turn, Usage

COMPRESS_OVER_BYTES = 64 * 1024  # below, a readable table is worth more than the saved capacity
MAX_UNPACKED_BYTES = 4_000_000  # what compresses better is no conversation, and each later turn would unpack it again
MAX_BODY_BYTES = 390_000  # an item holds 400 KB with names and the other attributes; moto refuses at 405,000


def pack(turn: Turn) -> bytes:
    """Return the stored form of a done turn. Its number is the item's key and not in here.

    Raises:
        ResponseTooLarge: the turn does not fit into one item of the store.
    """
    document: dict[str, object] = {
        "message": turn.message,
        "answer": turn.answer,
        "stop_reason": turn.stop_reason,
        "usage": turn.usage,
    }
    if turn.tools:
        document["tools"] = turn.tools
    if turn.state:
        document["state"] = base64.b64encode(turn.state).decode()
    body = to_json(document)
    if len(body) > MAX_UNPACKED_BYTES:
        raise ResponseTooLarge("the turn is too large to be read again with each later one")
    if len(body) > COMPRESS_OVER_BYTES:
        body = zlib.compress(body)
    if len(body) > MAX_BODY_BYTES:
        raise ResponseTooLarge("the turn does not fit into one item of the session store")
    return body


def is_text(body: bytes) -> bool:
    """Return whether the packed turn is JSON text, as opposed to compressed (zlib starts with 0x78)."""
    return body.startswith(b"{")


def unpack(number: int, body: bytes) -> Turn:
    """Return the turn that `pack` wrote.

    Raises:
        DamagedTurn: this is not what `pack` wrote.
    """
    try:
        return _turn(number, from_json(body if is_text(body) else zlib.decompress(body)))
    except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as exc:
        raise DamagedTurn from exc


def _turn(number: int, document: dict[str, Any]) -> Turn:
    return Turn(
        number=number,
        message=document["message"],
        answer=document["answer"],
        tools=tuple(ToolCall(**tool) if "name" in tool else ToolResult(**tool) for tool in document.get("tools", ())),
        state=base64.b64decode(document.get("state", "")),
        stop_reason=document["stop_reason"],
        usage=Usage(**document["usage"]),
    )
