"""Connections that never end a request, never read an answer or never say anything, and callers that come meanwhile."""

import asyncio
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp

from tests.chaos.callers import ask, chat
from tests.chaos.process import MIB, open_files, rss_bytes
from tests.chaos.replicas import OURS, Replica, broken
from tests.chaos.trial import Bar, Trial

EACH = {True: 500, False: 50}  # slow connections of a kind
ORDINARY = 200
WAVE = 25  # slow connections that come at once
AT_ONCE = 10  # of the ordinary requests
GROWTH_BYTES = 20 * MIB // 500  # of a slow connection, the answer included that it does not read
NOISE_BYTES = 2 * MIB  # of the allocator, which a short run notices
SLACK_S = 5.0  # on a busy machine; also what D4's 15 s leave beside the limit
DRIP_S = 1.0
PAGE_TURNS, PAGES = 5, 5  # of a transcript, and transcripts asked for at once: more than a connection takes unread
HASTY = ("hasty head", "hasty unread", "hasty body", "hasty keep-alive")
MAX_HEAD_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Kind:
    """A slow caller: what it says at once, what it says each second after that, and whether it reads."""

    opening: bytes
    drip: bytes
    reads: bool = True


KINDS = {
    "slow header": Kind(b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-Slow: ", b"x"),
    "slow body": Kind(
        b"POST /chat HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n{", b" "
    ),
    "silent": Kind(b"", b""),
    "half-open": Kind(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", b""),  # gone without a word: nobody can see it
    "slow reader": Kind(b"GET /sessions/page HTTP/1.1\r\nHost: a\r\n\r\n" * PAGES, b"\r\n", reads=False),
}


@dataclass(frozen=True, slots=True)
class Limits:
    """The service's, in seconds: for a head, a body, an answer that nobody reads, and between two requests."""

    head_s: float
    body_s: float
    unread_s: float
    idle_s: float


LIMITS = {True: Limits(10, 10, 60, 75), False: Limits(3, 3, 5, 5)}  # hasty: see HASTY


async def run(trial: Trial) -> None:
    hasty = broken(*HASTY, *(["own protocol"] if trial.broken else []))
    with TemporaryDirectory() as folder:
        async with (
            Replica(Path(folder), OURS if trial.full else hasty) as replica,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as http,
        ):
            await _fill_page(http, replica)
            await _ordinary(trial, http, replica)
            await _siege(trial, http, replica, LIMITS[trial.full])
            await _long_heads(trial, replica)
    trial.demand("slow connections at once", EACH[trial.full] * len(KINDS))
    for name in KINDS:
        trial.demand(f"{name} to the limit", EACH[trial.full])
    trial.demand("of them after the ordinary requests", EACH[trial.full] * len(KINDS) // 3)


async def _fill_page(http: aiohttp.ClientSession, replica: Replica) -> None:
    """Make a session whose transcript is longer than what a connection takes unread."""
    for _ in range(PAGE_TURNS):
        assert (await chat(http, replica.url, "page", "x" * 4000)).done


async def _siege(trial: Trial, http: aiohttp.ClientSession, replica: Replica, limits: Limits) -> None:
    """Open all slow connections, serve the ordinary requests, and wait for the end of the slow ones."""
    pid = replica.process.pid
    await _settled(pid)
    files, memory = open_files(pid), rss_bytes(pid)
    longest = max(limits.idle_s, limits.unread_s) + SLACK_S
    slow: list[asyncio.Task[float]] = []
    for kind in [each for each in KINDS.values() for _ in range(EACH[trial.full])]:
        slow.append(asyncio.create_task(_held(kind, replica.port, longest)))
        if len(slow) % WAVE == 0:  # what they hold is measured, not what all of them ask for in one instant
            await _until_open(pid, files + len(slow))
            await ask(http, f"{replica.url}/healthz")
    await _until_open(pid, files + len(slow))
    trial.saw("slow connections at once", open_files(pid) - files)
    await _ordinary(trial, http, replica)
    trial.saw("of them after the ordinary requests", open_files(pid) - files)
    grown = rss_bytes(pid) - memory
    trial.check(
        grown <= GROWTH_BYTES * len(slow) + NOISE_BYTES, f"{len(slow)} slow connections took {grown / MIB:.1f} MiB"
    )
    trial.seen["KiB grown"] = grown // 1024
    held = iter(await asyncio.gather(*slow))
    for name, limit_s in _promised(limits).items():
        ages = sorted(next(held) for _ in range(EACH[trial.full]))
        trial.seen[f"s {name}"] = round(ages[-1])
        trial.saw(f"{name} to the limit", sum(age >= limit_s - DRIP_S for age in ages))
        for age in ages:
            trial.check(age <= limit_s + SLACK_S, f"{name}: a connection was held for {age:.0f} s, not {limit_s}")
    left = await _settled(pid) - files
    trial.check(abs(left) <= 2, f"{left} files are open that were not before")


async def _until_open(pid: int, files: int) -> None:
    async with asyncio.timeout(60):
        while open_files(pid) < files:
            await asyncio.sleep(0.01)


async def _settled(pid: int) -> int:
    """Return how many files the process holds once that changes no more: the ends of connections take a moment."""
    seen = [open_files(pid)]
    while len(seen) < 5 or len(set(seen[-5:])) > 1:
        assert len(seen) < 200
        await asyncio.sleep(0.1)
        seen.append(open_files(pid))
    return seen[-1]


def _promised(limits: Limits) -> dict[str, float]:
    seconds = (limits.head_s, limits.body_s, limits.head_s, limits.idle_s, limits.unread_s)
    return dict(zip(KINDS, seconds, strict=True))


async def _held(kind: Kind, port: int, longest_s: float) -> float:
    """Return for how many seconds the server bears with such a caller."""
    caller = socket.socket()
    caller.setblocking(False)  # noqa: FBT003 its only argument
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)  # or the kernel takes megabytes before anyone waits
    await asyncio.get_running_loop().sock_connect(caller, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=caller, limit=1024)  # which reads no more than twice that
    started = time.monotonic()
    writer.write(kind.opening)
    end = asyncio.create_task(reader.read() if kind.reads else _until_refused(writer, longest_s))
    while not end.done() and time.monotonic() < started + longest_s:
        await asyncio.wait([end], timeout=DRIP_S)
        writer.write(kind.drip)
    held_s = time.monotonic() - started
    end.cancel()
    await asyncio.gather(end, return_exceptions=True)
    writer.transport.abort()
    return held_s


async def _until_refused(writer: asyncio.StreamWriter, longest_s: float) -> bytes:
    """Return once the connection takes nothing any more; whoever does not read learns of its end in no other way."""
    give_up = time.monotonic() + longest_s
    while not writer.transport.is_closing() and time.monotonic() < give_up:
        await asyncio.sleep(0.1)
    return b""


async def _ordinary(trial: Trial, http: aiohttp.ClientSession, replica: Replica) -> None:
    """Half of the ordinary requests are turns, all of them on new connections."""
    free = asyncio.Semaphore(AT_ONCE)

    async def one(n: int) -> None:
        async with free:
            calling = chat(http, replica.url, f"s-{n}", "hello") if n % 2 else ask(http, f"{replica.url}/healthz")
            outcome = await calling
        trial.check(outcome.status == 200, f"an ordinary request got {outcome.status} {outcome.text[:100]}")

    await asyncio.gather(*[one(n) for n in range(ORDINARY)])


async def _long_heads(trial: Trial, replica: Replica) -> None:
    """A head of one byte more than the limit is refused in words, and its connection closed."""
    start = b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: "

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", replica.port)
        writer.write(start + b"x" * (MAX_HEAD_BYTES + 1 - len(start)))
        try:
            async with asyncio.timeout(SLACK_S):
                answer = await reader.read()
        except (TimeoutError, ConnectionError) as exc:
            answer = type(exc).__name__.encode()
        trial.check(answer.startswith(b"HTTP/1.1 431 "), f"a head without measure gets {answer[:40]!r}")
        writer.transport.abort()

    await asyncio.gather(*[one() for _ in range(20)])


BAR = Bar(
    name="hostile",
    promise="Slow callers are cut off in time, cost little, and keep nobody from being served.",
    control="our HTTP protocol, in the place of which stands uvicorn's",
    run=run,
    alone=True,
)
