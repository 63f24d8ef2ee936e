"""Spans of an agent's turns: `invoke_agent`, and in it `chat` for each model call and `execute_tool` for each tool.

They are made of the agent's events, so they mean the same for every agent. Names and attributes are those of
OpenTelemetry's semantic conventions for generative AI, version 1.44.0, which are still in development:
https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-agent-spans/
Nothing is recorded that a user, a model or a tool said, not as an attribute and not as an exception's text.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field

from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, TracerProvider

from app.agents import Agent, OpenTurn
from app.errors import ModelFailed, ServiceError
from app.events import NO_USAGE, AgentEvent, Stop, ToolCall, ToolResult, Usage
from app.problems import kind_of
from app.sessions import SessionKey
from app.turn_log import hash_of

SCHEMA = "https://opentelemetry.io/schemas/1.44.0"
OTHER = "_OTHER"  # of error.type: an error that has no name
CANCELLED = "cancelled"  # the deadline, a cancel, the end of the process
MAX_TOOLS = 1000  # names that are kept, of an agent whose tools have ever other ones
# Where pydantic-ai's name of a provider is not that of the conventions.
PROVIDERS = {
    "azure": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "google-gla": "gcp.gemini",
    "google-vertex": "gcp.vertex_ai",
    "grok": "x_ai",
    "mistral": "mistral_ai",
}


class Traced:
    """An agent whose turns are traced.

    name:  of the agent
    model: that it calls, where it is known; `provider:model` as pydantic-ai writes it, too
    """

    def __init__(self, agent: Agent, provider: TracerProvider, name: str, model: str | None) -> None:
        self._agent = agent
        self._tracer = provider.get_tracer("agent_service", schema_url=SCHEMA)
        self._name = name
        self._tools = set(getattr(agent, "tool_names", ()))
        self.keeps_budget: bool = getattr(agent, "keeps_budget", False)  # `turns` asks whom it runs
        maker, _, short = (model or "").rpartition(":")
        self._model = {"gen_ai.request.model": short} if short else {}
        if maker or name == "claude":
            self._model["gen_ai.provider.name"] = PROVIDERS.get(maker, maker or "anthropic")

    async def __call__(self, turn: OpenTurn) -> AsyncIterator[AgentEvent]:
        """Yield what the agent yields."""
        about = {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.agent.name": self._name,
            "gen_ai.conversation.id": hash_of(str(SessionKey(turn.principal, turn.session_id))),
            **self._model,
        }
        with self._tracer.start_as_current_span(
            f"invoke_agent {self._name}", attributes=about, record_exception=False, set_status_on_exception=False
        ) as span:
            steps = _Steps(self._tracer, self._model, self._tools)
            try:
                async with aclosing(self._agent(turn)) as events:  # type: ignore[type-var]  # as in `turns`
                    async for event in events:
                        steps.take(event)
                        yield event
            except BaseException as exc:
                steps.end(exc)
                _fail(span, _error_of(exc))
                raise
            else:
                steps.end(None)
            finally:
                span.set_attributes(_tokens(steps.usage, NO_USAGE))
                if steps.reason:
                    span.set_attribute("gen_ai.response.finish_reasons", [steps.reason])


@dataclass
class _Steps:
    """The steps of a turn as they happen. A span is made when it is known where it began and ended.

    tools:   names of those that there are, or that have once given a result: a model can ask for one by any text
    began:   of the current model call, in nanoseconds of the clock
    spoke:   when it ended, because it asked for a tool; None as long as it goes on
    counted: the turn's usage before that call
    calls:   tool calls without their results
    """

    tracer: Tracer
    model: Mapping[str, str]
    tools: set[str]
    began: int = field(default_factory=time.time_ns)
    spoke: int | None = None
    counted: Usage = NO_USAGE
    usage: Usage = NO_USAGE
    reason: str | None = None
    calls: dict[str, tuple[str, int]] = field(default_factory=dict)

    def take(self, event: AgentEvent) -> None:
        """Note what happened."""
        match event:
            case Usage():
                self._use(event)
            case Stop():
                self.reason = event.reason
                self._use(event.usage or self.usage)
            case ToolCall():
                self.spoke = self.spoke or time.time_ns()
                self.calls[event.id] = (event.name, time.time_ns())
            case ToolResult() if event.id in self.calls:
                if event.ok and len(self.tools) < MAX_TOOLS:
                    self.tools.add(self.calls[event.id][0])
                self._end_tool(event.id, None if event.ok else OTHER)
                if not self.calls:  # the model is asked again
                    self._end_chat(None)

    def end(self, failure: BaseException | None) -> None:
        """The agent has ended."""
        error = _error_of(failure) if failure else None
        for call in tuple(self.calls):
            self._end_tool(call, error or OTHER)
        in_a_call = self.spoke is None
        self._end_chat(error if in_a_call else None, asked=in_a_call and isinstance(failure, ModelFailed))

    def _use(self, usage: Usage) -> None:
        """Take over the total so far. A second model call in it, without a tool between, has begun just now."""
        if usage.steps > self.usage.steps > self.counted.steps and self.spoke is None:
            self._end_chat(None)
        self.usage = usage

    def _end_chat(self, error: str | None, *, asked: bool = False) -> None:
        """Make the span of a model call, if there was one: the agent says so, or its API failed."""
        now = time.time_ns()
        if asked or self.usage.steps > self.counted.steps:
            name = f"chat {self.model.get('gen_ai.request.model', '')}".rstrip()
            about: dict[str, str | int] = {
                "gen_ai.operation.name": "chat",
                **self.model,
                **_tokens(self.usage, self.counted),
            }
            span = self.tracer.start_span(name, kind=SpanKind.CLIENT, start_time=self.began, attributes=about)
            if error:
                _fail(span, error)
            span.end(self.spoke or now)
        self.began, self.spoke, self.counted = now, None, self.usage

    def _end_tool(self, call: str, error: str | None) -> None:
        name, began = self.calls.pop(call)
        known = name if name in self.tools else OTHER
        about = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": known,
            "gen_ai.tool.call.id": hash_of(call),
        }
        span = self.tracer.start_span(f"execute_tool {known}", start_time=began, attributes=about)
        if error:
            _fail(span, error)
        span.end()


def _tokens(usage: Usage, before: Usage) -> dict[str, int]:
    return {
        "gen_ai.usage.input_tokens": usage.input_tokens - before.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens - before.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens - before.cached_tokens,
    }


def _error_of(failure: BaseException) -> str:
    """Return what tells errors apart and is no text: the slug of the problem, or the class."""
    if isinstance(failure, asyncio.CancelledError | GeneratorExit):
        return CANCELLED
    return kind_of(failure).slug if isinstance(failure, ServiceError) else type(failure).__qualname__


def _fail(span: Span, error: str) -> None:
    span.set_attribute("error.type", error)
    span.set_status(Status(StatusCode.ERROR))
