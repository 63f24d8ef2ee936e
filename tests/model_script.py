"""What a fake model answers: messages as streams of events, refusals, and every way a stream can break."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import count, pairwise
from typing import Any, TypeAlias

from tests.messages_rules import Issued, prefix

USAGE = {"input_tokens": 10, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 1}
SPENT = 5  # output tokens, as reported at the end

Event: TypeAlias = dict[str, Any]


class Fault(Enum):
    """How a connection breaks: a reset; an end in the middle of a chunk; silence; pings for ever."""

    RESET = "reset"
    CUT = "cut"
    STALL = "stall"
    DRIP = "drip"


class Gate(threading.Event):
    """The answer goes on once it is set."""


Step: TypeAlias = Event | bytes | float | Gate | Fault  # a float is a pause in seconds


@dataclass(frozen=True)
class Answer:
    """What to send. Without `head` not even a status comes before the steps."""

    steps: Sequence[Step] = ()
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    head: bool = True


Script: TypeAlias = Callable[[Issued, dict[str, Any]], Answer]


@dataclass(frozen=True)
class Call:
    """The model asks for a tool: `args` are streamed as JSON in pieces, a text as it is."""

    name: str
    args: Any = field(default_factory=dict)
    id: str | None = None


@dataclass(frozen=True)
class Thought:
    """The model thinks; `redacted` for what nobody may read."""

    text: str = "hm"
    redacted: bool = False


@dataclass(frozen=True)
class Other:
    """A block of a type that came after our code, with one delta of a kind that did too."""

    block: Mapping[str, Any]


Part: TypeAlias = "str | Gate | Call | Thought | Other"


def says(
    *parts: Part, stop_reason: str | None = "", usage: Mapping[str, Any] = USAGE, output_tokens: int = SPENT
) -> Script:
    """Answer with a message. Texts in a row are one block, each a delta; a Gate holds what comes after it."""

    def make(issued: Issued, body: dict[str, Any]) -> Answer:
        steps: list[Step] = [{"type": "message_start", "message": _message(body, usage)}, {"type": "ping"}]
        blocks = [_Block(issued, body, group) for group in _groups(parts)]
        for index, block in enumerate(blocks):
            steps += block.steps(index)
        asked = any(isinstance(part, Call) for part in parts)
        reason = ("tool_use" if asked else "end_turn") if stop_reason == "" else stop_reason
        if reason == "pause_turn":
            issued.paused = [block.whole for block in blocks]
        delta = {"stop_reason": reason, "stop_sequence": None}
        steps.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": output_tokens}})
        return Answer([*steps, {"type": "message_stop"}])

    return make


def always_another_call(usage: Mapping[str, Any] = USAGE) -> Script:
    """Ask for a tool with every step, never twice for the same."""
    numbers = count()

    def make(issued: Issued, body: dict[str, Any]) -> Answer:
        return says("hm", Call("weather", {"city": str(next(numbers))}), usage=usage)(issued, body)

    return make


def error(status: int, kind: str, text: str = "canary", **headers: str) -> Script:
    """Refuse with a status, as the API does."""
    body = {"type": "error", "error": {"type": kind, "message": text}, "request_id": "req_1"}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda *_: Answer([json.dumps(body).encode()], status, {"content-type": "application/json"} | named)


def in_pieces(status: int, *steps: Step) -> Script:
    """Answer with a status and whatever body."""
    return lambda *_: Answer(steps, status)


def before_the_status(fault: Fault) -> Script:
    """Break before the first byte."""
    return lambda *_: Answer([fault], head=False)


def broken(after: str, *then: Step, of: Script | None = None) -> Script:
    """Begin a message, go on with `then` once an event of the type `after` was sent, and end there."""

    def make(issued: Issued, body: dict[str, Any]) -> Answer:
        steps = list((of or says("half", " an", " answer"))(issued, body).steps)
        kinds = [step.get("type") if isinstance(step, dict) else None for step in steps]
        return Answer([*steps[: kinds.index(after) + 1], *then])

    return make


def failing_inside(kind: str) -> Event:
    """Return the event that tells of a failure in the stream."""
    return {"type": "error", "error": {"type": kind, "message": "canary"}}


def _message(body: Mapping[str, Any], usage: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": body.get("model"),
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": dict(usage),
    }


def _groups(parts: Sequence[Part]) -> Iterator[list[Part]]:
    """Yield the parts of each block."""
    words: list[Part] = []
    for part in parts:
        if isinstance(part, str | Gate):
            words.append(part)
            continue
        if words:
            yield words
        words = []
        yield [part]
    if words:
        yield words


class _Block:
    """One content block: its events, and the block that they add up to."""

    def __init__(self, issued: Issued, body: dict[str, Any], parts: Sequence[Part]) -> None:
        self.start: dict[str, Any]
        self.deltas: list[Event | Gate]
        match parts[0]:
            case Call() as call:
                self._call(issued, call)
            case Thought() as thought:
                self._thought(issued, body, thought)
            case Other(block):
                self.start, self.deltas, self.whole = dict(block), [], dict(block)
                issued.others.append(self.whole)
            case _:
                texts = [part for part in parts if isinstance(part, str)]
                self.start = {"type": "text", "text": ""}
                self.deltas = [
                    part if isinstance(part, Gate) else {"type": "text_delta", "text": part}
                    for part in parts
                    if isinstance(part, str | Gate)
                ]
                self.whole = {"type": "text", "text": "".join(texts)}

    def _call(self, issued: Issued, call: Call) -> None:
        name = call.id or f"toolu_{len(issued.calls):04}"
        issued.calls.add(name)
        args = call.args if isinstance(call.args, str) else json.dumps(call.args)
        cuts = [0, len(args) // 3, 2 * len(args) // 3, len(args)]
        self.start = {"type": "tool_use", "id": name, "name": call.name, "input": {}}
        self.whole = self.start | {"input": call.args}
        pieces = ["", *(args[a:b] for a, b in pairwise(cuts))]
        self.deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]

    def _thought(self, issued: Issued, body: dict[str, Any], thought: Thought) -> None:
        if thought.redacted:
            self.whole = {"type": "redacted_thinking", "data": f"secret-{len(issued.thoughts)}"}
            self.start, self.deltas = self.whole, []
        else:
            self.whole = {"type": "thinking", "thinking": thought.text, "signature": f"sig-{len(issued.thoughts)}"}
            self.start = {"type": "thinking", "thinking": "", "signature": ""}
            half = len(thought.text) // 2
            self.deltas = [
                {"type": "thinking_delta", "thinking": thought.text[:half]},
                {"type": "thinking_delta", "thinking": thought.text[half:]},
                {"type": "signature_delta", "signature": self.whole["signature"]},
            ]
        issued.thoughts.append((self.whole, prefix(body)))

    def steps(self, index: int) -> list[Step]:
        wrapped: list[Step] = [
            delta if isinstance(delta, Gate) else {"type": "content_block_delta", "index": index, "delta": delta}
            for delta in self.deltas
        ]
        start: Step = {"type": "content_block_start", "index": index, "content_block": self.start}
        return [start, *wrapped, {"type": "content_block_stop", "index": index}]
