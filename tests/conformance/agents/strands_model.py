"""The script as a model of Strands."""

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from strands.models import Model

from tests.conformance.agents.script import Call, Said, Script


class ScriptedModel(Model):
    def __init__(self, script: Script) -> None:
        self._script = script

    def update_config(self, **_: Any) -> None:
        pass

    def get_config(self) -> Any:
        return {}

    def structured_output(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    async def stream(self, messages: Any, *_: Any, **__: Any) -> AsyncIterator[Any]:
        called = False
        yield {"messageStart": {"role": "assistant"}}
        async for piece in self._script.answer(list(_said(messages))):
            called = isinstance(piece, Call)
            for event in _block(piece):
                yield event
        yield {"messageStop": {"stopReason": "tool_use" if called else "end_turn"}}
        usage = {"inputTokens": 40, "outputTokens": 2, "totalTokens": 52, "cacheReadInputTokens": 10}
        yield {"metadata": {"usage": usage, "metrics": {"latencyMs": 1}}}


def _block(piece: str | Call) -> Iterator[Any]:
    if isinstance(piece, Call):
        yield {"contentBlockStart": {"start": {"toolUse": {"toolUseId": piece.id, "name": "clock"}}}}
        yield {"contentBlockDelta": {"delta": {"toolUse": {"input": "{}"}}}}
    else:
        yield {"contentBlockStart": {"start": {}}}
        yield {"contentBlockDelta": {"delta": {"text": piece}}}
    yield {"contentBlockStop": {}}


def _said(history: Sequence[Any]) -> Iterator[Said]:
    for message in history:
        if text := "".join(block.get("text", "") for block in message["content"]):
            yield ("user" if message["role"] == "user" else "model"), text
        for block in message["content"]:
            if "toolUse" in block:
                yield "call", block["toolUse"]["toolUseId"]
            elif "toolResult" in block:
                yield "result", block["toolResult"]["content"][0]["text"]
