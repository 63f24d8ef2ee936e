"""A model that stalls, drips or asks to retry later, as the last message of a conversation wishes."""

from collections.abc import Mapping
from typing import Any

from tests.messages_rules import Issued
from tests.model_script import Answer, Call, Fault, Script, before_the_status, broken, error, says

# What the model does, and what a turn then tells: a stop reason, or the slug of a problem.
FAULTS: Mapping[str, tuple[Script, str]] = {
    "no status": (before_the_status(Fault.STALL), "deadline-exceeded"),
    "no word": (broken("message_start", Fault.STALL), "deadline-exceeded"),
    "silence": (broken("content_block_delta", Fault.STALL), "deadline"),
    "drip": (broken("content_block_delta", Fault.DRIP), "deadline"),
    "later": (error(429, "rate_limit_error", retry_after="120"), "model-rate-limited"),
    "soon": (error(529, "overloaded_error", retry_after="2"), "model-overloaded"),
    "stuck tool": (says("let me see", Call("stuck", {})), "deadline"),
}


def script(issued: Issued, body: dict[str, Any]) -> Answer:
    """Do what the last message names, and answer any other one."""
    said = body["messages"][-1]["content"]
    text = said if isinstance(said, str) else said[-1].get("text", "")
    make, _ = FAULTS.get(text, (says("fine"), ""))
    return make(issued, body)
