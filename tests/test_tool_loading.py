"""Finding the tools that AGENT_TOOLS names, and saying what is wrong with them."""

import threading
from pathlib import Path

import pytest

from app.agents import loader, tools
from app.errors import ConfigurationError
from tests.model_tools import weather


def undocumented(city: str) -> str:
    return city


def untyped(city) -> str:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """Return it."""
    return str(city)


def variadic(*cities: str) -> str:
    """Return them."""
    return str(cities)


def unserialisable(lock: threading.Lock) -> str:
    """Return it."""
    return str(lock)


def unresolved(city: "Nowhere") -> str:  # type: ignore[name-defined]  # noqa: F821
    """Return it."""
    return str(city)


text = "no list"
nothing = 7
numbers = [1, 2]
twins = [weather, weather]
lambdas = [lambda: "x"]
bad = {each.__name__: [each] for each in (undocumented, untyped, variadic, unserialisable, unresolved)}
locals().update({f"only_{name}": value for name, value in bad.items()})


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("nowhere:tools", "AGENT_TOOLS cannot be found: ModuleNotFoundError"),
        ("tests.test_tool_loading:absent", "AGENT_TOOLS cannot be found: AttributeError"),
        ("raises:tools", "AGENT_TOOLS cannot be imported: LookupError"),
        ("tests.test_tool_loading:nothing", "AGENT_TOOLS must name a list of functions"),
        ("tests.test_tool_loading:text", "AGENT_TOOLS must list functions; str is none"),
        ("tests.test_tool_loading:numbers", "AGENT_TOOLS must list functions; int is none"),
        ("tests.test_tool_loading:lambdas", "AGENT_TOOLS must list functions; <lambda> is none"),
        ("tests.test_tool_loading:twins", "AGENT_TOOLS lists two functions of one name"),
        (
            "tests.test_tool_loading:only_undocumented",
            "AGENT_TOOLS: undocumented has no docstring to describe it to the model",
        ),
        ("tests.test_tool_loading:only_untyped", "AGENT_TOOLS: parameter city of untyped must have a name and a type"),
        (
            "tests.test_tool_loading:only_variadic",
            "AGENT_TOOLS: parameter cities of variadic must have a name and a type",
        ),
        (
            "tests.test_tool_loading:only_unserialisable",
            "AGENT_TOOLS: a parameter of unserialisable has a type that JSON cannot carry",
        ),
        ("tests.test_tool_loading:only_unresolved", "AGENT_TOOLS: the types of unresolved cannot be read"),
    ],
)
def test_what_is_no_tool_is_a_configuration_error(
    name: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "raises.py").write_text("raise LookupError('canary')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigurationError) as refused:
        tools.load(name)
    assert refused.value.problems == [problem]


def test_a_module_that_leaves_the_process_is_a_configuration_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "leaves.py").write_text("raise SystemExit('canary')\n")
    monkeypatch.syspath_prepend(tmp_path)
    for load, name in ((tools.load, "AGENT_TOOLS"), (loader.load, "AGENT")):
        with pytest.raises(ConfigurationError) as refused:
            load("leaves:thing")
        assert refused.value.problems == [f"{name} cannot be imported: SystemExit"]


def test_without_a_name_there_are_no_tools() -> None:
    assert tools.load(None).definitions == []
