"""A pydantic-ai `Agent` as an agent of this service; and with it, any model that pydantic-ai knows by its name.

An `Agent` whose `deps_type` is `OpenTurn` gets the turn as its `deps`.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from decimal import Decimal
from typing import Any, Self

from pydantic import ValidationError
from pydantic_core import to_json

from app.agents import Agent, OpenTurn, conversation, states, tools
from app.errors import (
    ConfigurationError,
    DeadlineExceeded,
    ModelFailed,
    ModelInvalid,
    ModelOverloaded,
    ModelRateLimited,
    ModelRejected,
    ModelUnpaid,
)
from app.events import AgentEvent, State, Stop, StopReason, ToolCall, ToolResult, Turn, Usage

try:
    import pydantic_ai
    from pydantic_ai import exceptions, messages, models
    from pydantic_ai.capabilities import ReinjectSystemPrompt
    from pydantic_ai.settings import ModelSettings
    from pydantic_ai.usage import RequestUsage, RunUsage, UsageLimits
except ImportError:
    raise ConfigurationError(["AGENT needs pydantic-ai-slim: install it beside the service"]) from None

FORMAT = "pydantic-ai/1"
STOP_REASONS: dict[str | None, StopReason] = {"length": "max_tokens", "content_filter": "refusal"}
WHOLE = ("end_turn", "max_steps", "budget")  # turns whose messages the next turn can go on from
# The first one that fits; the framework's errors of one kind share a class whatever the provider.
FAILURES: Sequence[tuple[type[exceptions.ModelAPIError], type[ModelFailed]]] = (
    (exceptions.ModelRateLimitError, ModelRateLimited),
    (exceptions.ModelQuotaExceededError, ModelUnpaid),
    (exceptions.ModelAuthenticationError, ModelUnpaid),
    (exceptions.ModelRequestRejectedError, ModelRejected),
    (exceptions.ModelUnavailableError, ModelOverloaded),
    (exceptions.ModelServerError, ModelOverloaded),
    (exceptions.ModelConnectionError, ModelOverloaded),
    (exceptions.ModelRequestTimeout, ModelOverloaded),
)


class PydanticAI:
    """Serves one `Agent` to any number of turns at once. Entering it opens what the agent's toolsets hold open."""

    keeps_budget = True

    def __init__(self, agent: pydantic_ai.Agent[Any, Any]) -> None:
        self.agent = agent

    async def __aenter__(self) -> Self:
        await self.agent.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.agent.__aexit__(*exc)

    async def __call__(self, turn: OpenTurn) -> AsyncIterator[AgentEvent]:
        """Yield text, tool calls and results as they come, then the turn's own messages as its state."""
        run = self.agent.run_stream_events(
            turn.message,
            message_history=[message for done in turn.history for message in _of_turn(done)],
            deps=turn if self.agent.deps_type is OpenTurn else None,
            usage_limits=UsageLimits(
                request_limit=turn.max_steps,
                # It goes on at its limit, and ends above it; a turn ends at its own.
                total_tokens_limit=None if turn.max_tokens is None else turn.max_tokens - 1,
                cost_limit=None if turn.max_usd is None else Decimal(str(turn.max_usd)),
            ),
            capabilities=[ReinjectSystemPrompt()],  # a history that is not empty would have to hold it
            infer_name=False,
        )
        async with run as events:
            try:
                async for event in events:
                    for shown in _shown(event):
                        yield shown
                    if isinstance(event, messages.FunctionToolCallEvent | messages.PartStartEvent):
                        yield _usage(events.usage)
                reason = STOP_REASONS.get(_last_response(events.new_messages()).finish_reason, "end_turn")
            except (exceptions.AgentRunError, DeadlineExceeded) as exc:
                yield _usage(events.usage)  # also of a run that fails now: it has been paid for
                reason = _reason(exc, events.usage.requests >= turn.max_steps)
            if reason in WHOLE:
                yield State(_pack(events.new_messages()))
            yield Stop(reason, _usage(events.usage))


def adapt(found: object) -> Agent:
    """Return the agent that serves this `Agent`.

    Raises:
        ConfigurationError: it is something else of pydantic-ai.
    """
    if not isinstance(found, pydantic_ai.Agent):
        raise ConfigurationError(["AGENT must be an Agent of pydantic-ai"])
    return PydanticAI(found)


def built_in(
    model: str,
    instructions: str | None,
    tools_name: str | None,
    *,
    output_tokens: int | None = None,
    priced: bool = False,
) -> Agent:
    """Return an agent that talks with the model `provider:model` and calls the tools that `tools_name` lists.

    output_tokens: of one model call
    priced:        whether what it costs must be known

    Raises:
        ConfigurationError: pydantic-ai does not know the model or its price, or cannot reach it from here.
    """
    toolbox = tools.load(tools_name)
    try:
        agent = pydantic_ai.Agent(
            model,
            instructions=instructions,
            deps_type=OpenTurn,
            tools=[_tool(toolbox, definition) for definition in toolbox.definitions],
            model_settings=ModelSettings(max_tokens=output_tokens) if output_tokens else None,
        )
    except ImportError:
        raise ConfigurationError(
            ["AGENT_MODEL needs its provider's extra of pydantic-ai-slim, such as [bedrock]"]
        ) from None
    except (exceptions.UserError, ValueError):
        raise ConfigurationError(
            ["AGENT_MODEL must be provider:model, of a provider that pydantic-ai knows and that is set up here"]
        ) from None
    if priced and not _has_price(agent.model):
        raise ConfigurationError(["AGENT_MAX_COST_USD has no effect: pydantic-ai knows no list price of AGENT_MODEL"])
    return PydanticAI(agent)


def _has_price(model: object) -> bool:
    if not isinstance(model, models.Model):
        return False
    used = RequestUsage(input_tokens=1, output_tokens=1)
    answer = messages.ModelResponse([], usage=used, model_name=model.model_name, provider_name=model.system)
    try:
        answer.cost()
    except LookupError:
        return False
    return True


def _tool(toolbox: tools.Toolbox, definition: dict[str, Any]) -> pydantic_ai.Tool[OpenTurn]:
    """Return a tool of the toolbox for pydantic-ai, which leaves checking and calling to the toolbox."""
    name = definition["name"]

    async def call(ctx: pydantic_ai.RunContext[OpenTurn], /, **args: Any) -> str:  # noqa: ANN401 JSON
        key = tools.key_of(ctx.deps, ctx.run_step, _index(ctx), name, args)
        request = tools.Request(ctx.tool_call_id or "", name, args, key)
        async with aclosing(toolbox.run([request], ctx.deps.deadline)) as outcomes:
            outcome = await anext(outcomes)
        if not outcome.ok:
            raise exceptions.ToolFailed(outcome.text)
        return outcome.text

    return pydantic_ai.Tool.from_schema(
        call, name, definition["description"], definition["input_schema"], takes_ctx=True
    )


def _index(ctx: pydantic_ai.RunContext[OpenTurn]) -> int:
    """Return which of its step's tool calls the current one is."""
    ids = [call.tool_call_id for call in _last_response(ctx.messages).tool_calls]
    return ids.index(ctx.tool_call_id) if ctx.tool_call_id in ids else 0


def _last_response(found: Sequence[messages.ModelMessage]) -> messages.ModelResponse:
    responses = [message for message in found if isinstance(message, messages.ModelResponse)]
    return responses[-1] if responses else messages.ModelResponse([])


def _shown(event: object) -> Iterator[AgentEvent]:
    """Yield what a reader is shown of an event; new kinds of them may come with any release."""
    match event:
        case messages.PartStartEvent(part=messages.TextPart(content=text)):
            yield text
        case messages.PartDeltaEvent(delta=messages.TextPartDelta(content_delta=text)):
            yield text
        case messages.FunctionToolCallEvent(part=part):
            yield ToolCall(part.tool_call_id, part.tool_name, part.args_as_dict())
        case messages.FunctionToolResultEvent(part=part):
            yield ToolResult(part.tool_call_id, part.model_response_str(), part.outcome == "success")
        case pydantic_ai.AgentRunResultEvent(result=result) if not isinstance(result.output, str):
            yield to_json(result.output, fallback=str).decode()


def _of_turn(turn: Turn) -> list[messages.ModelMessage]:
    """Return the messages of a done turn: those its state holds, else what its message and its answer amount to."""
    try:
        if found := states.unpack(FORMAT, turn.state):
            return messages.ModelMessagesTypeAdapter.validate_python(found)
    except ValidationError:
        pass  # of a release that knew other messages
    answer = messages.TextPart(conversation.plain_answer(turn))
    return [messages.ModelRequest.user_text_prompt(turn.message), messages.ModelResponse([answer])]


def _pack(own: Sequence[messages.ModelMessage]) -> bytes:
    """Return the state of a turn: without the system prompt, which is as long each time and may have been changed."""
    kept = [
        replace(
            message,
            instructions=None,
            parts=[part for part in message.parts if not isinstance(part, messages.SystemPromptPart)],
        )
        if isinstance(message, messages.ModelRequest)
        else message
        for message in own
    ]
    return states.pack(FORMAT, messages.ModelMessagesTypeAdapter.dump_python(kept, mode="json", exclude_none=True))


def _usage(used: RunUsage) -> Usage:
    return Usage(used.input_tokens, used.output_tokens, used.cache_read_tokens, used.requests, float(used.cost or 0))


def _reason(error: Exception, used_up: bool) -> StopReason:  # noqa: FBT001 what the steps are
    """Return why a run ended that way, or raise what it failed of."""
    match error:
        case exceptions.UsageLimitExceeded():
            return "max_steps" if used_up else "budget"
        case exceptions.OutputTokenLimitExceeded():
            return "max_tokens"
        case exceptions.ContentFilterError():
            return "refusal"
        case DeadlineExceeded():  # in a tool; the service ends the turn at the same instant
            return "deadline"
        case exceptions.ModelAPIError():
            raise _failure(error) from error
    raise error


def _failure(error: exceptions.ModelAPIError) -> ModelFailed:
    if isinstance(error, exceptions.ModelConnectionError) and error.phase == "read":
        return ModelInvalid("the model's answer was cut off")
    kind = next((ours for theirs, ours in FAILURES if isinstance(error, theirs)), ModelFailed)
    wait_s = None if error.retry_after is None else int(error.retry_after)
    return kind(f"the model's API failed: {type(error).__name__}", wait_s)
