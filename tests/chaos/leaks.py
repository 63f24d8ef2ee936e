"""Requests without end of every kind, callers that hang up and turns that fail: nothing may be left of them."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp

from tests.chaos.callers import ask, chat
from tests.chaos.process import MIB, connections_to, open_files, rss_bytes, threads
from tests.chaos.replicas import Replica, broken
from tests.chaos.trial import Bar, Trial
from tests.servers import Table, sessions_table

REQUESTS = {True: 100_000, False: 3_000}
CUT = {True: 2_000, False: 100}  # callers that hang up, and as many turns that fail
AT_ONCE = 16
PORTIONS = 10  # after each the memory is looked at; the first fifth warms up
GROWTH_BYTES = 2 * MIB  # per 20,000 requests
PER = 20_000
NOISE_BYTES = 2 * MIB  # of an allocator in a short run
NEAR = 2
TRACES = re.compile(r"Traceback|Exception in|exception was never|never awaited|was destroyed")
SESSIONS = 8  # of a caller
STABLE = 5  # equal looks, half a second apart; the store's connections are kept for one


async def run(trial: Trial) -> None:
    command = broken("hasty store connections", *(["turns are kept"] if trial.broken else []))
    with TemporaryDirectory() as folder, sessions_table() as table:
        settings = {
            "AGENT": "tests.chaos.agents:leaky",
            "LOG_LEVEL": "WARNING",
            "MAX_CONCURRENT_TURNS": "1000",
            **table.settings,
        }
        async with Replica(Path(folder), command, **settings) as replica:
            async with aiohttp.ClientSession() as http:
                assert (await chat(http, replica.url, "page", "hello")).done
            await _mixed(trial, replica, AT_ONCE * len(KINDS) * 4)  # everything is loaded and opened
            before = await _settled(replica, table)
            await _grow(trial, replica)
            await _cut_off(trial, replica)
            await _fail(trial, replica)
            await _compare(trial, replica, table, before)
        found = [line[:200] for line in replica.log.read_text().splitlines() if TRACES.search(line)]
        trial.check(not found, f"{len(found)} traces in the log: {found[:1]}")


async def _grow(trial: Trial, replica: Replica) -> None:
    """Make all requests and compare the memory of the second part of what follows the warm-up with its first."""
    portion, seen = REQUESTS[trial.full] // PORTIONS, []
    for _ in range(PORTIONS):
        await _mixed(trial, replica, portion)
        seen.append(rss_bytes(replica.process.pid))
    trial.saw("requests", PORTIONS * portion)
    warm = seen[PORTIONS // 5 :]
    first, last = median(warm[: len(warm) // 2]), median(warm[len(warm) // 2 :])
    requests = portion * len(warm) // 2  # between the middles of the halves
    allowed = GROWTH_BYTES * requests / PER + (0 if trial.full else NOISE_BYTES)
    grown = last - first
    trial.seen["KiB grown"] = round(grown / 1024)
    trial.check(grown <= allowed, f"{requests} requests took {grown / MIB:.2f} MiB, not {allowed / MIB:.2f}")


async def _mixed(trial: Trial, replica: Replica, count: int) -> None:
    """Make requests of all kinds, each by the turn of its caller, and check that each gets what its kind gets."""
    numbers = iter(range(count))

    async def caller(http: aiohttp.ClientSession, name: int) -> None:
        for n in numbers:
            kind, status = KINDS[n % len(KINDS)]
            outcome = await kind(http, replica.url, f"s-{name}-{n // len(KINDS) % SESSIONS}")
            trial.check(outcome.status == status and not outcome.cut, f"{n % len(KINDS)} gets {outcome.status}")

    async with aiohttp.ClientSession() as http:
        await asyncio.gather(*[caller(http, n) for n in range(AT_ONCE)])


KINDS: tuple[tuple[Callable[[aiohttp.ClientSession, str, str], Awaitable[Any]], int], ...] = (
    (lambda http, url, _: ask(http, f"{url}/healthz"), 200),
    (lambda http, url, session: chat(http, url, session, "hello"), 200),
    (lambda http, url, _: ask(http, f"{url}/sessions/none"), 404),
    (lambda http, url, session: ask(http, f"{url}/sessions/{session}?limit=1000"), 422),
    (lambda http, url, _: ask(http, f"{url}/readyz"), 200),
    (lambda http, url, session: chat(http, url, session, "hello", stream=True), 200),
    (lambda http, url, _: ask(http, f"{url}/nowhere"), 404),
    (lambda http, url, _: ask(http, f"{url}/sessions/page"), 200),
    (lambda http, url, _: ask(http, f"{url}/healthz"), 200),
    (lambda http, url, _: ask(http, f"{url}/chat", "POST", {"message": 7}), 422),
)


async def _cut_off(trial: Trial, replica: Replica) -> None:
    """Hang up in the middle of streams."""

    async def one(n: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", replica.port)
        body = b'{"message": "slow", "session_id": "cut-%d"}' % n
        head = b"POST /chat HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\nContent-Type: application/json\r\n"
        writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        came = b""
        while b"event: delta" not in came and (chunk := await reader.read(65_536)):
            came += chunk
        cut = b"event: delta" in came and b"event: done" not in came
        trial.check(cut, f"a caller could not hang up in the middle of a stream: {came.decode()}")
        writer.transport.abort()

    for first in range(0, CUT[trial.full], AT_ONCE):
        await asyncio.gather(*[one(n) for n in range(first, first + AT_ONCE)])
    trial.saw("streams cut off", CUT[trial.full])


async def _fail(trial: Trial, replica: Replica) -> None:
    """Let turns fail in the agent."""
    async with aiohttp.ClientSession() as http:
        for first in range(0, CUT[trial.full], AT_ONCE):
            names = range(first, first + AT_ONCE)
            for outcome in await asyncio.gather(*[chat(http, replica.url, f"fail-{n}", "fail") for n in names]):
                trial.check(outcome.slug == "agent-failed", f"a turn that fails gets {outcome.status}")
    trial.saw("failed turns", CUT[trial.full])


async def _settled(replica: Replica, table: Table) -> dict[str, int]:
    """Return what the process holds once that changes no more."""
    seen: list[dict[str, int]] = []
    while len(seen) < STABLE or any(each != seen[-1] for each in seen[-STABLE:]):
        assert len(seen) < 20 * STABLE, seen[-STABLE:]
        await asyncio.sleep(0.5)
        seen.append(
            {
                "threads": threads(replica.process.pid),
                "files": open_files(replica.process.pid),
                "store connections": connections_to(int(table.endpoint.rpartition(":")[2])),
            }
        )
    async with aiohttp.ClientSession() as http:  # last, because it is a turn itself
        inside = await chat(http, replica.url, "count", "count")
    return seen[-1] | {"tasks": int(inside.json["answer"])}


async def _compare(trial: Trial, replica: Replica, table: Table, before: dict[str, int]) -> None:
    """Everything but memory is back where it was."""
    after = await _settled(replica, table)
    for what, count in before.items():
        trial.check(abs(after[what] - count) <= NEAR, f"{after[what]} {what}, which were {count}")
        trial.seen[what] = after[what]


BAR = Bar(
    name="leaks",
    promise="However many requests, hang-ups and failures, nothing is left of them.",
    control="the forgetting of turns that have settled",
    run=run,
)
