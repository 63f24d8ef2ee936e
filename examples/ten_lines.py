"""An agent of your own in ten lines: `AGENT=examples.ten_lines:agent`."""

from collections.abc import AsyncIterator

from app.agents import OpenTurn
from app.events import AgentEvent


async def agent(turn: OpenTurn) -> AsyncIterator[AgentEvent]:
    """Answer with what the session has said so far."""
    yield f"You said: {turn.message}"
    for done in reversed(turn.history):
        yield f"; before that: {done.message}"
