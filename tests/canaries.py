"""Secrets that are found again in whatever form they come out, and parts of a service that tell them where they fail.

`AGENT=tests.canaries:agent` fails as the first word of the message says; `AGENT_TOOLS=tests.canaries:tools` are for a
model. What they say and raise is as secret as what the caller sends.
"""

import asyncio
import base64
import hashlib
import logging
import threading
import warnings
from collections.abc import AsyncIterator, Iterator
from typing import NoReturn

from app.agents import OpenTurn
from app.events import AgentEvent, State, ToolCall, ToolResult

HALF = 12  # characters: of a text that is cut somewhere, one half or the other is left
TOLD = (
    *("agent's answer", "agent's state", "agent's exception", "agent's argument", "agent's result", "agent's object"),
    *("agent's log", "agent's warning", "agent's thread", "agent's task", "agent's finalizer", "agent's exit"),
    *("tool's result", "tool's exception"),
)
SENT = set(TOLD)  # the names of all secrets that this process knows


def secret(name: str) -> str:
    """Return the secret of this name: the same in every process, and of a form that fits nearly everywhere."""
    SENT.add(name)
    return hashlib.sha256(f"canary {name}".encode()).hexdigest()[: 2 * HALF]


def forms(text: str) -> Iterator[str]:
    """Yield what a text may become, in lower case: as it is, in escapes, in hexadecimal, in base64 at any place."""
    yield text
    yield "".join(f"%{ord(each):02x}" for each in text)
    yield "".join(f"\\u{ord(each):04x}" for each in text)
    yield text.encode().hex()
    for before in range(3):
        encoded = base64.b64encode(b"x" * before + text.encode()).decode()
        yield encoded[-(-before * 8 // 6) : (before + len(text)) * 8 // 6].lower()


def found_in(text: str) -> set[str]:
    """Return the names of the secrets of which at least a half is in the text, in any form."""
    lower = text.lower()
    halves = ((name, half) for name in SENT for half in (secret(name)[:HALF], secret(name)[HALF:]))
    return {name for name, half in halves if any(form in lower for form in forms(half))}


def looked_up(key: str) -> str:
    """Return what is there under a key."""
    return f"{key}: " + secret("tool's result")


def failing(text: str) -> str:
    """Raise an error whose text holds the argument."""
    raise LookupError(text, secret("tool's exception"))


tools = [looked_up, failing]


class _Object:
    def __repr__(self) -> str:
        return secret("agent's object")


class _Held:
    def __del__(self) -> None:
        raise ValueError(secret("agent's finalizer"))


def _fail(name: str) -> NoReturn:
    raise ValueError(secret(name))


async def _fail_later() -> None:
    _fail("agent's task")


async def _leave_behind(turn: OpenTurn) -> None:
    """Fail wherever nobody catches it, and log as libraries do."""
    warnings.warn(turn.message + secret("agent's warning"), UserWarning, stacklevel=1)
    thread = threading.Thread(target=_fail, args=("agent's thread",))
    thread.start()
    thread.join()
    _Held()
    forgotten = asyncio.create_task(_fail_later())
    await asyncio.wait([forgotten])
    for name in ("asyncio", "botocore.endpoint", "aiodynamo", "aiohttp.client", "anthropic", "uvicorn.asgi"):
        logging.getLogger(name).debug("%s", secret("agent's log"))
    logging.getLogger("aiohttp.client").error("%s failed", secret("agent's log"))


async def agent(turn: OpenTurn) -> AsyncIterator[AgentEvent]:
    """Fail in the way that the message asks for, after some words unless that is "early"."""
    way = turn.message.split()[0]
    if way == "early":
        raise LookupError(turn.message, secret("agent's exception"))
    if way == "silent":
        await asyncio.sleep(turn.deadline)
    yield State(secret("agent's state").encode())
    yield secret("agent's answer")
    yield ToolCall(secret("agent's argument"), "clock", {"at": secret("agent's argument")})
    yield ToolResult(secret("agent's argument"), secret("agent's result"))
    match way:
        case "foreign":
            yield _Object()  # type: ignore[misc]  # the point of it
        case "exit":
            raise SystemExit(secret("agent's exit"))
        case "group":
            raise ExceptionGroup(turn.message, [ValueError(secret("agent's exception"))])
        case "behind":
            await _leave_behind(turn)
    raise LookupError(turn.message) from ValueError(secret("agent's exception"))
