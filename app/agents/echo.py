"""The agent that needs no model: deterministic, for development, tests and measuring everything around it."""

from collections.abc import AsyncIterator

from app.agents import OpenTurn
from app.events import AgentEvent


async def echo(turn: OpenTurn) -> AsyncIterator[AgentEvent]:
    """Yield `You said: <message>` word by word."""
    first, *words = f"You said: {turn.message}".split(" ")
    yield first
    for word in words:
        yield f" {word}"
