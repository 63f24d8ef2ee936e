"""What an outage of the store does to readiness: nothing, or what READYZ_STORE_FAIL_AFTER_S asks for."""

import asyncio

import pytest

from app.config import Settings
from app.lifecycle import STORE_ANSWERS, STORE_LOOK_S
from tests.in_process import App, Outage, warm

pytestmark = pytest.mark.anyio

LIMIT_S = 20.0


async def becomes(app: App, status: int) -> str | None:
    """Wait until /readyz answers so, and return the problem's slug."""
    async with asyncio.timeout(LIMIT_S):
        while (answer := await app.request("GET", "/readyz")).status != status:
            await asyncio.sleep(0.02)
    return answer.slug if status != 200 else None


async def after_looks(store: Outage, count: int) -> None:
    wanted = store.asked.count("ping") + count
    async with asyncio.timeout(LIMIT_S):
        while store.asked.count("ping") < wanted:
            await asyncio.sleep(0.02)


async def test_an_outage_of_the_store_does_not_take_all_replicas_from_their_balancer(settings: Settings) -> None:
    store = Outage()
    async with warm(settings, store=store) as app:
        store.down.update({"ping", "newest"})
        asked = len(store.asked)
        assert [(await app.request("GET", "/readyz")).status for _ in range(1000)] == [200] * 1000
        assert len(store.asked) == asked
        assert (await app.chat("hello")).slug == "store-unavailable"
        assert (await app.request("GET", "/healthz")).status == 200


async def test_where_asked_for_readiness_fails_after_its_time_and_comes_back(settings: Settings) -> None:
    store = Outage()
    async with warm(settings.model_copy(update={"readyz_store_fail_after_s": STORE_LOOK_S}), store=store) as app:
        await after_looks(store, 1)
        store.down.add("ping")
        await after_looks(store, 1)
        assert (await app.request("GET", "/readyz")).status == 200  # the time counts from the first failure
        assert await becomes(app, 503) == "store-unavailable"
        assert (await app.chat("hello")).status == 200  # a turn is tried all the same
        assert (await app.request("GET", "/healthz")).status == 200
        store.down.clear()
        await after_looks(store, STORE_ANSWERS - 1)
        assert (await app.request("GET", "/readyz")).status == 503
        await becomes(app, 200)


async def test_a_single_failure_changes_nothing(settings: Settings) -> None:
    store = Outage()
    async with warm(settings.model_copy(update={"readyz_store_fail_after_s": STORE_LOOK_S}), store=store) as app:
        for _ in range(2):
            store.down.add("ping")
            await after_looks(store, 1)
            store.down.clear()
            await after_looks(store, 1)
        assert (await app.request("GET", "/readyz")).status == 200


@pytest.mark.parametrize("error", [RuntimeError("canary"), TimeoutError()], ids=["a bug", "silence"])
async def test_whatever_keeps_the_store_from_answering_counts(settings: Settings, error: Exception) -> None:
    store = Outage()
    async with warm(settings.model_copy(update={"readyz_store_fail_after_s": 0.1}), store=store) as app:
        store.error = error
        store.down.add("ping")
        assert await becomes(app, 503) == "store-unavailable"
