"""The Agent port: an async generator that is handed a turn and yields what happens.

    async def my_agent(turn):
        yield "Hello "
        yield turn.message

It may also yield `ToolCall`, `ToolResult`, `State` and `Stop` (`app.events`).
"""

import inspect
import pkgutil
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

from app.errors import ConfigurationError
from app.events import AgentEvent, Turn

BUILT_IN = {"echo": "app.agents.echo:echo"}


@dataclass(frozen=True, slots=True)
class OpenTurn:
    """What an agent is handed.

    history:   the session's newest done turns, oldest first
    state:     the bytes of the agent's last `State` on this session, or empty
    max_steps: how many model calls the turn may make
    deadline:  the instant on the running event loop's clock by which the turn must have answered
    """

    message: str
    history: Sequence[Turn]
    state: bytes
    session_id: str
    principal: str
    max_steps: int
    deadline: float


Agent: TypeAlias = Callable[[OpenTurn], AsyncIterator[AgentEvent]]


def load(name: str) -> Agent:
    """Import and return the agent called `name`: one that is built in, or `module:object`.

    Raises:
        ConfigurationError: there is no such module or object, its import raises, or it is no async generator function.
    """
    target = BUILT_IN.get(name, name)
    if ":" not in target:
        raise ConfigurationError([f"AGENT must be one of {', '.join(BUILT_IN)}, or module:object"])
    try:
        agent = pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError) as exc:
        raise ConfigurationError([f"AGENT cannot be found: {type(exc).__name__}"]) from exc
    except Exception as exc:  # the module is the user's and may raise anything
        raise ConfigurationError([f"AGENT cannot be imported: {type(exc).__name__}"]) from exc
    if not inspect.isasyncgenfunction(agent) and not inspect.isasyncgenfunction(
        getattr(agent, "__call__", None)  # noqa: B004 the function itself is asked for, not whether there is one
    ):
        raise ConfigurationError(["AGENT must be an async generator function (async def with yield)"])
    return cast("Agent", agent)
