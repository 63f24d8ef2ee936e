"""What a framework raises when its model fails, as the caller is told it."""

from collections.abc import AsyncGenerator, Callable, Sequence

import pydantic_ai
import pytest
import strands
from langchain_core import exceptions as langchain
from pydantic_ai import exceptions as pydantic_ai_exceptions
from strands.types import exceptions as strands_exceptions

from app import errors
from app.agents import Agent, from_langgraph, from_pydantic_ai, from_strands
from examples import langgraph_agent
from tests.conformance.agents.langchain_model import ScriptedChatModel
from tests.conformance.agents.pydantic_ai_model import model_of
from tests.conformance.agents.rig import Sessions, events_of
from tests.conformance.agents.script import Call, Said, Script
from tests.conformance.agents.strands_model import ScriptedModel

pytestmark = pytest.mark.anyio

CANARY = "canary-7f3a"


class Failing(Script):
    """A model that fails after a word, until it is mended."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error: Exception | None = error

    async def answer(self, _: Sequence[Said]) -> AsyncGenerator[str | Call, None]:
        yield "half "
        if self.error:
            raise self.error
        yield "whole"


def of_pydantic_ai(script: Script) -> Agent:
    return from_pydantic_ai.adapt(pydantic_ai.Agent(model_of(script)))


def of_langgraph(script: Script) -> Agent:
    return from_langgraph.adapt(langgraph_agent.build(ScriptedChatModel(script=script)))


def of_strands(script: Script) -> Agent:
    return from_strands.adapt(strands.Agent(ScriptedModel(script), callback_handler=None, retry_strategy=None))


OF_PYDANTIC_AI = {
    "ModelRateLimitError": errors.ModelRateLimited,
    "ModelQuotaExceededError": errors.ModelUnpaid,
    "ModelAuthenticationError": errors.ModelUnpaid,
    "ModelRequestRejectedError": errors.ModelRejected,
    "ModelUnavailableError": errors.ModelOverloaded,
    "ModelServerError": errors.ModelOverloaded,
    "ModelConnectionError": errors.ModelOverloaded,
}
OF_LANGCHAIN = {
    "ModelRateLimitError": errors.ModelRateLimited,
    "ModelAuthenticationError": errors.ModelUnpaid,
    "ModelPermissionDeniedError": errors.ModelUnpaid,
    "ModelAPIError": errors.ModelOverloaded,
    "ModelConnectionError": errors.ModelOverloaded,
    "ModelTimeoutError": errors.ModelOverloaded,
    "ModelError": errors.ModelRejected,
}
OF_STRANDS = {
    "ModelThrottledException": errors.ModelRateLimited,
    "ContextWindowOverflowException": errors.ModelRejected,
}
CASES = [
    *(
        (of_pydantic_ai, getattr(pydantic_ai_exceptions, name)("model", CANARY), told)
        for name, told in OF_PYDANTIC_AI.items()
    ),
    (of_pydantic_ai, pydantic_ai_exceptions.ModelRequestTimeout("model", 1.0), errors.ModelOverloaded),
    (of_pydantic_ai, pydantic_ai_exceptions.ModelConnectionError("model", CANARY, phase="read"), errors.ModelInvalid),
    *((of_langgraph, getattr(langchain, name)(CANARY), told) for name, told in OF_LANGCHAIN.items()),
    *((of_strands, getattr(strands_exceptions, name)(CANARY), told) for name, told in OF_STRANDS.items()),
    *((make, LookupError(CANARY), errors.AgentFailed) for make in (of_pydantic_ai, of_langgraph, of_strands)),
]


@pytest.mark.parametrize(
    ("make", "error", "told"),
    CASES,
    ids=[f"{make.__name__}-{type(error).__name__}-{told.__name__}" for make, error, told in CASES],
)
async def test_a_failure_of_the_model_is_told_by_its_kind(
    make: Callable[[Script], Agent], error: Exception, told: type[errors.ServiceError]
) -> None:
    script = Failing(error)
    sessions = Sessions(make(script))
    with pytest.raises(errors.ServiceError) as failed:
        await events_of(sessions.start("hello"))
    assert failed.type is told
    assert CANARY not in str(failed.value)
    script.error = None
    assert (await sessions.turn("and now?")).number == 1
