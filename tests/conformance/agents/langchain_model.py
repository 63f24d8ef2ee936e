"""The script as a chat model of LangChain."""

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult

from tests.conformance.agents.script import Call, Said, Script

USAGE = {"input_tokens": 50, "output_tokens": 2, "total_tokens": 52, "input_token_details": {"cache_read": 10}}


class ScriptedChatModel(BaseChatModel):
    script: Any

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, *_: Any, **__: Any) -> Any:
        return self

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        raise NotImplementedError

    async def _astream(self, messages: list[BaseMessage], *_: Any, **__: Any) -> AsyncIterator[ChatGenerationChunk]:
        script: Script = self.script
        async for piece in script.answer(list(_said(messages))):
            if isinstance(piece, Call):
                chunk = AIMessageChunk(
                    content="", tool_call_chunks=[tool_call_chunk(name="clock", args="{}", id=piece.id, index=0)]
                )
            else:
                chunk = AIMessageChunk(content=piece)
            yield ChatGenerationChunk(message=chunk)
        yield ChatGenerationChunk(message=AIMessageChunk(content="", usage_metadata=USAGE))


def _said(history: Sequence[BaseMessage]) -> Iterator[Said]:
    for message in history:
        match message:
            case HumanMessage():
                yield "user", str(message.text)
            case AIMessage():
                yield "model", str(message.text)
                yield from (("call", str(call["id"])) for call in message.tool_calls)
            case ToolMessage():
                yield "result", str(message.text)
