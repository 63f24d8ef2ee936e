"""One principal's session is to another one as if it were not there: no read, no write, no trace."""

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi import FastAPI

from app.agents import OpenTurn
from app.auth.api_keys import pair
from app.config import Settings
from app.main import create_app
from tests.memory_store import MemoryStore

pytestmark = pytest.mark.anyio

SESSIONS = 1000
KEYS = {"alice": "agentkey_of-alice-0123456789", "bob": "agentkey_of-bob-0123456789"}
# The names are chosen so that one's keys begin as the other's do, or would, if anything parted them wrongly.
ALICE, BOB = "tenant", "tenant/s1"
PAIRS = f"{pair(ALICE, KEYS['alice'])},{pair(BOB, KEYS['bob'])}"


@dataclass(frozen=True)
class Raw:
    """A response as the server sends it, but for what is random in it."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Caller:
    """A principal at an app in this process; no client in between, for the sake of time."""

    def __init__(self, app: FastAPI, key: str) -> None:
        self._app, self._key = app, key.encode()
        self.asked = 0

    async def __call__(self, method: str, path: str, document: object = None, **headers: str) -> Raw:
        self.asked += 1
        given = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "path": path,
            "query_string": query.encode(),
            "headers": [
                (b"content-type", b"application/json"),
                (b"authorization", b"Bearer " + self._key),
                (b"x-request-id", b"r"),
                *given,
            ],
        }
        sent: list[Any] = []

        bodies: list[dict[str, object]] = [{"type": "http.request", "body": json.dumps(document).encode()}]

        async def receive() -> dict[str, object]:
            return bodies.pop() if bodies else await asyncio.get_running_loop().create_future()

        async def send(message: Any) -> None:
            sent.append(message)

        await self._app(scope, receive, send)
        body = b"".join(message.get("body", b"") for message in sent[1:])
        return Raw(sent[0]["status"], tuple(sent[0]["headers"]), body)

    async def chat(self, session: str | None, message: str, *, stream: bool, key: str) -> Raw:
        named = {"session_id": session} if session else {}
        accept = "text/event-stream" if stream else "application/json"
        return await self("POST", "/chat", {"message": message, **named}, accept=accept, idempotency_key=key)

    async def listed(self) -> list[str]:
        found: list[str] = []
        before = ""
        while True:
            page = (await self("GET", f"/sessions?limit=100{before}")).json
            found += [each["session_id"] for each in page["sessions"]]
            if page["before"] is None:
                return found
            before = f"&before={page['before']}"


async def remembering(turn: OpenTurn) -> Any:
    """Say everything that is known of the session, and who asks."""
    yield f"{turn.principal} was told {[each.message for each in turn.history]}"


def session_of(answer: Raw) -> str:
    [found] = set(re.findall(rb'"session_id":"([^"]+)"', answer.body))
    return str(found.decode())


def turn_of(answer: Raw) -> tuple[int, str]:
    """Return the number of a turn and what was answered, from JSON or from the last event of a stream."""
    document = json.loads(answer.body.partition(b"event: done\ndata: ")[2] or answer.body)
    return document["turn"], document["answer"]


def problems_of(absent: Mapping[str, Raw], foreign: Mapping[str, Raw]) -> list[str]:
    return [call for call in absent if absent[call] != foreign[call]]


async def probes(caller: Caller, session: str) -> dict[str, Raw]:
    """Return what every call about a session answers that takes no turn of it."""
    path = f"/sessions/{session}"
    return {
        "read": await caller("GET", path),
        "page": await caller("GET", f"{path}?before=2&limit=1"),
        "cancel": await caller("POST", f"{path}/cancel"),
        "delete": await caller("DELETE", path),
        "head": await caller("HEAD", path),
    }


async def attack(owner: Caller, thief: Caller, name: str, number: int) -> list[str]:
    """Make a session, try everything with its id and its idempotency key, and return what crossed over."""
    stream, key = number % 2 == 0, f"key-{number}"
    chosen = f"s{number}" if number % 4 < 2 else None
    first = await owner.chat(chosen, "my secret", stream=stream, key=key)
    session = session_of(first)
    before = await owner("GET", f"/sessions/{session}")
    crossed = problems_of(await probes(thief, f"absent-{number}"), await probes(thief, session))
    # The same id, key and message: a turn of the thief's own, which knows nothing; not a replay of the owner's.
    for again in (session, None) if chosen is None else (session,):
        taken = await thief.chat(again, "my secret", stream=stream, key=key)
        replayed = b"idempotency-replayed" in dict(taken.headers)
        if replayed or turn_of(taken) != (1, f"{name} was told []"):
            crossed.append("turn")
    if await owner("GET", f"/sessions/{session}") != before:
        crossed.append("write")
    again_by_owner = await owner.chat(chosen, "my secret", stream=stream, key=key)
    if turn_of(again_by_owner) != turn_of(first):
        crossed.append("replay")
    return crossed


@pytest.mark.parametrize(("store", "sessions"), [(MemoryStore(), SESSIONS), (None, 20)], ids=["memory", "SQLite"])
async def test_sessions_of_either_are_to_the_other_as_if_absent(
    settings: Settings, store: MemoryStore | None, sessions: int
) -> None:
    keys = settings.model_copy(update={"auth": "api-key", "auth_api_keys": PAIRS})
    app = create_app(keys, store=store, agent=remembering)
    crossed: list[str] = []
    async with app.router.lifespan_context(app):
        await app.state.lifecycle.warm_up()
        alice, bob = Caller(app, KEYS["alice"]), Caller(app, KEYS["bob"])
        for number in range(sessions):
            crossed += await attack(alice, bob, BOB, number)
            crossed += await attack(bob, alice, ALICE, sessions + number)
        lists = await alice.listed(), await bob.listed()
    asked = alice.asked + bob.asked
    assert crossed == []
    assert asked > sessions * 2 * 15
    assert [len(found) == len(set(found)) >= 2 * sessions for found in lists] == [True, True]
    assert not any("/" in session for found in lists for session in found)


async def test_the_servers_own_ids_differ_between_principals(settings: Settings) -> None:
    """Whoever knows another one's idempotency key and message does not even learn the id of the session."""
    keys = settings.model_copy(update={"auth": "api-key", "auth_api_keys": PAIRS})
    app = create_app(keys, store=MemoryStore(), agent=remembering)
    async with app.router.lifespan_context(app):
        await app.state.lifecycle.warm_up()
        made = [
            session_of(await Caller(app, key).chat(None, "hello", stream=False, key="k"))
            for key in (KEYS["alice"], KEYS["alice"], KEYS["bob"])
        ]
    assert made[0] == made[1] != made[2]
