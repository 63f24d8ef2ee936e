"""Tools: how functions are described, called, bounded, and what the model hears of their failures."""

import asyncio
import dataclasses
import random
import string
import threading
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Any

import pytest
from pydantic import BaseModel

from app.agents.tools import MAX_RESULT_CHARS, Outcome, Request, Toolbox, ToolError, ToolKey
from app.errors import DeadlineExceeded
from tests.model_script import Call, error, says
from tests.model_tools import order, stock, weather
from tests.with_model import BOTH, done, talking

pytestmark = pytest.mark.anyio


def asked(name: str, args: Any = None, number: int = 0) -> Request:
    return Request(f"id{number}", name, args or {}, ToolKey("key"))


async def outcomes(functions: Sequence[Callable[..., Any]], *requests: Request, limit_s: float = 10.0) -> list[Outcome]:
    deadline = asyncio.get_running_loop().time() + limit_s
    async with aclosing(Toolbox(functions).run(requests, deadline)) as found:
        return [outcome async for outcome in found]


async def result(function: Callable[..., Any], **args: Any) -> Outcome:
    [outcome] = await outcomes([function], asked(function.__name__, args))
    return outcome


def test_a_function_is_described_by_its_name_docstring_and_types() -> None:
    [definition] = Toolbox([weather]).definitions
    schema: Any = definition["input_schema"]
    assert (definition["name"], definition["description"]) == ("weather", "Return the weather forecast of a city.")
    assert {name: each["type"] for name, each in schema["properties"].items()} == {"city": "string", "days": "integer"}
    assert (schema["type"], schema["required"], schema["additionalProperties"]) == ("object", ["city"], False)


def test_the_key_is_not_the_models_to_fill() -> None:
    definition: Any = Toolbox([order]).definitions[0]
    assert set(definition["input_schema"]["properties"]) == {"item"}


async def test_sync_and_async_functions_are_called_with_what_the_model_sent() -> None:
    found = await outcomes(
        [weather, stock], asked("weather", {"city": "Bonn", "days": 3}), asked("stock", {"item": "a"}, 1)
    )
    assert {outcome.text for outcome in found} == {"Bonn: sun for 3 days", '{"a":1}'}


async def test_a_sync_function_does_not_hold_up_the_event_loop() -> None:
    def where() -> bool:
        """Tell whether this is the main thread."""
        return threading.current_thread() is threading.main_thread()

    assert (await result(where)).text == "false"


@pytest.mark.parametrize(
    "args", [{}, {"city": 7}, {"city": "Bonn", "days": "many"}, {"city": "Bonn", "country": "DE"}, [1], "Bonn", None]
)
async def test_wrong_arguments_are_told_to_the_model_and_not_passed_on(args: Any) -> None:
    def weather(city: str, days: int = 1) -> str:
        """Fail the test that calls it."""
        raise AssertionError(city, days)

    [outcome] = await outcomes([weather], Request("id", "weather", args, ToolKey("key")))
    assert (outcome.ok, outcome.text.startswith("The arguments are wrong: ")) == (False, True)


async def test_what_is_told_of_wrong_arguments_is_bounded() -> None:
    def add(numbers: list[int]) -> int:
        """Return the sum."""
        return sum(numbers)

    outcome = await result(add, numbers=["x"] * 100_000)
    assert len(outcome.text) < MAX_RESULT_CHARS + 100


async def test_an_unknown_tool_is_told_to_the_model() -> None:
    [outcome] = await outcomes([weather], asked("wether"))
    assert (outcome.ok, outcome.text) == (False, "There is no tool of this name.")


CANARY = "canary-7f3a"
RAISED: list[BaseException] = [
    LookupError(CANARY),
    RecursionError(CANARY),
    StopIteration(CANARY),
    StopAsyncIteration(CANARY),
    SystemExit(CANARY),
    TimeoutError(CANARY),
    asyncio.CancelledError(CANARY),
    DeadlineExceeded(CANARY),
    ExceptionGroup(CANARY, [ValueError()]),
]


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_whatever_a_tool_raises_is_an_error_result_without_its_text(error: BaseException, kind: str) -> None:
    def sync_raising() -> str:
        """Raise."""
        raise error

    async def async_raising() -> str:
        """Raise."""
        raise error

    outcome = await result({"sync": sync_raising, "async": async_raising}[kind])
    told = "RuntimeError" if kind == "async" and isinstance(error, StopIteration) else type(error).__name__
    assert outcome == Outcome("id0", f"The tool failed: {told}", ok=False)


async def test_a_tool_may_say_what_went_wrong() -> None:
    def picky() -> str:
        """Raise."""
        raise ToolError("There is no such city." + "\ud83d" + "x" * MAX_RESULT_CHARS)

    outcome = await result(picky)
    assert not outcome.ok
    assert outcome.text.startswith("There is no such city.?xx")
    assert "[cut here: " in outcome.text


@dataclasses.dataclass
class Point:
    x: int


class Model(BaseModel):
    y: float


cycle: list[Any] = []
cycle.append(cycle)
deep: list[Any] = []
for _ in range(100_000):
    deep = [deep]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("text", "text"),
        ("half\ud83d", "half?"),
        ({"a": [1, None]}, '{"a":[1,null]}'),
        (None, "null"),
        (float("nan"), "NaN"),
        (b"bytes", '"bytes"'),
        (Point(1), '{"x":1}'),
        (Model(y=2), '{"y":2.0}'),
        ({1}, "[1]"),
    ],
)
async def test_a_result_is_text_or_json(value: object, text: str) -> None:
    def give() -> object:
        """Return it."""
        return value

    assert await result(give) == Outcome("id0", text, ok=True)


@pytest.mark.parametrize(
    "value",
    [b"\xff", cycle, deep, object(), {"a": "\ud83d"}, {(1, 2): 3}],
    ids=["bytes", "cycle", "deep", "object", "half", "keys"],
)
async def test_a_result_that_is_no_json_never_breaks_the_turn(value: object) -> None:
    def give() -> object:
        """Return it."""
        return value

    async with talking(says(Call("give")), says("I see."), functions=[give]) as talk:
        assert done(await talk.ask())["answer"] == "I see."
        assert done(await talk.ask("and now?"))["turn"] == 2


@pytest.mark.parametrize(
    "value",
    ["x" * 50_000_000, ["x" * 50_000_000], "語" * 20_000, "x" * (MAX_RESULT_CHARS + 1)],
    ids=["text", "list", "wide", "just"],
)
async def test_a_long_result_is_cut_and_marked(value: object) -> None:
    def give() -> object:
        """Return it."""
        return value

    outcome = await result(give)
    assert outcome.ok
    kept, mark = outcome.text.split("\n")
    assert len(kept) == MAX_RESULT_CHARS
    assert mark.startswith("[cut here: ")


async def test_a_result_that_fits_is_whole() -> None:
    def give() -> str:
        """Return it."""
        return "x" * MAX_RESULT_CHARS

    assert (await result(give)).text == "x" * MAX_RESULT_CHARS


@pytest.mark.parametrize("accept", BOTH)
async def test_calls_of_one_step_run_at_the_same_time_and_are_answered_in_order(accept: str) -> None:
    together, threads = asyncio.Barrier(10), threading.Barrier(10, timeout=10)

    async def wait(n: int) -> int:
        """Wait for the others."""
        await together.wait()
        return n

    def wait_in_thread(n: int) -> int:
        """Wait for the others."""
        threads.wait()
        return n

    calls = [Call(name, {"n": n}) for n in range(10) for name in ("wait", "wait_in_thread")]
    async with talking(says(*calls), says("done"), functions=[wait, wait_in_thread]) as talk:
        assert done(await talk.ask(accept=accept))["answer"] == "done"
        asked, answered = (each["content"] for each in talk.model.requests[1].messages[-2:])
    assert [each["tool_use_id"] for each in answered] == [each["id"] for each in asked]
    assert [each["content"] for each in answered] == [str(n) for n in range(10) for _ in range(2)]


async def test_twenty_long_results_that_do_not_compress_do_not_break_the_turn() -> None:
    def noise(n: int) -> str:
        """Return nonsense."""
        return "".join(random.Random(n).choices(string.printable, k=1_000_000 // 20))  # noqa: S311

    steps = [says(*(Call("noise", {"n": 20 * step + n}) for n in range(20))) for step in range(5)]
    async with talking(*steps, says("done"), functions=[noise]) as talk:
        assert done(await talk.ask())["answer"] == "done"
        assert done(await talk.ask("and now?"))["turn"] == 2


async def test_a_tool_that_outlasts_the_deadline_is_cut_off() -> None:
    cleaned = asyncio.Event()

    async def sleepy() -> str:
        """Never return."""
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()
        return "never"

    with pytest.raises(DeadlineExceeded):
        await outcomes([sleepy], asked("sleepy"), limit_s=0.01)
    assert cleaned.is_set()


async def test_every_call_has_a_key_of_its_own() -> None:
    given: list[str] = []

    def pay(to: str, key: ToolKey) -> str:
        """Pay once for each key."""
        given.append(key)
        return f"paid {to}"

    bob, ann = Call("pay", {"to": "Bob"}), Call("pay", {"to": "Ann"})
    async with talking(says(bob, bob), says(bob), says(ann), says("done"), functions=[pay]) as talk:
        await talk.ask("please")
        for session in ("s", "t"):
            talk.model.script += [says(bob), says("done")]
            await talk.ask("please", session)
        talk.model.script += [says(bob), error(400, "invalid_request_error"), says(bob), says("done")]
        for message in ("this fails", "so this is the same turn"):
            await talk.ask(message, "u")
    assert len(set(given)) == len(given) == 8


async def test_a_retry_of_the_same_turn_gives_the_same_call_the_same_key() -> None:
    given: list[str] = []

    def pay(key: ToolKey) -> str:
        """Pay once for each key."""
        given.append(key)
        return "paid"

    async with talking(says(Call("pay")), functions=[pay]) as talk:
        talk.model.script.append(error(400, "invalid_request_error"))
        assert (await talk.ask("please", idempotency_key="k")).status == 502
        talk.model.script += [says(Call("pay")), says("done")]
        assert (await talk.ask("please", idempotency_key="k")).status == 200
        talk.model.script += [says(Call("pay")), says("done")]
        assert (await talk.ask("please", idempotency_key="l")).status == 200
    assert given[0] == given[1] != given[2]
