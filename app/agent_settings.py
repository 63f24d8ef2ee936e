"""The settings of the agent: which one, which model it calls, and what a turn of it may take and cost."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, AnyHttpUrl, BeforeValidator, SecretStr
from pydantic_settings import NoDecode

from app.setting import Positive, SettingsPart, lower, one_line, setting, split, strip

# What the agents obey that are made of a model here; any other agent would ignore a limit in silence.
OF_A_MODEL = ("instructions", "instructions_file", "tools", "max_output_tokens", "prices")
OF_USAGE = ("max_tokens", "max_cost_usd")  # hold for whatever agent tells its usage


class AgentSettings(SettingsPart):
    """The part of the settings that the agent is made of."""

    api_key: Annotated[SecretStr | None, BeforeValidator(strip), AfterValidator(one_line)] = setting(
        "ANTHROPIC_API_KEY",
        None,
        "a line of visible ASCII",
        "key of the Messages API",
    )
    agent: str | None = setting(
        "AGENT",
        None,
        "echo, claude, pydantic-ai or module:object",
        "the agent: a built-in one, or your own; by default claude where there is a key, else echo",
        pattern=r"^(echo|claude|pydantic-ai)$|^[\w.]+:[\w.]+$",
    )
    agent_model: str | None = setting(
        "AGENT_MODEL",
        None,
        "a text",
        "model that the agent calls; for claude claude-sonnet-5-5 by default, for pydantic-ai provider:model",
        min_length=1,
    )
    instructions: str | None = setting(
        "AGENT_INSTRUCTIONS",
        None,
        "a text",
        "system prompt of the model",
        min_length=1,
        repr=False,
    )
    instructions_file: Path | None = setting(
        "AGENT_INSTRUCTIONS_FILE", None, "a path", "file that holds the system prompt instead"
    )
    tools: str | None = setting(
        "AGENT_TOOLS",
        None,
        "module:object",
        "list of functions that the model may call",
        pattern=r"^[\w.]+:[\w.]+$",
    )
    max_steps: int = setting(
        "AGENT_MAX_STEPS", 6, "a whole number from 1 to 50", "model calls a turn may make", ge=1, le=50
    )
    max_output_tokens: int = setting(
        "AGENT_MAX_OUTPUT_TOKENS",
        16_384,
        "a whole number from 1 to 128000",
        "tokens that one model call may write, thoughts included",
        ge=1,
        le=128_000,
    )
    max_tokens: int | None = setting(
        "AGENT_MAX_TOKENS",
        None,
        "a whole number from 1",
        "tokens, read and written, after which a turn takes no further step",
        ge=1,
    )
    max_cost_usd: Positive | None = setting(
        "AGENT_MAX_COST_USD",
        None,
        "a number above 0",
        "dollars after which a turn takes no further step",
    )
    prices: Annotated[tuple[Positive, Positive] | None, NoDecode, BeforeValidator(split)] = setting(
        "AGENT_PRICES",
        None,
        "two numbers above 0, such as 2,10",
        "dollars per million tokens read and written, for a model whose list price is not known",
    )
    base_url: AnyHttpUrl = setting(
        "ANTHROPIC_BASE_URL",
        AnyHttpUrl("https://api.anthropic.com"),
        "an http or https URL",
        "address of the Messages API",
        repr=False,  # it may hold a password
    )
    timeout_s: float = setting(
        "AGENT_TIMEOUT_S",
        60.0,
        "a number from 1 to 3600",
        "seconds a turn may take; less where Lambda leaves less",
        ge=1,
        le=3600,
    )
    on_disconnect: Annotated[Literal["finish", "stop"], BeforeValidator(lower)] = setting(
        "ON_DISCONNECT",
        "finish",
        "finish or stop",
        "what becomes of a turn whose caller hangs up",
    )

    @property
    def agent_name(self) -> str:
        """The agent that serves: the one named, else the one that the model or the key suggests."""
        if self.agent:
            return self.agent
        if self.agent_model and ":" in self.agent_model:
            return "pydantic-ai"
        return "claude" if self.api_key else "echo"

    def validate_agent(self, *, in_production: bool) -> list[str]:
        """Return what is wrong with them as a whole, one text each."""
        problems = []
        if self.api_key is None and in_production and self.agent_name in ("claude", "echo"):
            problems.append("ANTHROPIC_API_KEY is required in production")
        elif self.api_key is None and self.agent_name == "claude":
            problems.append("ANTHROPIC_API_KEY is required with AGENT=claude")
        if self.agent_model is None and self.agent_name == "pydantic-ai":
            problems.append("AGENT_MODEL is required with AGENT=pydantic-ai; name provider:model")
        by_agent = {"claude": (), "pydantic-ai": ("prices",), "echo": OF_A_MODEL + OF_USAGE}
        ignored: tuple[str, ...] = by_agent.get(self.agent_name, OF_A_MODEL)
        problems += [f"{name} has no effect on this agent" for name in self.names_set(ignored)]
        if self.instructions and self.instructions_file:
            problems.append("AGENT_INSTRUCTIONS and AGENT_INSTRUCTIONS_FILE exclude each other")
        return problems
