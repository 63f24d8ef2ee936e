"""A Strands agent: `AGENT=examples.strands_agent:agent`. It needs AWS credentials that may call Bedrock."""

from strands import Agent, tool
from strands.models import BedrockModel, Model

from app.agents.basic_tools import calculator, clock


def build(model: Model) -> Agent:
    """Return an agent on this model."""
    return Agent(model, tools=[tool(clock), tool(calculator)], system_prompt="Be brief.", callback_handler=None)


agent = build(BedrockModel(model_id="global.anthropic.claude-sonnet-5-5"))
