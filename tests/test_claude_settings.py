"""The built-in agent as the settings describe it."""

from pathlib import Path
from typing import Any

import pytest

from app.config import Settings
from app.errors import ConfigurationError
from app.main import create_app
from tests.fake_model import FakeModel, Request
from tests.in_process import warm
from tests.model_script import Call, says

pytestmark = pytest.mark.anyio


async def asked(model: FakeModel, **fields: Any) -> Request:
    """Take a turn with these settings and return the request that the model got."""
    settings = Settings(_env_file=None, api_key="canary-key", base_url=model.url, **fields)
    async with warm(settings) as app:
        assert (await app.chat("hello")).status == 200
    return model.requests[-1]


async def test_with_a_key_alone_the_model_is_asked() -> None:
    async with FakeModel() as model:
        request = await asked(model)
    assert (request.body["model"], request.body["max_tokens"]) == ("claude-sonnet-5-5", 16_384)
    assert "system" not in request.body
    assert "tools" not in request.body


async def test_the_model_and_its_limits_are_settings() -> None:
    async with FakeModel() as model:
        request = await asked(model, agent_model="claude-opus-5-5", max_output_tokens=77)
    assert (request.body["model"], request.body["max_tokens"]) == ("claude-opus-5-5", 77)


async def test_instructions_may_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "instructions.txt"
    path.write_text("Be brief: ü.\n", encoding="utf-8")
    async with FakeModel() as model:
        assert (await asked(model, instructions_file=path)).body["system"] == "Be brief: ü."
        assert (await asked(model, instructions="Be long.")).body["system"] == "Be long."


async def test_tools_come_from_a_module() -> None:
    async with FakeModel(says(Call("calculator", {"expression": "6 * 7"})), says("42")) as model:
        request = await asked(model, tools="app.agents.basic_tools:tools")
    assert request.messages[-1]["content"][0]["content"] == "42"


async def test_prices_may_be_ones_own() -> None:
    async with FakeModel() as model:
        settings = Settings(_env_file=None, api_key="k", base_url=model.url, agent_model="mine", prices="1000000,0.1")
        async with warm(settings) as app:
            assert (await app.chat("hello")).json["usage"]["usd"] == 10.000001


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"agent_model": "mine", "max_cost_usd": 1}, "AGENT_PRICES is required with AGENT_MAX_COST_USD"),
        ({"instructions_file": Path("canary")}, "AGENT_INSTRUCTIONS_FILE must be a readable text file"),
        ({"tools": "canary:tools"}, "AGENT_TOOLS cannot be found"),
    ],
)
def test_what_cannot_be_served_is_a_configuration_error(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        create_app(Settings(_env_file=None, api_key="k", **fields))
    assert refused.value.problems[0].startswith(problem)
    assert "canary" not in str(refused.value)
