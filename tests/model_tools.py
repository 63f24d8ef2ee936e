"""Tools for the built-in agent in tests: well-behaved ones and others, for `AGENT_TOOLS=tests.model_tools:tools`."""

import threading
from collections.abc import Callable
from typing import Any

from app.agents.tools import ToolKey


def weather(city: str, days: int = 1) -> str:
    """Return the weather forecast of a city."""
    return f"{city}: sun for {days} days"


async def stock(item: str) -> dict[str, int]:
    """Return how many there are of an item."""
    return {item: len(item)}


def order(item: str, key: ToolKey) -> str:
    """Order an item, once for each key."""
    return f"{item} under {key}"


def failing(text: str) -> str:
    """Raise an error whose text holds the argument."""
    raise LookupError(text)


def stuck() -> str:
    """Never return."""
    threading.Event().wait()
    return "never"


tools: list[Callable[..., Any]] = [weather, stock, order, failing]
with_stuck = [*tools, stuck]
