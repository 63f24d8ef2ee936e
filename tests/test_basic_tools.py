"""The tools that come along."""

import pytest

from app.agents import basic_tools, tools
from app.agents.tools import ToolError
from tests.model_script import Call, says
from tests.with_model import done, talking


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1 + 2 * 3", "7"),
        ("-(2 ** 10) // 3", "-342"),
        ("7 / 2 - 0.5", "3.0"),
        ("+7 % 4", "3"),
        ("2 ** 0.5", str(2**0.5)),
        ("9" * 30, "9" * 30),
        ("2 ** 2000", str(2**2000)),
    ],
)
def test_the_calculator_calculates(expression: str, value: str) -> None:
    assert basic_tools.calculator(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        *("", "1 +", "canary", "f(1)", "'a' * 3", "True", "[1]", "1 if 1 else 2", "1; 2", "(1).real", "1 < 2", "~1"),
        *("1 / 0", "1 % 0", "0 ** -1", "(-8) ** 0.5", "1e308 * 10 ** 400", "1e400 - 1e400"),
        *("9 ** 9 ** 9", "10 ** 10 ** 10", "2 ** 5000", "(2 ** 4000) * (2 ** 4000)", "1" * 1001),
        *("(" * 500 + "1" + ")" * 500, "1\0"),
    ],
)
def test_what_the_calculator_cannot_do_is_told(expression: str) -> None:
    with pytest.raises(ToolError):
        basic_tools.calculator(expression)


@pytest.mark.anyio
async def test_the_tools_that_come_along_can_be_served() -> None:
    functions = basic_tools.tools
    assert tools.load("app.agents.basic_tools:tools").names == {"clock", "calculator"}
    async with talking(
        says(Call("calculator", {"expression": "6 * 7"}), Call("clock")), says("So."), functions=functions
    ) as talk:
        assert done(await talk.ask())["answer"] == "So."
        results = talk.model.requests[1].messages[-1]["content"]
    assert results[0]["content"] == "42"
    assert results[1]["content"].endswith("+00:00")
