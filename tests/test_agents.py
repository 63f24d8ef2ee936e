"""Finding the agent that AGENT names, and saying what is wrong with it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app import agents
from app.agents import OpenTurn
from app.errors import ConfigurationError
from app.events import AgentEvent
from tests.agents import slow


class Callable:
    async def __call__(self, _: OpenTurn) -> AsyncIterator[AgentEvent]:
        yield "hello"


async def coroutine(_: OpenTurn) -> str:
    return "hello"


instance = Callable()
text = "hello"


def test_a_built_in_agent_goes_by_its_name() -> None:
    assert agents.load("echo").__module__ == "app.agents.echo"


def test_an_agent_of_your_own_goes_by_module_and_object() -> None:
    assert agents.load("tests.agents:slow").__qualname__ == slow.__qualname__


def test_an_object_whose_call_is_a_generator_is_an_agent() -> None:
    assert type(agents.load(f"{__name__}:instance")).__name__ == "Callable"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("nobody", "AGENT must be one of echo, or module:object"),
        ("canary_module:agent", "AGENT cannot be found: ModuleNotFoundError"),
        ("tests.agents:canary", "AGENT cannot be found: AttributeError"),
        ("raises:agent", "AGENT cannot be imported: LookupError"),
        ("tests.agents:no_generator", "AGENT must be an async generator function (async def with yield)"),
        (f"{__name__}:coroutine", "AGENT must be an async generator function (async def with yield)"),
        (f"{__name__}:text", "AGENT must be an async generator function (async def with yield)"),
    ],
)
def test_what_is_no_agent_is_a_configuration_error(
    name: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "raises.py").write_text("raise LookupError('canary')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigurationError) as refused:
        agents.load(name)
    assert refused.value.problems == [problem]
