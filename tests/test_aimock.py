"""A second opinion: the built-in agent talks with aimock, a fake of the Messages API that somebody else wrote."""

import contextlib
import json
import subprocess
from collections.abc import AsyncIterator, Iterator

import pytest

from app.config import Settings
from tests.in_process import App, warm
from tests.machine import free_port, listens, tool, wait_until
from tests.with_model import BOTH, claude, done, shown

AIMOCK = tool("aimock")
pytestmark = pytest.mark.anyio

FIXTURES = [
    {
        "match": {"userMessage": "weather", "hasToolResult": False},
        "response": {"content": "Let me see. ", "toolCalls": [{"name": "weather", "arguments": {"city": "Bonn"}}]},
    },
    {
        "match": {"userMessage": "weather", "toolResultContains": "Bonn: sun for 1 days"},
        "response": {"content": "The sun shines.", "usage": {"input_tokens": 30, "output_tokens": 4}},
    },
    {"match": {"userMessage": "thank you"}, "response": {"content": "You are welcome."}},
    {
        "match": {"userMessage": "overload"},
        "response": {"error": {"message": "overloaded", "type": "overloaded_error"}, "status": 529},
    },
    {
        "match": {"userMessage": "break off"},
        "response": {"content": "This answer is never whole, whatever it says."},
        "latency": 20,
        "chunkSize": 5,
        "truncateAfterChunks": 3,
    },
]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where aimock serves the fixtures."""
    port = free_port()
    fixtures = tmp_path_factory.mktemp("aimock") / "fixtures.json"
    fixtures.write_text(json.dumps({"fixtures": FIXTURES}))
    command = ["node", AIMOCK, "--port", str(port), "--fixtures", str(fixtures), "--strict", "--log-level", "silent"]
    with subprocess.Popen(command) as server:
        try:
            wait_until(lambda: listens("127.0.0.1", port), limit_s=20, what="aimock listens")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


@contextlib.asynccontextmanager
async def talking(url: str) -> AsyncIterator[App]:
    async with warm(Settings(_env_file=None), agent=claude(url)) as app:
        yield app


@pytest.mark.parametrize("accept", BOTH)
async def test_a_conversation_with_a_tool_call(url: str, accept: str) -> None:
    async with talking(url) as app:
        first = done(await app.chat("How is the weather?", accept=accept))
        second = done(await app.chat("Well, thank you", accept=accept))
    assert (first["answer"], first["stop_reason"]) == ("Let me see. The sun shines.", "end_turn")
    assert first["usage"]["steps"] == 2
    assert (first["usage"]["input_tokens"], first["usage"]["output_tokens"]) == (30, 4)
    assert (second["answer"], second["turn"]) == ("You are welcome.", 2)


async def test_an_overload_is_told(url: str) -> None:
    async with talking(url) as app:
        assert shown(await app.chat("overload")) == (503, "model-overloaded")


async def test_a_stream_that_breaks_off_is_no_answer(url: str) -> None:
    async with talking(url) as app:
        assert shown(await app.chat("break off")) == (502, "upstream-invalid")
        assert await app.messages() == []
