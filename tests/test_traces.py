"""Traces: the spans of turns as a collector gets them, from a whole server that talks with a model."""

import asyncio
import re
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv.schemas import Schemas

from app import turn_log
from app.agents import Agent, OpenTurn
from app.errors import ModelOverloaded
from app.events import AgentEvent, Stop, ToolCall, ToolResult, Usage
from app.tracing import CANCELLED, SCHEMA, Traced
from tests.collector import Collector, Span, collector
from tests.entry_points import Answer, HTTPClient, server
from tests.fake_model import FakeModel, in_thread
from tests.log_lines import CANARY, lines_of, turns_in
from tests.model_process import variables_for
from tests.model_script import Call, Fault, broken, says
from tests.with_model import BOTH, MODEL, SSE

ASKS = Call("weather", {"city": CANARY})
EXIT_S = 15

pytestmark = pytest.mark.anyio


@dataclass
class Run:
    """What came of the turns of one server: answers by name, spans, log lines."""

    answers: dict[str, Answer]
    found: Collector
    lines: list[dict[str, Any]]

    def of(self, name: str) -> list[Span]:
        return [span for span in self.found.spans if span.trace == trace_of(name)]


def trace_of(name: str) -> str:
    return name.encode().hex().rjust(32, "0")


def parent(name: str) -> dict[str, str]:
    traceparent = f"00-{trace_of(name)}-00f067aa0ba902b7-01"
    return {"traceparent": traceparent, "tracestate": f"vendor={CANARY}", "baggage": f"user={CANARY}"}


def take_turns(client: HTTPClient, model: FakeModel) -> dict[str, Answer]:
    answers = {}

    def chat(name: str, *script: Any, accept: str = BOTH[0], trace: bool = True, message: str = CANARY) -> None:
        model.script[:] = script
        headers = {"Content-Type": "application/json", "Accept": accept, **(parent(name) if trace else {})}
        body = f'{{"message": "{message}", "session_id": "{CANARY}-{name}"}}'.encode()
        answers[name] = client.request("POST", f"/chat?{CANARY}={CANARY}", body, headers)

    chat("json", says("canary so", ASKS), says("canary sun"))
    chat("sse", says("canary so", ASKS), says("canary sun"), accept=SSE)
    chat("cut", says("canary so", ASKS), broken("content_block_delta", Fault.CUT))
    chat("cut-sse", says("canary so", ASKS), broken("content_block_delta", Fault.CUT), accept=SSE)
    chat("failing", says("canary so", Call("failing", {"text": CANARY}), ASKS), says("canary oh"))
    chat("unknown", says("canary so", Call("canary_tool", {})), says("canary oh"))
    chat("alone", says("canary"), trace=False)
    answers["transcript"] = client.request("GET", f"/sessions/{CANARY}-json?before=9", headers=parent("transcript"))
    answers["nowhere"] = client.request(
        "PROPFIND", f"/{CANARY}", headers={"Host": f"{CANARY}.example", **parent("nowhere")}
    )
    answers["probe"] = client.request("GET", "/healthz", headers=parent("probe"))
    return answers


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("traced")
    with in_thread() as model, collector() as found:
        variables = variables_for(model) | {"TRACES": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": found.url}
        with server([sys.executable, "-m", "app"], folder, **variables) as running:
            answers = take_turns(HTTPClient(folder, running.http), model)
            running.process.send_signal(signal.SIGTERM)
            assert running.process.wait(EXIT_S) == 0
        yield Run(answers, found, lines_of(running.log.read_text()))


def tree(spans: list[Span]) -> list[tuple[str, str]]:
    """Return each span's name with its parent's, in the order in which they began; the caller's is `caller`."""
    names = {span.id: span.name for span in spans} | {"00f067aa0ba902b7": "caller", "": "none"}
    return [(names[span.parent], span.name) for span in sorted(spans, key=lambda span: (span.began, -span.ended))]


@pytest.mark.parametrize("way", ["json", "sse"])
def test_a_turn_is_a_request_an_agent_model_calls_and_tools(traced: Run, way: str) -> None:
    assert tree(traced.of(way)) == [
        ("caller", "POST /chat"),
        ("POST /chat", "invoke_agent claude"),
        ("invoke_agent claude", f"chat {MODEL}"),
        ("invoke_agent claude", "execute_tool weather"),
        ("invoke_agent claude", f"chat {MODEL}"),
    ]
    assert [span.failed for span in traced.of(way)] == [False] * 5


async def test_a_tool_that_has_once_given_a_result_is_named_where_it_fails_too() -> None:
    async def agent(_: OpenTurn) -> AsyncIterator[AgentEvent]:
        for number, ok in enumerate((False, True, False)):
            yield ToolCall(str(number), "clock", {})
            yield ToolResult(str(number), None, ok)

    names = [name for name, _, _ in told(await spans_of(agent))[1:]]
    assert names == ["execute_tool _OTHER", "execute_tool clock", "execute_tool clock"]


@pytest.mark.parametrize(("way", "status"), [("cut", 502), ("cut-sse", 200)])
def test_a_model_that_fails_ends_its_call_and_the_agent_with_the_problem(traced: Run, way: str, status: int) -> None:
    spans = sorted(traced.of(way), key=lambda span: (span.began, -span.ended))
    assert [(span.name.split()[0], span.attributes.get("error.type")) for span in spans[1:]] == [
        ("invoke_agent", "upstream-invalid"),
        ("chat", None),
        ("execute_tool", None),
        ("chat", "upstream-invalid"),
    ]
    assert [span.failed for span in spans] == [status == 502, True, False, False, True]
    assert spans[0].attributes["http.response.status_code"] == status


def test_a_tool_that_fails_is_told_without_its_reason(traced: Run) -> None:
    tools = [span for span in traced.of("failing") if span.name.startswith("execute_tool")]
    assert {span.name: (span.failed, span.attributes.get("error.type")) for span in tools} == {
        "execute_tool failing": (True, "_OTHER"),
        "execute_tool weather": (False, None),
    }


def test_a_tool_that_a_model_makes_up_is_not_named(traced: Run) -> None:
    assert "execute_tool _OTHER" in [span.name for span in traced.of("unknown")]


def test_attributes_are_those_of_the_conventions_and_add_up(traced: Run) -> None:
    usage = traced.answers["json"].json["usage"]
    [agent] = [span for span in traced.of("json") if span.name.startswith("invoke_agent")]
    chats = [span for span in traced.of("json") if span.name.startswith("chat")]
    [tool] = [span for span in traced.of("json") if span.name.startswith("execute_tool")]
    model = {"gen_ai.provider.name": "anthropic", "gen_ai.request.model": MODEL}
    tokens = {f"gen_ai.usage.{kind}": usage[kind] for kind in ("input_tokens", "output_tokens")}
    cached = {"gen_ai.usage.cache_read.input_tokens": usage["cached_tokens"]}
    assert agent.attributes == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": "claude",
        "gen_ai.conversation.id": turn_log.hash_of(f"anonymous/{CANARY}-json"),
        "gen_ai.response.finish_reasons": ["end_turn"],
        **model,
        **tokens,
        **cached,
    }
    for name, total in (tokens | cached).items():
        assert sum(chat.attributes[name] for chat in chats) == total
    assert all(chat.attributes.items() >= {"gen_ai.operation.name": "chat", **model}.items() for chat in chats)
    [called] = [data for name, data in traced.answers["sse"].events if name == "tool_call"]
    [streamed] = [span for span in traced.of("sse") if span.name.startswith("execute_tool")]
    assert streamed.attributes["gen_ai.tool.call.id"] == turn_log.hash_of(called["id"])
    assert {name: value for name, value in tool.attributes.items() if name != "gen_ai.tool.call.id"} == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "weather",
    }
    assert [span.kind for span in (agent, chats[0], tool)] == [1, 3, 1]  # internal, client


def test_names_are_pinned_to_one_version_of_the_conventions(traced: Run) -> None:
    known = {value for name, value in vars(gen_ai_attributes).items() if name.startswith("GEN_AI_")}
    used = {name for span in traced.found.spans for name in span.attributes if name.startswith("gen_ai.")}
    assert len(used) == 11
    assert used <= known
    assert {span.schema for span in traced.found.named("invoke_agent")} == {SCHEMA}
    assert Schemas.V1_44_0.value == SCHEMA


def test_steps_follow_each_other_in_time(traced: Run) -> None:
    spans = sorted(traced.of("json"), key=lambda span: (span.began, -span.ended))
    request, agent, first, tool, second = spans
    assert request.began <= agent.began <= first.began <= first.ended <= tool.began <= tool.ended
    assert tool.ended <= second.began <= second.ended <= agent.ended <= request.ended


def test_a_request_tells_its_route_and_nothing_that_its_caller_wrote(traced: Run) -> None:
    [transcript], [nowhere] = traced.of("transcript"), traced.of("nowhere")
    assert transcript.name == "GET /sessions/{session_id}"
    assert set(transcript.attributes) == {
        "http.request.method",
        "http.response.status_code",
        "http.route",
        "network.protocol.version",
        "url.scheme",
    }
    assert (nowhere.name, nowhere.attributes["http.response.status_code"]) == ("HTTP", 404)


def test_nothing_that_was_said_leaves_the_process(traced: Run) -> None:
    assert len(traced.found.spans) > 30
    assert b"canary" not in traced.found.raw
    assert [span.name for span in traced.found.spans if span.events] == []


def test_probes_are_not_traced(traced: Run) -> None:
    assert traced.answers["probe"].status == 200
    assert traced.of("probe") == []


def test_the_line_of_a_turn_has_the_trace_of_its_spans(traced: Run) -> None:
    told = {line["session_hash"]: line["trace_id"] for line in traced.lines if line["event"] == "turn finished"}
    for name in ("json", "sse", "cut", "failing"):
        assert told[turn_log.hash_of(f"anonymous/{CANARY}-{name}")] == trace_of(name)
    alone = told[turn_log.hash_of(f"anonymous/{CANARY}-alone")]
    mine = [span for span in traced.found.spans if span.trace == alone]
    assert tree(mine)[0] == ("none", "POST /chat")
    assert len(mine) == 3


def test_the_service_is_named(traced: Run) -> None:
    assert {span.resource["service.name"] for span in traced.found.spans} == {"agent-service"}


def test_the_caller_says_whether_its_trace_is_kept(tmp_path: Path) -> None:
    with collector() as found:
        variables = {"TRACES": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": found.url, "OTEL_SERVICE_NAME": "mine"}
        with server([sys.executable, "-m", "app"], tmp_path, **variables) as running:
            for flags in ("00", "01"):
                header = {"traceparent": f"00-{trace_of('x')}-00f067aa0ba902b7-{flags}"}
                running.http.post("/chat", json={"message": "hello", "session_id": flags}, headers=header)
            running.process.send_signal(signal.SIGTERM)
            assert running.process.wait(EXIT_S) == 0
        [sampled] = found.named("invoke_agent echo")
        assert sampled.attributes["gen_ai.conversation.id"] == turn_log.hash_of("anonymous/01")
        assert sampled.resource["service.name"] == "mine"
        assert [line["trace_id"] for line in turns_in(running.log)] == [trace_of("x")] * 2
        assert found.named("chat") == []  # echo calls no model


# What the agents of users may do, by the spans of one turn in memory.


async def spans_of(agent: Agent, *, leave_after: int | None = None) -> list[ReadableSpan]:
    """Run one turn of the agent, whatever it raises, or leave it after so many events; return its spans."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    turn = OpenTurn("hello", (), b"", 1, "s", "me", 5, asyncio.get_running_loop().time() + 5)
    with suppress(LookupError, ModelOverloaded):
        async with aclosing(Traced(agent, provider, "mine:agent", "bedrock:a.model")(turn)) as events:  # type: ignore[type-var]  # an async generator
            taken = 0
            async for _ in events:
                taken += 1
                if taken == leave_after:
                    break
    return list(exporter.get_finished_spans())


def told(spans: list[ReadableSpan]) -> list[tuple[str, object, object]]:
    found = sorted(spans, key=lambda span: (span.start_time or 0, -(span.end_time or 0)))
    return [(span.name, of(span, "gen_ai.usage.input_tokens"), of(span, "error.type")) for span in found]


def of(span: ReadableSpan, attribute: str) -> object:
    return (span.attributes or {}).get(attribute)


async def test_two_model_calls_without_a_tool_between_are_two_spans() -> None:
    async def agent(_: OpenTurn) -> AsyncIterator[AgentEvent]:
        yield Usage(10, 1, 0, 1)
        yield "first"
        yield Usage(30, 2, 0, 2)
        yield Stop("end_turn", Usage(35, 3, 0, 2))

    spans = await spans_of(agent)
    assert told(spans) == [
        ("invoke_agent mine:agent", 35, None),
        ("chat a.model", 10, None),
        ("chat a.model", 25, None),
    ]
    assert {of(span, "gen_ai.provider.name") for span in spans} == {"aws.bedrock"}


async def test_usage_that_is_told_after_the_tool_was_asked_for_is_the_calls() -> None:
    async def agent(_: OpenTurn) -> AsyncIterator[AgentEvent]:
        yield ToolCall("1", "clock", {})
        yield Usage(10, 1, 0, 1)
        yield ToolCall("2", "clock", {})
        yield ToolResult("1", None)
        yield ToolResult("2", None)
        yield "text of an agent that calls no model any more"

    assert told(await spans_of(agent)) == [
        ("invoke_agent mine:agent", 10, None),
        ("chat a.model", 10, None),
        ("execute_tool clock", None, None),
        ("execute_tool clock", None, None),
    ]


async def test_what_is_cut_short_is_told_so() -> None:
    async def agent(_: OpenTurn) -> AsyncIterator[AgentEvent]:
        yield Usage(10, 1, 0, 1)
        yield ToolCall("1", "clock", {})
        yield "never"

    assert told(await spans_of(agent, leave_after=2)) == [
        ("invoke_agent mine:agent", 10, CANCELLED),
        ("chat a.model", 10, None),
        ("execute_tool _OTHER", None, CANCELLED),
    ]


async def test_a_tool_without_a_result_failed_and_has_no_name_yet() -> None:
    async def agent(_: OpenTurn) -> AsyncIterator[AgentEvent]:
        yield ToolCall("1", "clock", {})

    assert told(await spans_of(agent))[1:] == [("execute_tool _OTHER", None, "_OTHER")]


async def test_a_model_that_fails_at_once_was_called() -> None:
    async def agent(_: OpenTurn) -> AsyncIterator[AgentEvent]:
        raise ModelOverloaded
        yield

    assert told(await spans_of(agent)) == [
        ("invoke_agent mine:agent", 0, "model-overloaded"),
        ("chat a.model", 0, "model-overloaded"),
    ]


async def test_an_agent_that_raises_is_told_by_the_class() -> None:
    async def agent(_: OpenTurn) -> AsyncIterator[AgentEvent]:
        yield "so far"
        raise LookupError(CANARY)

    [span] = await spans_of(agent)
    assert of(span, "error.type") == "LookupError"
    assert not re.search("canary", span.to_json())
