"""A pydantic-ai agent: `AGENT=examples.pydantic_ai_agent:agent`. It needs `pydantic-ai-slim[bedrock]` and AWS's keys.

`deps_type=OpenTurn` lets instructions and tools see the turn: whose it is, and of which session.
"""

from pydantic_ai import Agent, RunContext

from app.agents import OpenTurn
from app.agents.basic_tools import calculator, clock

agent = Agent(
    "bedrock:global.anthropic.claude-sonnet-5-5",
    deps_type=OpenTurn,
    instructions="Be brief.",
    tools=[clock, calculator],
    defer_model_check=True,  # until the first turn, which may swap the model
)


@agent.instructions
def name_the_turn(ctx: RunContext[OpenTurn]) -> str:
    """Tell the model how far the conversation is."""
    return f"This is message {ctx.deps.number} of the conversation."
