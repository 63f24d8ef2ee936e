"""A turn's messages, as its framework has them, in the bytes of its `State`."""

import json
from collections.abc import Sequence
from typing import Any

from pydantic_core import to_json


def pack(framework: str, messages: Sequence[object]) -> bytes:
    """Return the state that `unpack` reads. What is no JSON in the messages is kept as the text that describes it."""
    document = {"format": framework, "messages": messages}
    return to_json(document, inf_nan_mode="constants", serialize_unknown=True)


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
