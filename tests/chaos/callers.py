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
    def events(self) -> list[tuple[str, Any]]:
        """The whole SSE events: name and data."""
        frames = [each.split("\n") for each in self.text.split("\n\n")[:-1] if each.startswith("event: ")]
        return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in frames]

    @property
    def is_stream(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")

    @property
    def done(self) -> dict[str, Any] | None:
        """The acknowledged turn; None where nothing was acknowledged."""
        if self.status != 200 or (self.cut and not self.is_stream):
            return None
        if not self.is_stream:
            return dict(self.json)
        name, data = self.events[-1] if self.events else ("", {})
        return dict(data) if name == "done" else None

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


class Caller:
    """A caller that repeats each message, with the same key, until it is acknowledged, at any of the `urls`.

    `met` counts what it met on the way: problems by slug, `cut`, `refused`, and `replayed`.
    """

    def __init__(self, http: aiohttp.ClientSession, urls: Callable[[], str]) -> None:
        self._http = http
        self._urls = urls
        self.met: Counter[str] = Counter()

    async def say(self, session: str, message: str, *, stream: bool = False, wait_s: int = 5) -> dict[str, Any]:
        """Return the acknowledged turn."""
        async with asyncio.timeout(2 * ANSWER_S):
            while True:
                outcome = await chat(
                    self._http,
                    self._urls(),
                    session,
                    message,
                    stream=stream,
                    Idempotency_Key=message,
                    Prefer=f"wait={wait_s}",
                )
                if done := outcome.done:
                    self.met["replayed"] += "idempotency-replayed" in outcome.headers
                    return done
                self.met[outcome.slug or ("cut" if outcome.status else "refused")] += 1
                await asyncio.sleep(PAUSE_S)


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
