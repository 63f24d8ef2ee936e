"""Everything that can go wrong between the model and us, at the first step and at a later one, as JSON and as SSE."""

import pytest

from tests.model_faults import FAULTS
from tests.model_script import Call, says
from tests.with_model import BOTH, shown, talking

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("accept", BOTH)
@pytest.mark.parametrize("steps_before", [0, 2])
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_turn_that_the_model_fails_is_told_so_and_leaves_nothing_behind(
    fault: str, steps_before: int, accept: str
) -> None:
    script, told, attempts = FAULTS[fault]
    calls = [says(f"step {n}", Call("weather", {"city": f"{n}"})) for n in range(steps_before)]
    async with talking(*calls, *[script] * attempts, stall_s=0.05) as talk:
        answer = await talk.ask(accept=accept)
        assert shown(answer) == told
        assert len(talk.model.requests) == steps_before + attempts
        assert "canary" not in answer.body
        assert await talk.turns() == []
        assert (await talk.ask()).json["turn"] == 1  # the session is free
