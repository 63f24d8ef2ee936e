"""A Strands `Agent` as an agent of this service.

An `Agent` is made for one conversation, which it keeps in `messages`. So each turn gets a copy of its own, with the
session's messages after those that the `Agent` came with.
"""

import copy
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from typing import Any

import strands
from strands.hooks import HookRegistry
from strands.telemetry.metrics import EventLoopMetrics
from strands.types.content import ContentBlock, Message
from strands.types.exceptions import (
    ContextWindowOverflowException,
    EventLoopException,
    MaxTokensReachedException,
    ModelThrottledException,
)

from app.agents import Agent, OpenTurn, conversation, states
from app.agents.pumped import pumped
from app.errors import ConfigurationError, ModelRateLimited, ModelRejected
from app.events import AgentEvent, State, Stop, StopReason, ToolCall, ToolResult, Turn, Usage

FORMAT = "strands/1"
STOP_REASONS: dict[str, StopReason] = {
    "limit_turns": "max_steps",
    "content_filtered": "refusal",
    "guardrail_intervened": "refusal",
    "cancelled": "cancelled",
}


def adapt(found: object) -> Agent:
    """Return the agent that serves copies of this one.

    Raises:
        ConfigurationError: it keeps its conversation elsewhere, too.
    """
    if not isinstance(found, strands.Agent) or found._session_manager:  # noqa: SLF001 there is no other way to see it
        raise ConfigurationError(["AGENT must be a Strands Agent without a session manager"])
    return Strands(found)


class Strands:
    """Serves one Strands `Agent` to any number of turns at once. Its tools find the turn in their invocation state."""

    def __init__(self, template: strands.Agent) -> None:
        self._template = template

    async def __call__(self, turn: OpenTurn) -> AsyncIterator[AgentEvent]:
        """Yield text, tool calls and results as they come, then the turn's own messages as its state."""
        agent = _copy(self._template, turn.history)
        own: list[Message] = [_message("user", turn.message)]
        reason: StopReason = "end_turn"
        run: Any = agent.stream_async(turn.message, limits={"turns": turn.max_steps}, invocation_state={"turn": turn})
        try:
            async with aclosing(pumped(run)) as events:
                async for event in events:
                    for shown in _shown(event):
                        yield shown
                    if "message" in event:
                        own.append(event["message"])
                        yield _usage(agent.event_loop_metrics)
                    if "result" in event:
                        reason = STOP_REASONS.get(event["result"].stop_reason, "end_turn")
        except MaxTokensReachedException:
            reason = "max_tokens"
        except (EventLoopException, ModelThrottledException, ContextWindowOverflowException) as exc:
            raise _failure(exc) from exc
        yield State(states.pack(FORMAT, _closed(own)))
        yield Stop(reason, _usage(agent.event_loop_metrics))


def _copy(template: strands.Agent, history: Sequence[Turn]) -> strands.Agent:
    """Return an agent that shares with the template what it is made of, and nothing of what happens to it."""
    agent = copy.copy(template)
    blank = strands.Agent(template.model, callback_handler=None)
    for name in ("event_loop_metrics", "callback_handler", "_cancel_signal", "_concurrency", "_interrupt_state"):
        setattr(agent, name, getattr(blank, name))
    messages = [message for done in history for message in _of_turn(done)]
    agent.messages = [*copy.deepcopy(template.messages), *messages]
    agent.state = type(template.state)(template.state.get())
    agent._model_state = {}  # noqa: SLF001 what a provider keeps of the conversation
    agent.conversation_manager = copy.copy(template.conversation_manager)
    agent._retry_strategy = copy.copy(template._retry_strategy)  # noqa: SLF001 it counts the attempts
    agent.hooks = _rebound(
        template.hooks,
        {
            id(template.conversation_manager): agent.conversation_manager,
            id(template._retry_strategy): agent._retry_strategy,  # noqa: SLF001
        },
    )
    return agent


def _rebound(hooks: HookRegistry, copies: dict[int, object]) -> HookRegistry:
    """Return the same hooks, with those that are methods of what was copied being the copies' methods."""
    rebound = HookRegistry()
    for event_type, entries in hooks._registered_callbacks.items():  # noqa: SLF001 no other way to see them
        for entry in entries:
            callback: Any = entry.callback
            if owner := copies.get(id(getattr(callback, "__self__", None))):
                callback = getattr(owner, callback.__name__)
            rebound.add_callback(event_type, callback, order=entry.order)
    return rebound


def _shown(event: dict[str, Any]) -> Iterator[AgentEvent]:
    """Yield what a reader is shown of an event: text as it comes, tools when their message is whole."""
    if "data" in event:
        yield event["data"]
    for block in event["message"]["content"] if "message" in event else []:
        if call := block.get("toolUse"):
            yield ToolCall(call["toolUseId"], call["name"], call["input"])
        elif result := block.get("toolResult"):
            texts = [str(part.get("text", part.get("json", ""))) for part in result["content"]]
            yield ToolResult(result["toolUseId"], "\n".join(texts), result["status"] == "success")
    if "result" in event and (found := event["result"].structured_output):
        yield found.model_dump_json()


def _of_turn(turn: Turn) -> list[Message]:
    """Return the messages of a done turn: those its state holds, else what its message and its answer amount to."""
    if found := states.unpack(FORMAT, turn.state):
        return found
    return [_message("user", turn.message), _message("assistant", conversation.plain_answer(turn))]


def _closed(own: Sequence[Message]) -> list[Message]:
    """Return a turn's messages as a model takes them in a history: no thoughts, no open call, an answer last.

    A thought is bound to its turn, and may hold bytes, which no JSON can carry.
    """
    kept = [
        Message(role=each["role"], content=[block for block in each["content"] if "reasoningContent" not in block])
        for each in own
    ]
    kept = [each for each in kept if each["content"]]
    if calls := [block["toolUse"]["toolUseId"] for block in kept[-1]["content"] if "toolUse" in block]:
        results = [_not_finished(call) for call in calls]
        kept.append(Message(role="user", content=results))
    return kept if kept[-1]["role"] == "assistant" else [*kept, _message("assistant", conversation.CUT_SHORT)]


def _not_finished(call: str) -> ContentBlock:
    return {"toolResult": {"toolUseId": call, "status": "error", "content": [{"text": conversation.NOT_FINISHED}]}}


def _message(role: Any, text: str) -> Message:  # noqa: ANN401 a literal
    return Message(role=role, content=[{"text": text}])


def _usage(metrics: EventLoopMetrics) -> Usage:
    used = metrics.accumulated_usage
    cached, written = used.get("cacheReadInputTokens", 0), used.get("cacheWriteInputTokens", 0)
    # Providers that count the cache in `inputTokens` have nothing beside it in the total.
    beside = 0 if used["totalTokens"] == used["inputTokens"] + used["outputTokens"] else cached + written
    return Usage(used["inputTokens"] + beside, used["outputTokens"], cached, metrics.cycle_count)


def _failure(error: Exception) -> Exception:
    match error:
        case EventLoopException():
            return _failure(error.original_exception)
        case ModelThrottledException():
            return ModelRateLimited("the model's API failed: it throttles")
        case ContextWindowOverflowException():
            return ModelRejected("the model's API failed: the conversation is longer than the model takes")
    return error
