"""The built-in agent and a fake model on the test's own event loop, behind the whole app."""

import contextlib
import inspect
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from app.agents.claude import Claude, Limits
from app.agents.messages_api import MessagesAPI
from app.agents.prices import Price, price_of
from app.agents.tools import Toolbox
from app.config import Settings
from app.events import Turn
from app.sessions import SessionKey
from app.sessions.codec import unpack
from tests.entry_points import Answer
from tests.fake_model import FakeModel
from tests.in_process import App, warm
from tests.memory_store import MemoryStore
from tests.model_script import Script, says
from tests.model_tools import tools

KEY = "canary-key"
MODEL = "claude-sonnet-5-5"
SSE = "text/event-stream"
BOTH = ["application/json", SSE]


@dataclass
class Talk:
    """An app whose agent talks with the model."""

    app: App
    model: FakeModel
    store: MemoryStore

    async def ask(self, message: str = "hello", session: str = "s", **headers: str) -> Answer:
        return await self.app.chat(message, session, **headers)

    async def turns(self, session: str = "s") -> list[Turn]:
        """The stored turns, oldest first, as the next one would see them."""
        items = await self.store.newest(SessionKey("anonymous", session), 200)
        return [unpack(item.turn, item.body) for item in reversed(items) if item.body]


def claude(
    url: str,
    *,
    functions: Sequence[Callable[..., Any]] = tools,
    limits: Limits | None = None,
    price: Price | None = price_of(MODEL),  # noqa: B008 a constant
    instructions: str | None = None,
    stall_s: float = 5.0,
) -> Claude:
    """Return an agent that tries again soon."""
    return Claude(
        MessagesAPI(url, KEY, backoff_s=0.002, stall_s=stall_s),
        MODEL,
        instructions=instructions,
        toolbox=Toolbox(functions),
        limits=limits or Limits(1000),
        price=price,
    )


@contextlib.asynccontextmanager
async def talking(*script: Script, store: MemoryStore | None = None, **options: Any) -> AsyncIterator[Talk]:
    """Yield a ready app over a model with this script. Options are settings by field name, else those of `claude`."""
    own = set(inspect.signature(claude).parameters)
    fields = {name: options.pop(name) for name in set(options) - own}
    settings = Settings(_env_file=None, **fields)
    store = store or MemoryStore()
    async with (
        FakeModel(*script) as model,
        warm(settings, store=store, agent=claude(model.url, **options)) as app,
    ):
        yield Talk(app, model, store)


def shown(answer: Answer) -> tuple[int, str]:
    """Return the status and the slug of a failed turn, of a stream those in its last event."""
    if answer.headers["content-type"].startswith(SSE):
        name, problem = answer.events[-1]
        assert (answer.status, name) == (200, "error")
        return problem["status"], problem["type"].rpartition(":")[2]
    return answer.status, answer.slug


def done(answer: Answer) -> Any:
    """Return the body of a turn that was stored, of a stream that of its last event."""
    if answer.headers["content-type"].startswith(SSE):
        name, body = answer.events[-1]
        assert name == "done", body
        return body
    assert answer.status == 200, answer.body
    return answer.json


async def goes_on(talk: Talk) -> None:
    """Check that the model takes a next turn, with those before in its history."""
    talk.model.otherwise = says("fine")
    assert (await talk.ask("and now?")).status == 200
    assert talk.model.refused == []
