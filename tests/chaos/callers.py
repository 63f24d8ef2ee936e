"""Callers of the service: one request and what came of it, and callers that repeat it until it is acknowledged."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

ANSWER_S = 60.0  # nothing takes as long; what does hangs
PAUSE_S = 0.05


@dataclass(slots=True)
class Outcome:
    """What a caller got: a status, 0 where there was none, headers in lower case, and a body that may be cut off.

    cut: the connection ended before the answer did
    """

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    text: str = ""
    cut: bool = False

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def frames(self) -> list[tuple[str, str]]:
        """The whole SSE events: name and data as they came."""
        frames = [each.split("\n") for each in self.text.split("\n\n")[:-1] if each.startswith("event: ")]
        return [(name.removeprefix("event: "), data.removeprefix("data: ")) for name, data in frames]

    @property
    def events(self) -> list[tuple[str, Any]]:
        """The whole SSE events: name and data."""
        return [(name, json.loads(data)) for name, data in self.frames]

    @property
    def is_stream(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")

    @property
    def acknowledgement(self) -> str:
        """The JSON of the acknowledged turn as it came; empty where nothing was acknowledged."""
        if self.status != 200 or (self.cut and not self.is_stream):
            return ""
        if not self.is_stream:
            return self.text
        name, data = self.frames[-1] if self.frames else ("", "")
        return data if name == "done" else ""

    @property
    def done(self) -> dict[str, Any] | None:
        """The acknowledged turn; None where nothing was acknowledged."""
        return dict(json.loads(self.acknowledgement)) if self.acknowledgement else None

    @property
    def slug(self) -> str:
        """The problem's slug, of a response or of an `error` event; empty where there is no problem."""
        if self.cut and not self.is_stream:
            return ""
        if self.is_stream:
            name, problem = self.events[-1] if self.events else ("", {})
            return str(problem["type"]).rpartition(":")[2] if name == "error" else ""
        return str(self.json["type"]).rpartition(":")[2] if self.status >= 400 else ""


async def ask(http: aiohttp.ClientSession, url: str, method: str = "GET", body: Any = None, **headers: str) -> Outcome:
    """Make one request; of header names `_` stands for `-`. Never raises for what the network does."""
    outcome = Outcome()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        async with http.request(
            method, url, json=body, headers=named, timeout=aiohttp.ClientTimeout(total=ANSWER_S)
        ) as answer:
            outcome.status, outcome.headers = (
                answer.status,
                {name.lower(): value for name, value in answer.headers.items()},
            )
            async for chunk in answer.content.iter_any():
                outcome.text += chunk.decode()
    except (aiohttp.ClientError, OSError, TimeoutError):
        outcome.cut = True
    return outcome


async def chat(
    http: aiohttp.ClientSession, url: str, session: str, message: str, *, stream: bool = False, **headers: str
) -> Outcome:
    """Send a message to a session."""
    accept = "text/event-stream" if stream else "application/json"
    body = {"message": message, "session_id": session}
    return await ask(http, f"{url}/chat", "POST", body, Accept=accept, **headers)


@dataclass(frozen=True, slots=True)
class Said:
    """An acknowledged message, as its caller knows it.

    sent, acknowledged: when, first and at last, on the event loop's clock
    raw:                the acknowledgement as it came
    """

    session: str
    message: str
    sent: float
    acknowledged: float
    raw: str
    replayed: bool

    @property
    def done(self) -> dict[str, Any]:
        """The acknowledged turn."""
        return dict(json.loads(self.raw))


async def send(
    http: aiohttp.ClientSession, url: str, session: str, message: str, *, stream: bool = False, **headers: str
) -> tuple[Outcome, list[Said]]:
    """Send a message once, with itself as its key; return what came of it, and what was acknowledged, if it was."""
    sent = asyncio.get_running_loop().time()
    outcome = await chat(http, url, session, message, stream=stream, Idempotency_Key=message, **headers)
    if not outcome.acknowledgement:
        return outcome, []
    now, replayed = asyncio.get_running_loop().time(), "idempotency-replayed" in outcome.headers
    return outcome, [Said(session, message, sent, now, outcome.acknowledgement, replayed)]


class Caller:
    """A caller that repeats each message, with the same key, until it is acknowledged, at any of the `urls`.

    `met` counts what it met on the way: problems by slug, `cut`, `refused`, and `replayed`; `attempts` all it sent.
    """

    def __init__(self, http: aiohttp.ClientSession, urls: Callable[[], str]) -> None:
        self._http = http
        self._urls = urls
        self.met: Counter[str] = Counter()
        self.said: list[Said] = []
        self.attempts = 0

    async def say(
        self, session: str, message: str, *, stream: bool = False, wait_s: int = 5, at_once: bool = False
    ) -> dict[str, Any]:
        """Return the acknowledged turn. `at_once`: the first attempt does not wait, and so is told of others."""
        sent = asyncio.get_running_loop().time()
        async with asyncio.timeout(2 * ANSWER_S):
            while True:
                self.attempts += 1
                prefer = {} if at_once else {"Prefer": f"wait={wait_s}"}
                outcome = await self._send(session, message, stream=stream, Idempotency_Key=message, **prefer)
                at_once = False
                if outcome.acknowledgement:
                    replayed = "idempotency-replayed" in outcome.headers
                    self.met["replayed"] += replayed
                    now = asyncio.get_running_loop().time()
                    self.said.append(Said(session, message, sent, now, outcome.acknowledgement, replayed))
                    return self.said[-1].done
                self.met[outcome.slug or ("cut" if outcome.status else "refused")] += 1
                await asyncio.sleep(PAUSE_S)

    async def _send(self, session: str, message: str, *, stream: bool, **headers: str) -> Outcome:
        """Make one attempt; what derives from it may give up sooner."""
        return await chat(self._http, self._urls(), session, message, stream=stream, **headers)


async def transcript(http: aiohttp.ClientSession, url: str, session: str) -> list[dict[str, Any]]:
    """Return all stored turns of a session, oldest first."""
    turns: list[dict[str, Any]] = []
    before = ""
    while True:
        page = await ask(http, f"{url}/sessions/{session}?limit=100{before}")
        assert page.status == 200, page.status
        turns = page.json["turns"] + turns
        if page.json["before"] is None:
            return turns
        before = f"&before={page.json['before']}"
