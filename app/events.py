"""What an agent yields, what a client is shown, and what a turn stores.

Plain frozen dataclasses without I/O. An agent yields `str` (text), `ToolCall`, `ToolResult`, `State` and `Stop`; a
running turn shows its client `TurnStarted`, then `Text`, `ToolCall` and `ToolResult` in order, then one `TurnDone`.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"
StopReason: TypeAlias = Literal["end_turn", "max_steps", "max_tokens", "deadline", "budget", "refusal", "cancelled"]


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of the answer, in order."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The model asked for a tool. `id` is unique within the turn."""

    id: str
    name: str
    args: JSON


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What the tool call with this `id` gave back; `ok` is False when it failed."""

    id: str
    result: JSON
    ok: bool = True


@dataclass(frozen=True, slots=True)
class State:
    """Opaque bytes the agent gets back on the session's next turn. The last one of a turn counts."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Usage:
    """What a turn consumed: tokens, model calls (steps) and list price in US dollars."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    steps: int = 0
    usd: float = 0.0


NO_USAGE = Usage()


@dataclass(frozen=True, slots=True)
class Stop:
    """Why the turn ended. An agent that yields none ended with `end_turn`."""

    reason: StopReason = "end_turn"
    usage: Usage = NO_USAGE


AgentEvent: TypeAlias = "str | ToolCall | ToolResult | State | Stop"


@dataclass(frozen=True, slots=True)
class Turn:
    """One done turn: the message, everything done for it, and the answer. Immutable once stored.

    `tools` holds calls and results in order, every call with its result.
    """

    number: int
    message: str
    answer: str
    tools: tuple[ToolCall | ToolResult, ...] = ()
    state: bytes = b""
    stop_reason: StopReason = "end_turn"
    usage: Usage = NO_USAGE


@dataclass(frozen=True, slots=True)
class TurnStarted:
    """The turn is claimed: nobody else works on this number now.

    `replayed` tells that it is done already: an earlier request with the same idempotency key stored it.
    """

    session_id: str
    number: int
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class TurnDone:
    """The turn is stored."""

    session_id: str
    turn: Turn


TurnEvent: TypeAlias = "TurnStarted | Text | ToolCall | ToolResult | TurnDone"
