"""The built-in agent: a bounded tool loop over the Messages API.

A step is one model call and the tool calls it asked for. What is bounded: steps, tokens and dollars of the turn, its
time, the size of tool results and of the history, and how often the model may ask for the same again.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Self

from app.agents import OpenTurn, conversation
from app.agents.conversation import Message, assistant, tool_result, user
from app.agents.messages_api import MessagesAPI
from app.agents.prices import Price
from app.agents.reply import Reply
from app.agents.tools import Outcome, Request, Toolbox, key_of
from app.errors import DeadlineExceeded
from app.events import JSON, AgentEvent, State, Stop, StopReason, ToolCall, ToolResult, Usage

MAX_HISTORY_BYTES = 600_000  # about 150,000 tokens: a model takes more, but nobody wants to pay for it on each turn
END_RESERVE_S = 0.25  # of the turn's time: to close the stream and to hand over what there is
STEP_S = 2.0  # a further model call with less time than this says nothing that is worth its price
MAX_RESULTS_BYTES = 200_000  # of a turn's tool results together; stored twice, they fit one item even uncompressed
SAME_CALLS = 3  # a model that asks for the same so often in a row goes in circles

NO_ROOM = "This turn holds no more results. Answer with what you have."

# The last block is where the API's cache ends, and moves on as the conversation grows.
# https://platform.claude.com/docs/en/build-with-claude/prompt-caching
CACHED = {"cache_control": {"type": "ephemeral"}}

# https://platform.claude.com/docs/en/build-with-claude/handling-stop-reasons; any other one is an end like any other.
STOP_REASONS: Mapping[str | None, StopReason] = {
    "max_tokens": "max_tokens",
    "model_context_window_exceeded": "max_tokens",
    "refusal": "refusal",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What a turn may use.

    output_tokens: of one model call; the turn itself says what all of them may use
    step_s:        what must be left of its time for a further model call
    """

    output_tokens: int
    step_s: float = STEP_S


@dataclass(slots=True)
class Talk:
    """A turn on its way: its own messages, what it used, what it asked of the tools, and why it ended.

    max_tokens, max_usd: of the turn
    may_write: how many tokens the current model call was allowed
    room:      how many bytes of tool results the turn can still hold
    """

    messages: list[Message]
    max_tokens: int | None
    max_usd: float | None
    usage: Usage = field(default_factory=Usage)
    asked: list[object] = field(default_factory=list)
    call_ids: set[str] = field(default_factory=set)
    may_write: int = 0
    room: int = MAX_RESULTS_BYTES
    reason: StopReason = "max_steps"

    def fit(self, outcome: Outcome) -> Outcome:
        """Return the outcome, or if there is no room left for it what the model is told in its place."""
        size = len(outcome.text.encode())
        if size > self.room:
            return Outcome(outcome.id, NO_ROOM, ok=False)
        self.room -= size
        return outcome


class Claude:
    """An agent that talks with one model and lets it call the tools of `toolbox`. Enter it before use."""

    keeps_budget = True

    def __init__(
        self,
        api: MessagesAPI,
        model: str,
        *,
        instructions: str | None,
        toolbox: Toolbox,
        limits: Limits,
        price: Price | None,
    ) -> None:
        self._api = api
        self._toolbox = toolbox
        self._limits = limits
        self._price = price
        # The same in every request, in the same order: the API's cache compares beginnings.
        self._request: dict[str, object] = {"model": model, "stream": True, **CACHED}
        if instructions:
            self._request["system"] = instructions
        if toolbox.definitions:
            self._request["tools"] = toolbox.definitions

    @property
    def tool_names(self) -> Collection[str]:
        """The tools there are; a model may ask for others."""
        return self._toolbox.names

    async def __aenter__(self) -> Self:
        await self._api.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._api.__aexit__(*exc)

    async def __call__(self, turn: OpenTurn) -> AsyncIterator[AgentEvent]:
        """Yield text, tool calls and results as they come, then a state where the turn needs one, then why it ended."""
        talk = Talk([conversation.question(turn.message)], turn.max_tokens, turn.max_usd)
        try:
            async with aclosing(self._steps(turn, talk)) as events:
                async for event in events:
                    yield event
        except DeadlineExceeded:
            talk.reason = "deadline"
        messages = conversation.repaired(talk.messages)
        if len(messages) > len(("question", "answer")):
            yield State(conversation.pack(messages))
        yield Stop(talk.reason, talk.usage)

    async def _steps(self, turn: OpenTurn, talk: Talk) -> AsyncGenerator[AgentEvent, None]:
        """Take steps until the model has ended or a limit is reached."""
        history = conversation.of_history(turn.history, self._toolbox.names, MAX_HISTORY_BYTES)
        talk.call_ids |= {call["id"] for call in conversation.calls_of(history)}
        deadline = turn.deadline - END_RESERVE_S
        for number in range(1, turn.max_steps + 1):
            if reason := self._exhausted(talk, deadline):
                talk.reason = reason
                return
            reply = Reply(talk.call_ids)
            async with aclosing(self._ask(history, talk, reply, deadline)) as events:
                async for event in events:
                    yield event
            if reply.stop_reason == "pause_turn":  # of the API's own tools: it goes on when asked again
                continue
            requests = [_request(turn, number, index, reply) for index in range(len(reply.calls))]
            talk.call_ids |= {each.id for each in requests}
            talk.asked.append([(each.name, each.args) for each in requests])
            if not requests:
                talk.reason = self._reason(reply, talk)
                return
            if number == turn.max_steps or talk.asked[-SAME_CALLS:] == talk.asked[-1:] * SAME_CALLS:
                return  # nobody would look at the results
            async with aclosing(self._use_tools(talk, requests, deadline)) as events:
                async for event in events:
                    yield event

    async def _ask(
        self, history: Sequence[Message], talk: Talk, reply: Reply, deadline: float
    ) -> AsyncGenerator[AgentEvent, None]:
        """Make one model call and yield its words, and its usage when that is known."""
        before, talk.may_write = talk.usage, self._may_write(talk)
        request = {**self._request, "max_tokens": talk.may_write, "messages": [*history, *talk.messages]}
        try:
            async with aclosing(self._api.stream(request, deadline)) as events:
                async for event in events:
                    if words := reply.take(event):
                        yield words
                    elif event["type"] in ("message_start", "message_delta"):
                        talk.usage = self._sum(before, reply)
                        yield talk.usage
        finally:
            if reply.blocks:
                talk.messages.append(assistant(*reply.blocks))

    async def _use_tools(
        self, talk: Talk, requests: Sequence[Request], deadline: float
    ) -> AsyncGenerator[AgentEvent, None]:
        """Run the tools and yield calls and results; the model is told in the order in which it asked."""
        for each in requests:
            yield ToolCall(each.id, each.name, each.args)
        ended: dict[str, Outcome] = {}
        try:
            async with aclosing(self._toolbox.run(requests, deadline)) as outcomes:
                async for found in outcomes:
                    outcome = ended[found.id] = talk.fit(found)
                    yield ToolResult(outcome.id, outcome.text, outcome.ok)
        finally:
            known = [ended[each.id] for each in requests if each.id in ended]
            talk.messages.append(user(*(tool_result(each.id, each.text, ok=each.ok) for each in known)))

    def _exhausted(self, talk: Talk, deadline: float) -> StopReason | None:
        """Return which limit leaves no room for another step, or None."""
        used = talk.usage
        if talk.max_tokens is not None and used.input_tokens + used.output_tokens >= talk.max_tokens:
            return "budget"
        if talk.max_usd is not None and used.usd >= talk.max_usd:
            return "budget"
        if used.steps and asyncio.get_running_loop().time() + self._limits.step_s > deadline:
            return "deadline"
        return None

    def _may_write(self, talk: Talk) -> int:
        """Return how many tokens the next model call may write under every limit."""
        used, allowed = talk.usage, [self._limits.output_tokens]
        if talk.max_tokens is not None:
            allowed.append(talk.max_tokens - used.input_tokens - used.output_tokens)
        if talk.max_usd is not None and self._price is not None:
            allowed.append(int(self._price.tokens_for(talk.max_usd - used.usd)))
        return max(min(allowed), 1)

    def _reason(self, reply: Reply, talk: Talk) -> StopReason:
        reason = STOP_REASONS.get(reply.stop_reason, "end_turn")
        if reason == "max_tokens" and talk.may_write < self._limits.output_tokens:
            return "budget"
        return reason

    def _sum(self, before: Usage, reply: Reply) -> Usage:
        """Return the turn's usage: what it was before this step, and what the API has reported of it."""
        new, output = reply.count("input_tokens"), reply.count("output_tokens")
        read, write = reply.count("cache_read_input_tokens"), reply.count("cache_creation_input_tokens")
        return Usage(
            input_tokens=before.input_tokens + new + read + write,
            output_tokens=before.output_tokens + output,
            cached_tokens=before.cached_tokens + read,
            steps=before.steps + 1,
            usd=round(before.usd + (self._price.of(new, output, read, write) if self._price else 0.0), 6),
        )


def _request(turn: OpenTurn, step: int, index: int, reply: Reply) -> Request:
    """Return a tool call of the reply, with a key that a retry of the same turn gives the same call again."""
    call = reply.calls[index]
    args: JSON = None if call["id"] in reply.unreadable else call["input"]
    return Request(call["id"], call["name"], args, key_of(turn, step, index, call["name"], args))
