"""One deadline for everything: what the model and the tools do not finish in time is cut, and what was said is kept."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from app.agents.claude import Limits
from app.events import ToolResult
from tests.fake_model import until
from tests.model_script import Call, Fault, Script, before_the_status, broken, error, says
from tests.with_model import BOTH, done, goes_on, shown, talking

pytestmark = pytest.mark.anyio

SOON = {"x_request_timeout": "0.5"}
ANY_TIME = Limits(1000, step_s=0.0)
CITIES = [says("step ", Call("weather", {"city": str(n)})) for n in range(2)]

SILENCES: dict[str, Script] = {
    "hang": before_the_status(Fault.STALL),
    "hang after the status": broken("message_start", Fault.STALL),
    "drip": broken("message_start", Fault.DRIP),
}


@pytest.mark.parametrize("accept", BOTH)
@pytest.mark.parametrize("silence", SILENCES)
async def test_a_model_that_says_nothing_in_time_is_a_timeout(silence: str, accept: str) -> None:
    async with talking(SILENCES[silence]) as talk:
        answer = await talk.ask(accept=accept, **SOON)
        assert shown(answer) == (504, "deadline-exceeded")
        assert await talk.turns() == []
        async with asyncio.timeout(5):
            await until(lambda: talk.model.requests[0].hung_up)
        await goes_on(talk)


@pytest.mark.parametrize("accept", BOTH)
@pytest.mark.parametrize("fault", [Fault.STALL, Fault.DRIP])
async def test_a_model_that_stops_in_the_middle_has_said_what_it_said(fault: Fault, accept: str) -> None:
    async with talking(broken("content_block_delta", fault)) as talk:
        body = done(await talk.ask(accept=accept, **SOON))
        assert (body["answer"], body["stop_reason"], body["usage"]["steps"]) == ("half", "deadline", 1)
        assert [turn.answer for turn in await talk.turns()] == ["half"]
        await goes_on(talk)


@pytest.mark.parametrize("accept", BOTH)
@pytest.mark.parametrize("silence", SILENCES)
async def test_a_model_that_falls_silent_after_its_tool_calls_has_made_them(silence: str, accept: str) -> None:
    async with talking(*CITIES, SILENCES[silence], limits=ANY_TIME) as talk:
        body = done(await talk.ask(accept=accept, **SOON))
        assert (body["answer"], body["stop_reason"]) == ("step step ", "deadline")
        await goes_on(talk)
        assert b"1: sun for 1 days" in talk.model.requests[-1].raw  # the next turn knows what the tools found


async def test_a_step_that_cannot_end_in_time_is_not_begun() -> None:
    async with talking(*CITIES, limits=Limits(1000, step_s=10.0)) as talk:
        body = done(await talk.ask(x_request_timeout="5"))
        assert (body["answer"], body["stop_reason"]) == ("step ", "deadline")
        assert len(talk.model.requests) == 1
        await goes_on(talk)


async def test_a_wait_that_the_model_asks_for_is_waited() -> None:
    async with talking(error(429, "rate_limit_error", retry_after="1")) as talk:
        assert done(await talk.ask())["answer"] == "fine"
        first, second = talk.model.requests
    assert second.at - first.at >= 1


@pytest.mark.parametrize("accept", BOTH)
@pytest.mark.parametrize(("status", "slug"), [(429, "model-rate-limited"), (529, "model-overloaded")])
async def test_a_wait_that_does_not_fit_is_passed_on(status: int, slug: str, accept: str) -> None:
    async with talking(error(status, "unheard_of", retry_after="120")) as talk:
        answer = await talk.ask(accept=accept)
        assert shown(answer) == (503, slug)
        assert len(talk.model.requests) == 1
        assert answer.headers.get("retry-after") == {"application/json": "120"}.get(accept)


async def test_a_wait_of_nothing_is_passed_on_as_a_second() -> None:
    async with talking(*[error(429, "rate_limit_error", retry_after="0")] * 3) as talk:
        answer = await talk.ask(x_request_timeout="0.8")
    assert (answer.slug, answer.headers["retry-after"]) == ("model-rate-limited", "1")


@pytest.fixture
def leave() -> Iterator[threading.Event]:
    """An event that is set at the end, so that no thread outlives the test."""
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.parametrize("accept", BOTH)
@pytest.mark.parametrize("name", ["blocking", "waiting", "stubborn"])
async def test_a_tool_that_does_not_return_ends_the_turn_with_what_there_is(
    name: str, accept: str, leave: threading.Event
) -> None:
    def blocking() -> None:
        """Wait in a thread."""
        leave.wait(10)

    async def waiting() -> None:
        """Wait on the event loop."""
        await asyncio.Event().wait()

    async def stubborn() -> None:
        """Wait even when told not to."""
        end = asyncio.get_running_loop().time() + 0.8
        while asyncio.get_running_loop().time() < end:
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                continue

    def quick() -> str:
        """Return at once."""
        return "found"

    functions = [blocking, waiting, stubborn, quick]
    async with talking(says("let me see", Call(name), Call("quick")), functions=functions) as talk:
        body = done(await talk.ask(accept=accept, **SOON))
        assert (body["answer"], body["stop_reason"]) == ("let me see", "deadline")
        [turn] = await talk.turns()
        assert turn.tools[2:] == (ToolResult("toolu_0001", "found"), ToolResult("toolu_0000", None, ok=False))
        await goes_on(talk)
        assert b"This tool call was not finished." in talk.model.requests[-1].raw
