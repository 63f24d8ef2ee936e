"""Finding the agent that AGENT names, and saying what is wrong with it."""

import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pydantic_ai
import pytest
import strands
from langgraph.graph import START, StateGraph
from pydantic_ai.models.test import TestModel
from strands.session.file_session_manager import FileSessionManager
from typing_extensions import TypedDict

from app.agents import OpenTurn, from_pydantic_ai, loader
from app.errors import ConfigurationError
from app.events import AgentEvent
from tests.agents import slow
from tests.conformance.agents.script import Script
from tests.conformance.agents.strands_model import ScriptedModel

ROOT = Path(__file__).parents[1]


class Callable:
    async def __call__(self, _: OpenTurn) -> AsyncIterator[AgentEvent]:
        yield "hello"


async def coroutine(_: OpenTurn) -> str:
    return "hello"


class Number(TypedDict):
    number: int


def numbered() -> StateGraph[Number]:
    graph = StateGraph(Number)
    graph.add_node("one", lambda _: {"number": 1})
    graph.add_edge(START, "one")
    return graph


class OwnKind(pydantic_ai.Agent[None, str]):
    """Of our module, and still an Agent."""


instance = Callable()
text = "hello"
model = TestModel()
own_kind = OwnKind(model)
uncompiled = numbered()
no_messages = uncompiled.compile()
elsewhere = strands.Agent(
    ScriptedModel(Script()),
    callback_handler=None,
    session_manager=FileSessionManager("s", storage_dir=tempfile.mkdtemp()),
)


def test_a_built_in_agent_goes_by_its_name() -> None:
    assert loader.load("echo").__module__ == "app.agents.echo"


def test_an_agent_of_your_own_goes_by_module_and_object() -> None:
    assert loader.load("tests.agents:slow").__qualname__ == slow.__qualname__


def test_an_object_whose_call_is_a_generator_is_an_agent() -> None:
    assert type(loader.load(f"{__name__}:instance")).__name__ == "Callable"


def test_a_class_of_your_own_is_recognised_by_what_it_is_derived_from() -> None:
    assert type(loader.load(f"{__name__}:own_kind")).__name__ == "PydanticAI"


@pytest.mark.parametrize(
    ("package", "statement", "distribution"),
    [
        ("pydantic_ai", "load('examples.pydantic_ai_agent:agent')", "pydantic-ai-slim"),
        ("langgraph", "load('langgraph.graph:StateGraph')", "langgraph"),
        ("langchain_core", "load('langgraph.graph:StateGraph')", "langgraph"),
        ("strands", "load('examples.strands_agent:agent')", "strands-agents"),
        ("pydantic_ai", "importlib.import_module('app.agents.from_pydantic_ai')", "pydantic-ai-slim"),
    ],
)
def test_a_framework_that_is_missing_is_named(package: str, statement: str, distribution: str) -> None:
    program = f"import importlib, sys; sys.modules[{package!r}] = None; from app.agents.loader import load; {statement}"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PATH": os.defpath, "PYTHONPATH": str(ROOT)},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert f"ConfigurationError: AGENT needs {distribution}: install it beside the service" in done.stderr


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("bogus:x", "AGENT_MODEL must be provider:model, of a provider that pydantic-ai knows and that is set up here"),
        ("groq:x", "AGENT_MODEL needs its provider's extra of pydantic-ai-slim, such as [bedrock]"),
    ],
)
def test_a_model_that_pydantic_ai_cannot_use_names_the_setting(name: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        from_pydantic_ai.built_in(name, None, None)
    assert refused.value.problems[0].startswith(problem)


def test_a_limit_of_dollars_needs_a_model_whose_price_pydantic_ai_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "a key")
    assert callable(from_pydantic_ai.built_in("anthropic:claude-haiku-4-5", None, None, priced=True))
    assert callable(from_pydantic_ai.built_in("anthropic:mine", None, None))
    for unknown in ("anthropic:mine", "test"):
        with pytest.raises(ConfigurationError, match="pydantic-ai knows no list price of AGENT_MODEL"):
            from_pydantic_ai.built_in(unknown, None, None, priced=True)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("canary_module:agent", "AGENT cannot be found: ModuleNotFoundError"),
        ("tests.agents:canary", "AGENT cannot be found: AttributeError"),
        ("raises:agent", "AGENT cannot be imported: LookupError"),
        ("tests.agents:no_generator", "AGENT must be an async generator function (async def with yield)"),
        (f"{__name__}:coroutine", "AGENT must be an async generator function (async def with yield)"),
        (f"{__name__}:text", "AGENT must be something that can be called, not a str"),
        (f"{__name__}:model", "AGENT must be an Agent of pydantic-ai"),
        (f"{__name__}:uncompiled", "AGENT must be a compiled graph with `messages` in its state"),
        (f"{__name__}:no_messages", "AGENT must be a compiled graph with `messages` in its state"),
        (f"{__name__}:elsewhere", "AGENT must be a Strands Agent without a session manager"),
    ],
)
def test_what_is_no_agent_is_a_configuration_error(
    name: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "raises.py").write_text("raise LookupError('canary')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigurationError) as refused:
        loader.load(name)
    assert refused.value.problems == [problem]
