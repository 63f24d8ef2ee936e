"""The Agent port: an async generator that is handed a turn and yields what happens.

    async def my_agent(turn):
        yield "Hello "
        yield turn.message

It may also yield `ToolCall`, `ToolResult`, `State`, `Usage` and `Stop` (`app.events`). An agent that holds something
open is an async context manager too: it is entered before the first turn and left after the last, on Lambda again after
each long freeze, whose connections are dead.

An agent that ends by itself at the turn's tokens and dollars says so with an attribute `keeps_budget`. Any other is
ended by the service at the end of a step, if it yields `Usage`. One that passes on what a model asks for says with an
attribute `tool_names` which tools there are, so that a trace names no other.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from app.events import AgentEvent, Turn


@dataclass(frozen=True, slots=True)
class OpenTurn:
    """What an agent is handed.

    history:   the session's newest done turns, oldest first, each with the state that it ended with
    state:     the bytes of the newest `State` in the history, or empty
    number:    of this turn in its session; history ends with the one before
    max_steps: how many model calls the turn may make
    deadline:  the instant on the running event loop's clock by which the turn must have answered
    request:   the caller's idempotency key, or an id of this attempt where there is none

    max_tokens, max_usd: what the turn may use: it takes no further step once one of them is reached; None for no limit
    """

    message: str
    history: Sequence[Turn]
    state: bytes
    number: int
    session_id: str
    principal: str
    max_steps: int
    deadline: float
    request: str = ""
    max_tokens: int | None = None
    max_usd: float | None = None


Agent: TypeAlias = Callable[[OpenTurn], AsyncIterator[AgentEvent]]
