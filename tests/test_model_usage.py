"""What a turn costs: counting it, and ending the turn that costs too much."""

import pytest

from app.agents.prices import Price
from tests.model_script import USAGE, Call, always_another_call, broken, says
from tests.with_model import done, goes_on, talking

pytestmark = pytest.mark.anyio

COSTLY = always_another_call(usage=USAGE | {"input_tokens": 100})  # and five tokens of output


async def test_usage_is_that_of_all_steps() -> None:
    first = USAGE | {"input_tokens": 100, "cache_creation_input_tokens": 1000}
    second = USAGE | {"input_tokens": 50, "cache_read_input_tokens": 1000, "cache_creation_input_tokens": 200}
    price = Price(input=2, output=10, cache_read=0.1, cache_write=2.5)
    script = (
        says(Call("stock", {"item": "tea"}), usage=first, output_tokens=30),
        says("Sun!", usage=second, output_tokens=20),
    )
    async with talking(*script, price=price) as talk:
        answer = await talk.ask()
        [turn] = await talk.turns()
    usage = {"input_tokens": 2350, "output_tokens": 50, "cached_tokens": 1000, "steps": 2, "usd": 0.0039}
    assert answer.json["usage"] == usage
    assert {name: getattr(turn.usage, name) for name in usage} == usage


async def test_an_attempt_that_failed_is_paid_for_and_counted() -> None:
    async with talking(broken("message_start"), says("fine")) as talk:
        usage = (await talk.ask()).json["usage"]
    assert (usage["input_tokens"], usage["output_tokens"], usage["steps"]) == (20, 6, 1)


async def test_of_an_unknown_model_no_dollars_are_counted() -> None:
    async with talking(price=None) as talk:
        assert (await talk.ask()).json["usage"]["usd"] == 0.0


@pytest.mark.parametrize(("limit", "calls"), [(1, 1), (105, 1), (106, 2), (210, 2), (211, 3)])
async def test_the_token_budget_of_a_turn_ends_it(limit: int, calls: int) -> None:
    async with talking(max_tokens=limit, max_steps=50) as talk:
        talk.model.otherwise = COSTLY
        assert done(await talk.ask())["stop_reason"] == "budget"
        assert len(talk.model.requests) == calls
        await goes_on(talk)


@pytest.mark.parametrize(("usd", "calls"), [(0.0001, 1), (0.00025, 1), (0.00026, 2), (0.0006, 3)])
async def test_the_cost_budget_of_a_turn_ends_it(usd: float, calls: int) -> None:
    async with talking(max_cost_usd=usd, price=Price(2, 10, 0, 0), max_steps=50) as talk:
        talk.model.otherwise = COSTLY
        assert done(await talk.ask())["stop_reason"] == "budget"
        assert len(talk.model.requests) == calls


async def test_what_is_left_of_the_budget_bounds_the_next_call() -> None:
    async with talking(COSTLY, says("cut", stop_reason="max_tokens"), max_tokens=300) as talk:
        assert (await talk.ask()).json["stop_reason"] == "budget"
        assert [request.body["max_tokens"] for request in talk.model.requests] == [300, 195]


async def test_what_is_left_of_the_dollars_bounds_the_next_call() -> None:
    async with talking(COSTLY, max_cost_usd=0.001, price=Price(2, 10, 0, 0)) as talk:
        await talk.ask()
        assert [request.body["max_tokens"] for request in talk.model.requests] == [100, 75]


async def test_the_token_limit_of_one_call_is_no_budget() -> None:
    async with talking(says("cut", stop_reason="max_tokens"), max_tokens=3000) as talk:
        assert (await talk.ask()).json["stop_reason"] == "max_tokens"
