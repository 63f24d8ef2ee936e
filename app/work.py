"""What an agent has done in a turn so far, checked as it is yielded."""

import json
import time
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from pydantic_core import from_json, to_json

from app.errors import AgentFailed, DeadlineExceeded, ResponseTooLarge, TurnCancelled
from app.events import NO_USAGE, AgentEvent, State, Stop, StopReason, Text, ToolCall, ToolResult, Turn, Usage

# More fits into no item even when compressed; it also bounds what waits in memory for a slow reader.
MAX_CHARS = 1_000_000
Cut: TypeAlias = Literal["deadline", "cancelled", "budget"]  # what ends an agent that has not come to its own end
DEEP, DEEP_END = b"[" * 8, b"]" * 8  # more than the stored turn wraps around what a tool was given or gave


@dataclass(slots=True)
class Work:
    """What an agent has done in a turn so far.

    open_calls: tool calls without their results
    tools_s:    seconds in which there was one, as far as they have passed
    asked_at:   since when there is one, on the monotonic clock; None where there is none
    """

    answer: list[str] = field(default_factory=list)
    tools: list[ToolCall | ToolResult] = field(default_factory=list)
    state: bytes = b""
    reason: StopReason = "end_turn"
    usage: Usage = NO_USAGE
    chars: int = 0
    finished: bool = False
    open_calls: int = 0
    tools_s: float = 0.0
    asked_at: float | None = None

    def take(self, event: AgentEvent) -> Text | ToolCall | ToolResult | None:
        """Add an event of the agent and return what its reader is shown of it."""
        match event:
            case str():
                return self._take_text(event)
            case ToolCall() | ToolResult():
                return self._take_tool(event)
            case State():
                if len(event.data) > MAX_CHARS:
                    raise ResponseTooLarge("the agent's state passed its limit")
                self.state = event.data
            case Usage():
                self.usage = self.usage.raised_to(event)
            case Stop():
                self.reason = event.reason
                self.usage = self.usage.raised_to(event.usage or self.usage)
            case _:
                raise AgentFailed(f"the agent yielded a {type(event).__name__}")
        return None

    def _take_text(self, text: str) -> Text | None:
        if not text.isascii():
            text = text.encode("utf-8", "replace").decode()  # half of a surrogate pair has no UTF-8
        if not text:
            return None
        self._count(len(text))
        self.answer.append(text)
        return Text(text)

    def _take_tool(self, event: ToolCall | ToolResult) -> ToolCall | ToolResult:
        kind = type(event).__name__
        fields = [getattr(event, name) for name in event.__slots__]
        try:
            # The turn is stored by the other encoder, which is laxer in writing and less deep in reading.
            json.dumps(fields, allow_nan=False, ensure_ascii=False).encode()
            document = to_json(fields)
            from_json(DEEP + document + DEEP_END)
        except (TypeError, ValueError, RecursionError) as exc:
            raise AgentFailed(f"the agent yielded a {kind} that is not JSON, or nested too deeply") from exc
        known = {tool.id for tool in self.tools if isinstance(tool, type(event))}
        asked = {tool.id for tool in self.tools if isinstance(tool, ToolCall)}
        if event.id in known or (isinstance(event, ToolResult) and event.id not in asked):
            raise AgentFailed(f"the agent yielded a {kind} with an id that does not fit")
        self._count(len(document))
        self.tools.append(event)
        self._time_tools(event)
        return event

    def _time_tools(self, event: ToolCall | ToolResult) -> None:
        """Let the time of tools run from the first call without a result to the last result."""
        self.open_calls += 1 if isinstance(event, ToolCall) else -1
        if not self.open_calls:
            self._stop_tools()
        elif self.asked_at is None:
            self.asked_at = time.monotonic()

    def end(self) -> None:
        """Nothing is added from here on: an agent that is left behind may still yield."""
        self.finished = True
        self._stop_tools()

    def _stop_tools(self) -> None:
        """Let the time of tools stand still."""
        if self.asked_at is not None:
            self.tools_s += time.monotonic() - self.asked_at
            self.asked_at = None

    def _count(self, chars: int) -> None:
        self.chars += chars
        if self.chars > MAX_CHARS:
            raise ResponseTooLarge("what the agent said and did passed its limit")

    def cut(self, reason: Cut) -> None:
        """End the turn with what was said and done until now. What has been paid for is stored, also if it is nothing.

        Raises:
            DeadlineExceeded, TurnCancelled: that is nothing.
        """
        if reason != "budget" and not self.answer and not self.tools:
            raise DeadlineExceeded if reason == "deadline" else TurnCancelled
        self.reason = reason

    def finish(self, number: int, message: str) -> Turn:
        """Return the turn. No tool call stays without its result, however the agent came to its end."""
        answered = {tool.id for tool in self.tools if isinstance(tool, ToolResult)}
        calls = [tool for tool in self.tools if isinstance(tool, ToolCall)]
        unanswered = [ToolResult(call.id, None, ok=False) for call in calls if call.id not in answered]
        return Turn(
            number=number,
            message=message,
            answer="".join(self.answer),
            tools=(*self.tools, *unanswered),
            state=self.state,
            stop_reason=self.reason,
            usage=self.usage,
        )
