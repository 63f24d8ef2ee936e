"""The script as pydantic-ai's own fake model."""

from collections.abc import AsyncIterator, Iterator, Sequence

from pydantic_ai import messages
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, DeltaToolCalls, FunctionModel

from tests.conformance.agents.script import Call, Said, Script


def model_of(script: Script) -> FunctionModel:
    async def stream(history: list[messages.ModelMessage], _: AgentInfo) -> AsyncIterator[str | DeltaToolCalls]:
        async for piece in script.answer(list(_said(history))):
            yield {0: DeltaToolCall("clock", "{}", tool_call_id=piece.id)} if isinstance(piece, Call) else piece

    return FunctionModel(stream_function=stream)


def _said(history: Sequence[messages.ModelMessage]) -> Iterator[Said]:
    for part in (part for message in history for part in message.parts):
        match part:
            case messages.UserPromptPart(content=str() as text):
                yield "user", text
            case messages.TextPart(content=text):
                yield "model", text
            case messages.ToolCallPart(tool_call_id=call):
                yield "call", call
            case messages.ToolReturnPart():
                yield "result", part.model_response_str()
