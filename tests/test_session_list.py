"""`GET /sessions`: the caller's sessions, newest first, in pages."""

import re

import pytest

from app.config import Settings
from tests.conformance.stores.rig import Clock
from tests.in_process import App, Outage, warm

pytestmark = pytest.mark.anyio


async def ids(app: App, query: str = "") -> tuple[list[str], str | None]:
    answer = await app.request("GET", f"/sessions{query}")
    assert answer.status == 200
    return [each["session_id"] for each in answer.json["sessions"]], answer.json["before"]


async def test_sessions_are_listed_newest_first_and_paged(settings: Settings) -> None:
    clock = Clock()
    async with warm(settings, clock=clock) as app:
        for number in range(5):
            await app.chat("hello", f"s{number}")
            await app.chat("again", f"s{number}")
            clock.advance(1)
        first, before = await ids(app, "?limit=2")
        second, before_second = await ids(app, f"?limit=2&before={before}")
        third, end = await ids(app, f"?limit=2&before={before_second}")
    assert [first, second, third, end] == [["s4", "s3"], ["s2", "s1"], ["s0"], None]


async def test_a_session_says_when_it_began(settings: Settings) -> None:
    async with warm(settings, clock=lambda: 1_800_000_000.25) as app:
        await app.chat("hello")
        listed = (await app.request("GET", "/sessions")).json["sessions"]
    assert listed == [{"session_id": "s", "created": "2027-01-15T08:00:00.250000Z"}]


async def test_nobody_has_sessions_at_first(settings: Settings) -> None:
    async with warm(settings) as app:
        assert await ids(app) == ([], None)


async def test_an_expired_session_is_not_listed(settings: Settings) -> None:
    clock = Clock()
    async with warm(settings, clock=clock) as app:
        await app.chat("hello")
        clock.advance(settings.sessions_keep_days * 86_400 + 1)
        assert await ids(app) == ([], None)


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=101", "limit=x", "before=1", "before=x/s", "before=1.000/a%20b", "before=1.000/s%0A"],
)
async def test_what_no_page_could_have_given_is_refused(settings: Settings, query: str) -> None:
    async with warm(settings) as app:
        answer = await app.request("GET", f"/sessions?{query}")
    assert (answer.status, answer.slug) == (422, "validation-failed")
    assert not re.search(r"a b|1\.000", answer.body)


async def test_a_store_that_is_down_is_said_so(settings: Settings) -> None:
    async with warm(settings, store=Outage("list_sessions")) as app:
        answer = await app.request("GET", "/sessions")
    assert (answer.status, answer.slug) == (503, "store-unavailable")
