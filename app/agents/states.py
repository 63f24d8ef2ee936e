"""A turn's messages, as its framework has them, in the bytes of its `State`."""

import json
from collections.abc import Sequence
from typing import Any

from pydantic_core import to_json


def pack(framework: str, messages: Sequence[object]) -> bytes:
    """Return the state that `unpack` reads, empty where the messages are nothing that JSON can carry."""
    document = {"format": framework, "messages": messages}
    try:
        return to_json(document, inf_nan_mode="constants", serialize_unknown=True)
    except ValueError:  # bytes that are no text, half of a surrogate pair
        return b""


def unpack(framework: str, state: bytes) -> list[Any] | None:
    """Return the messages in a state, or None where it holds none of this framework."""
    try:
        document = json.loads(state)
    except ValueError:
        return None
    if not isinstance(document, dict) or document.get("format") != framework:
        return None
    messages = document.get("messages")
    return messages if isinstance(messages, list) else None
