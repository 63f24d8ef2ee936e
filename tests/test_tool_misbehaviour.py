"""Tools that fail in ways no tool should, and threads that never come back."""

import asyncio
import functools
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import Annotated, Any

import pytest
from pydantic import AfterValidator, BaseModel

from app.agents import tools
from app.agents.tools import Outcome, Request, Toolbox, ToolKey
from app.errors import DeadlineExceeded

pytestmark = pytest.mark.anyio

CANARY = "canary-7f3a"


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    gate = threading.Event()
    yield gate
    gate.set()


async def results(toolbox: Toolbox, *requests: Request, limit_s: float = 10.0) -> list[Outcome]:
    deadline = asyncio.get_running_loop().time() + limit_s
    async with aclosing(toolbox.run(requests, deadline)) as found:
        return [outcome async for outcome in found]


async def result(function: Callable[..., Any], **args: Any) -> Outcome:
    [outcome] = await results(Toolbox([function]), Request("id", function.__name__, args, ToolKey("key")))
    return outcome


class Leaves(BaseException):
    """What no tool should raise."""


async def test_a_validator_that_fails_is_an_error_result() -> None:
    def refuse(_: str) -> str:
        raise LookupError(CANARY)

    def look(item: Annotated[str, AfterValidator(refuse)]) -> str:
        """Return it."""
        return item

    assert await result(look, item="tea") == Outcome("id", "The tool failed: LookupError", ok=False)


async def test_what_no_tool_should_raise_is_an_error_result() -> None:
    async def leave() -> str:
        """Raise."""
        raise Leaves(CANARY)

    assert await result(leave) == Outcome("id", "The tool failed: Leaves", ok=False)


async def test_what_a_tool_cannot_validate_is_its_own_failure() -> None:
    class Item(BaseModel):
        price: float

    def buy() -> str:
        """Return the price."""
        return str(Item.model_validate({"price": CANARY}).price)

    assert await result(buy) == Outcome("id", "The tool failed: ValidationError", ok=False)


async def test_an_async_function_behind_a_sync_wrapper_is_awaited() -> None:
    async def clock() -> str:
        """Return the time."""
        return "noon"

    @functools.wraps(clock)
    def wrapped() -> Awaitable[str]:
        return clock()

    assert await result(wrapped) == Outcome("id", "noon", ok=True)


async def test_while_all_threads_are_taken_the_model_is_told(gate: threading.Event, monkeypatch: Any) -> None:
    def stuck() -> str:
        """Return once the gate is open."""
        gate.wait(30)
        return "late"

    monkeypatch.setattr(tools, "THREADS", 1)
    toolbox = Toolbox([stuck])
    request = Request("id", "stuck", {}, ToolKey("key"))
    with pytest.raises(DeadlineExceeded):
        await results(toolbox, request, limit_s=0.05)
    assert await results(toolbox, request) == [Outcome("id", "Too many tools are running. Try again later.", ok=False)]
    gate.set()
    async with asyncio.timeout(10):
        while (await results(toolbox, request)) != [Outcome("id", "late", ok=True)]:
            await asyncio.sleep(0.01)
