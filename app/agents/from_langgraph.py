"""A compiled LangGraph graph, whose state holds `messages`, as an agent of this service.

The graph runs without its checkpointer: the session store holds what was said, and only of turns that were committed.
Its nodes find the turn in their config, as `config["configurable"]["turn"]`.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from typing import Any

from langchain_core import exceptions
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    ToolMessage,
    message_to_dict,
    messages_from_dict,
)
from langchain_core.outputs import ChatGeneration, LLMResult
from langgraph.errors import GraphRecursionError
from langgraph.pregel import Pregel

from app.agents import Agent, OpenTurn, conversation, states
from app.errors import (
    ConfigurationError,
    ModelFailed,
    ModelOverloaded,
    ModelRateLimited,
    ModelRejected,
    ModelUnpaid,
)
from app.events import AgentEvent, State, Stop, StopReason, ToolCall, ToolResult, Turn, Usage

FORMAT = "langchain/1"
STOP_REASONS: dict[object, StopReason] = {
    "length": "max_tokens",
    "max_tokens": "max_tokens",
    "content_filter": "refusal",
    "refusal": "refusal",
}
# The first one that fits. Only integrations of langchain-core 1.7 and newer raise them.
FAILURES: Sequence[tuple[type[exceptions.ModelError], type[ModelFailed]]] = (
    (exceptions.ModelRateLimitError, ModelRateLimited),
    (exceptions.ModelAuthenticationError, ModelUnpaid),
    (exceptions.ModelPermissionDeniedError, ModelUnpaid),
    (exceptions.ModelAPIError, ModelOverloaded),
    (exceptions.ModelConnectionError, ModelOverloaded),
    (exceptions.ModelTimeoutError, ModelOverloaded),
    (exceptions.ModelError, ModelRejected),
)


class Meter(BaseCallbackHandler):
    """Counts the turn's model calls, wherever in the graph, and refuses the one that is too many.

    It is not async, because graphs may call their models in threads, and not `run_inline`, because LangChain would then
    never await the other handlers' coroutines when this one raises.
    """

    raise_error = True  # what a handler raises goes to the caller

    def __init__(self, max_steps: int) -> None:
        self._max_steps = max_steps
        self.usage = Usage()

    def on_chat_model_start(self, *_: object, **__: object) -> None:
        """Count a model call."""
        used = self.usage
        if used.steps >= self._max_steps:
            raise GraphRecursionError
        self.usage = Usage(used.input_tokens, used.output_tokens, used.cached_tokens, used.steps + 1)

    def on_llm_end(self, response: LLMResult, **_: object) -> None:
        """Count a model call's tokens, where its provider tells them."""
        for generation in (each for batch in response.generations for each in batch):
            message = generation.message if isinstance(generation, ChatGeneration) else None
            if isinstance(message, AIMessage) and (found := message.usage_metadata):
                cached = found.get("input_token_details", {}).get("cache_read", 0)
                self.usage = Usage(
                    self.usage.input_tokens + found["input_tokens"],
                    self.usage.output_tokens + found["output_tokens"],
                    self.usage.cached_tokens + cached,
                    self.usage.steps,
                )


class Reading:
    """What has come of a turn's run: its own messages, of the outermost graph, after those of the history."""

    def __init__(self, history: Sequence[BaseMessage], message: HumanMessage) -> None:
        self.own: list[BaseMessage] = [message]
        self._old = {each.id for each in history}
        self._seen = {*self._old, message.id}

    def take(self, namespace: Sequence[str], mode: str, data: Any) -> Iterator[AgentEvent]:  # noqa: ANN401 by mode
        """Yield what a reader is shown of a piece of the run's stream."""
        if mode == "messages":
            message = data[0]
            if isinstance(message, AIMessage) and message.id not in self._old:
                yield str(message.text)
            return
        found = data.get("messages", [])
        if not namespace:
            self.own = [message for message in found if message.id not in self._old]
        for message in found:
            if message.id not in self._seen:
                self._seen.add(message.id)
                yield from _tools(message)

    @property
    def reason(self) -> StopReason:
        """Why the last answer ended, where its provider tells."""
        told = self.own[-1].response_metadata if self.own else {}
        return STOP_REASONS.get(told.get("finish_reason") or told.get("stop_reason"), "end_turn")


def adapt(found: object) -> Agent:
    """Return the agent that serves this graph.

    Raises:
        ConfigurationError: it is not compiled, or has no messages.
    """
    if not isinstance(found, Pregel) or "messages" not in found.channels:
        raise ConfigurationError(["AGENT must be a compiled graph with `messages` in its state"])
    graph = found.copy({"checkpointer": None})

    async def run(turn: OpenTurn) -> AsyncIterator[AgentEvent]:
        history = [message for done in turn.history for message in _of_turn(done)]
        message = HumanMessage(turn.message, id=f"{turn.number}-0")
        reading, meter = Reading(history, message), Meter(turn.max_steps)
        stream: Any = graph.astream(  # its type knows no `subgraphs`
            {"messages": [*history, message]},
            {"callbacks": [meter], "configurable": {"thread_id": turn.session_id, "turn": turn}},
            stream_mode=["messages", "values"],
            subgraphs=True,
        )
        reason: StopReason | None = None
        try:
            async with aclosing(stream) as pieces:
                async for piece in pieces:
                    for shown in reading.take(*piece):
                        yield shown
                    if piece[1] == "values":
                        yield meter.usage
        except GraphRecursionError:
            reason = "max_steps"
        except exceptions.ModelError as exc:
            raise _failure(exc) from exc
        yield State(states.pack(FORMAT, [message_to_dict(each) for each in _answered(reading.own)]))
        yield Stop(reason or reading.reason, meter.usage)

    return run


def _tools(message: BaseMessage) -> Iterator[AgentEvent]:
    if isinstance(message, AIMessage):
        for call in message.tool_calls:
            yield ToolCall(call["id"] or "", call["name"], call["args"])
    elif isinstance(message, ToolMessage):
        yield ToolResult(message.tool_call_id, str(message.text), message.status != "error")


def _of_turn(turn: Turn) -> list[BaseMessage]:
    """Return the messages of a done turn: those its state holds, else what its message and its answer amount to.

    Their ids are new ones: a graph takes a message for the one before it that has the same id.
    """
    try:
        found = messages_from_dict(states.unpack(FORMAT, turn.state) or [])
    except (ValueError, KeyError, TypeError):  # of a release that knew other messages
        found = []
    found = found or [HumanMessage(turn.message), AIMessage(conversation.plain_answer(turn))]
    return [message.model_copy(update={"id": f"{turn.number}-{index}"}) for index, message in enumerate(found)]


def _answered(own: Sequence[BaseMessage]) -> Iterator[BaseMessage]:
    """Yield the messages with a result for every tool call, without which no model takes them."""
    answered = {message.tool_call_id for message in own if isinstance(message, ToolMessage)}
    for message in own:
        yield message
        if isinstance(message, AIMessage):
            for call in message.tool_calls:
                if call["id"] not in answered:
                    yield ToolMessage(conversation.NOT_FINISHED, tool_call_id=call["id"], status="error")


def _failure(error: exceptions.ModelError) -> ModelFailed:
    kind = next((ours for theirs, ours in FAILURES if isinstance(error, theirs)), ModelFailed)
    return kind(f"the model's API failed: {type(error).__name__}")
