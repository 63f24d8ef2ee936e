"""What an agent yields, what a client is shown, and what a turn stores.

Plain frozen dataclasses without I/O. An agent yields `str` (text), `ToolCall`, `ToolResult`, `State`, `Usage` and
`Stop`; a running turn shows its client `TurnStarted`, then `Text`, `ToolCall` and `ToolResult` in order, then one
`TurnDone`.
"""

import sys
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"
StopReason: TypeAlias = Literal["end_turn", "max_steps", "max_tokens", "deadline", "budget", "refusal", "cancelled"]
STOP_REASONS = frozenset(get_args(StopReason))
MAX = sys.float_info.max  # an int may be above it, and then nobody can reckon with it


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

    def __post_init__(self) -> None:
        if not all(isinstance(each, str) for each in (self.id, self.name)):
            raise TypeError("a tool call has texts as id and name")


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What the tool call with this `id` gave back; `ok` is False when it failed."""

    id: str
    result: JSON
    ok: bool = True

    def __post_init__(self) -> None:
        if (type(self.id), type(self.ok)) != (str, bool):
            raise TypeError("a tool result has a text as id and says whether it is ok")


@dataclass(frozen=True, slots=True)
class State:
    """Opaque bytes the agent gets back on the session's next turns. The last one of a turn counts."""

    data: bytes

    def __post_init__(self) -> None:
        if not isinstance(self.data, bytes):
            raise TypeError("a state is bytes")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a turn consumed: tokens, model calls (steps) and list price in US dollars.

    `input_tokens` holds all tokens of the prompts, `cached_tokens` those of them that a cache had. An agent may yield
    one now and then, each the total so far, so that a turn that is cut short counts what it has used.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    steps: int = 0
    usd: float = 0.0

    def __post_init__(self) -> None:
        if type(self.usd) is not float:
            object.__setattr__(self, "usd", float(self.usd))  # a Decimal, as prices are reckoned, is no JSON
        tokens_ok = 0 <= self.input_tokens <= MAX and 0 <= self.output_tokens <= MAX and 0 <= self.cached_tokens <= MAX
        if not (tokens_ok and 0 <= self.steps <= MAX and 0 <= self.usd <= MAX):  # spelt out: made for each stored turn
            raise ValueError("usage is finite numbers from 0")

    def raised_to(self, other: "Usage") -> "Usage":
        """Return the higher of each number. A total does not fall: what was used stays used."""
        return Usage(
            max(self.input_tokens, other.input_tokens),
            max(self.output_tokens, other.output_tokens),
            max(self.cached_tokens, other.cached_tokens),
            max(self.steps, other.steps),
            max(self.usd, other.usd),
        )


NO_USAGE = Usage()


@dataclass(frozen=True, slots=True)
class Stop:
    """Why the turn ended. An agent that yields none ended with `end_turn`; `usage` as if yielded before it."""

    reason: StopReason = "end_turn"
    usage: Usage | None = None

    def __post_init__(self) -> None:
        if self.reason not in STOP_REASONS or not isinstance(self.usage, Usage | None):
            raise ValueError(f"a turn stops with one of {', '.join(sorted(STOP_REASONS))}, and a Usage or None")


AgentEvent: TypeAlias = "str | ToolCall | ToolResult | State | Usage | Stop"


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
