"""A store that accepts a request and never answers it: every wait for it ends with the turn, and with the process."""

import asyncio
from collections.abc import Sequence

import pytest

from app.auth import ANONYMOUS
from app.config import Settings
from app.deadline import RELEASE_MARGIN_S
from app.errors import StoreRefused, StoreUnavailable
from app.lifecycle import Lifecycle
from app.sessions import NONE, Numbers, SessionKey, TurnItem
from app.web_function import GRACE_S
from tests import agents
from tests.in_process import App, Outage, serving, warm
from tests.memory_store import MemoryStore

pytestmark = pytest.mark.anyio

LIMIT_S = 20.0  # nothing here takes as long; what does hangs


class Silent(MemoryStore):
    """Never answers the named methods; `asked` tells which of them were called."""

    def __init__(self, *silent: str) -> None:
        super().__init__()
        self.silent = set(silent)
        self.asked: list[str] = []
        self.begun = asyncio.Event()

    async def newest(self, key: SessionKey, limit: int, before: int | None = None) -> Sequence[TurnItem]:
        await self._ask("newest")
        return await super().newest(key, limit, before)

    async def claim(self, key: SessionKey, item: TurnItem, dead_run: str | None = None) -> bool:
        claimed = await super().claim(key, item, dead_run)  # what is not answered may still have happened
        await self._ask("claim")
        return claimed

    async def commit(self, key: SessionKey, item: TurnItem) -> bool:
        await self._ask("commit")
        return await super().commit(key, item)

    async def release(self, key: SessionKey, turn: int, run: str) -> None:
        await self._ask("release")
        await super().release(key, turn, run)

    async def add(
        self, key: SessionKey, window: int, amounts: Numbers, expires: int, *, below: Numbers = NONE, once: bool = False
    ) -> Numbers | None:
        await self._ask("add")
        return await super().add(key, window, amounts, expires, below=below, once=once)

    async def numbers(self, key: SessionKey, window: int) -> Numbers:
        await self._ask("numbers")
        return await super().numbers(key, window)

    async def ping(self) -> None:
        await self._ask("ping")

    async def _ask(self, name: str) -> None:
        self.asked.append(name)
        if name in self.silent:
            self.begun.set()
            await asyncio.Event().wait()


@pytest.fixture
def hasty(settings: Settings) -> Settings:
    return settings.model_copy(update={"timeout_s": 1.0, "shutdown_grace_s": 3.0})


@pytest.mark.parametrize("silent", [["newest"], ["claim"], ["commit"], ["commit", "release"]], ids="+".join)
async def test_a_turn_ends_though_its_store_does_not_answer(hasty: Settings, silent: list[str]) -> None:
    loop = asyncio.get_running_loop()
    async with warm(hasty, store=Silent(*silent)) as app, asyncio.timeout(LIMIT_S):
        began = loop.time()
        answer = await app.chat("hello")
        assert loop.time() - began < hasty.timeout_s + RELEASE_MARGIN_S + 0.5
    assert (answer.status, answer.slug) == (503, "store-unavailable")


async def test_a_turn_that_met_its_deadline_is_given_back_by_a_store_that_takes_a_moment(hasty: Settings) -> None:
    class Slow(MemoryStore):
        async def release(self, key: SessionKey, turn: int, run: str) -> None:
            await asyncio.sleep(0.01)
            await super().release(key, turn, run)

    store = Slow()
    async with warm(hasty, store=store, agent=agents.silent) as app:
        assert (await app.chat("hello")).slug == "deadline-exceeded"
    assert await store.newest(SessionKey(ANONYMOUS, "s"), 1) == []


async def test_a_claim_that_was_cut_off_is_given_back(hasty: Settings) -> None:
    store = Silent("claim")
    async with warm(hasty, store=store) as app, asyncio.timeout(LIMIT_S):
        assert (await app.chat("hello")).slug == "store-unavailable"
        store.silent.clear()
        assert (await app.chat("again")).json["turn"] == 1


async def test_without_time_left_the_store_is_not_asked(hasty: Settings) -> None:
    store = Silent()
    async with warm(hasty, store=store) as app:
        answer = await app.chat("hello", x_request_timeout="0.000001")
    assert (answer.status, answer.slug) == (504, "deadline-exceeded")
    assert store.asked == ["ping"]  # which made the process ready


async def drained(app: App) -> None:
    async with asyncio.timeout(LIMIT_S):
        await app.lifecycle.drain(lambda: None)


@pytest.mark.parametrize("silent", [["newest"], ["claim"], ["commit"], ["commit", "release"]], ids="+".join)
async def test_a_process_ends_within_its_grace_though_the_store_does_not_answer(
    settings: Settings, silent: list[str]
) -> None:
    store = Silent(*silent)
    async with warm(settings.model_copy(update={"shutdown_grace_s": 3.0}), store=store) as app:
        turn = asyncio.create_task(app.chat("hello"))
        await store.begun.wait()
        await drained(app)
        answer = await turn
    assert (answer.status, answer.slug) == (503, "shutting-down")


async def test_a_turn_that_is_being_stored_may_be_so_even_within_the_second_of_a_web_function(
    settings: Settings,
) -> None:
    store = Silent("commit")
    async with warm(settings.model_copy(update={"http_endpoint": "0.0.0.0:3000"}), store=store) as app:
        turn = asyncio.create_task(app.chat("hello"))
        await store.begun.wait()
        ending = asyncio.create_task(drained(app))
        await asyncio.sleep(GRACE_S / 3)
        assert not turn.done()
        await ending
        assert (await turn).slug == "shutting-down"


async def test_a_turn_that_is_being_given_back_is_not_stopped_in_it(settings: Settings) -> None:
    store = Silent("release")
    async with warm(settings, store=store, agent=agents.raising) as app:
        turn = asyncio.create_task(app.chat("hello"))
        await store.begun.wait()
        [running] = app.lifecycle._turns  # noqa: SLF001 nothing else is at hand in the middle of a turn
        running.stop(StoreUnavailable())
        assert (await turn).slug == "agent-failed"


async def test_a_warm_up_ends_when_it_should_even_if_the_probe_swallows_its_end() -> None:
    async def probe() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise StoreUnavailable from None

    lifecycle = Lifecycle(max_turns=1, drain_delay_s=0, grace_s=3)
    lifecycle.begin(probe)
    async with asyncio.timeout(LIMIT_S):
        await lifecycle.warm_up(0.1)


async def test_a_bug_in_the_warm_up_does_not_end_it(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    store = Outage("ping")
    store.error = RuntimeError("canary")
    async with serving(settings, store=store) as app, asyncio.timeout(LIMIT_S):
        while "warm-up failed" not in caplog.messages:
            await asyncio.sleep(0.01)
        store.down.clear()
        while (await app.request("GET", "/readyz")).status != 200:
            await asyncio.sleep(0.01)


class Stumbling(MemoryStore):
    """Fails the first commits."""

    def __init__(self, fails: int) -> None:
        super().__init__()
        self.fails = fails

    async def commit(self, key: SessionKey, item: TurnItem) -> bool:
        if self.fails:
            self.fails -= 1
            raise StoreUnavailable("no answer")
        return await super().commit(key, item)


async def test_a_turn_is_stored_by_a_store_that_fails_for_less_time_than_the_turn_has(settings: Settings) -> None:
    store = Stumbling(fails=2)
    async with warm(settings.model_copy(update={"timeout_s": 1.0}), store=store) as app:
        assert (await app.chat("hello")).status == 200
        assert await app.messages() == ["hello"]


async def test_what_the_store_refuses_is_not_asked_again(settings: Settings) -> None:
    store = Outage("commit")
    store.error = StoreRefused("no space")
    async with warm(settings, store=store) as app:
        answer = await app.chat("hello")
    assert (answer.status, answer.slug) == (503, "store-unavailable")
    assert store.asked.count("commit") == 1


async def test_a_release_that_failed_is_tried_again(settings: Settings) -> None:
    store = Outage("release")
    async with warm(settings, store=store, agent=agents.raising) as app:
        turn = asyncio.create_task(app.chat("hello"))
        while store.asked.count("release") < 2:
            await asyncio.sleep(0.01)
        store.down.clear()
        assert (await turn).slug == "agent-failed"
        assert (await app.chat("again")).slug == "agent-failed"
