"""Every setting: its variable, its default, what it must be and what it is for. `config.py` reads them."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, AnyHttpUrl, BeforeValidator, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app import web_function
from app.setting import Positive, lower, one_line, setting, split, strip, upper

ENV_FILE = ".env"
# What the agents obey that are made of a model here; any other agent would ignore a limit in silence.
OF_A_MODEL = ("instructions", "instructions_file", "tools", "max_output_tokens", "max_tokens", "max_cost_usd", "prices")
MAY_HOLD_SECRETS = {"api_key", "aws_endpoint_url_dynamodb", "base_url", "instructions"}
OF_A_STOP = ("drain_delay_s", "shutdown_grace_s")
STOP_S = 3.0  # of the grace: a second for turns to end, the rest to stop those that do not and to close


class Settings(BaseSettings):
    """The effective settings of this process."""

    model_config = SettingsConfigDict(
        env_file=ENV_FILE,
        env_ignore_empty=True,
        case_sensitive=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        populate_by_name=True,
    )

    environment: Annotated[Literal["development", "staging", "production"], BeforeValidator(lower)] = setting(
        "ENVIRONMENT",
        "development",
        "development, staging or production",
        "where this runs; production refuses what only suits a laptop",
    )
    max_steps: int = setting(
        "AGENT_MAX_STEPS", 6, "a whole number from 1 to 50", "model calls a turn may make", ge=1, le=50
    )
    api_key: Annotated[SecretStr | None, BeforeValidator(strip), AfterValidator(one_line)] = setting(
        "ANTHROPIC_API_KEY",
        None,
        "a line of visible ASCII",
        "key of the Messages API",
    )
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(upper)] = setting(
        "LOG_LEVEL",
        "INFO",
        "DEBUG, INFO, WARNING, ERROR or CRITICAL",
        "least level that is logged, in any case",
    )
    host: str = setting("HOST", "127.0.0.1", "an address", "address that `python -m app` listens on", min_length=1)
    port: int = setting(
        "PORT", 8000, "a whole number from 1 to 65535", "port that `python -m app` listens on", ge=1, le=65535
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
    on_disconnect: Annotated[Literal["finish", "stop"], BeforeValidator(lower)] = setting(
        "ON_DISCONNECT",
        "finish",
        "finish or stop",
        "what becomes of a turn whose caller hangs up",
    )
    timeout_s: float = setting(
        "AGENT_TIMEOUT_S",
        60.0,
        "a number from 1 to 3600",
        "seconds a turn may take; less where Lambda leaves less",
        ge=1,
        le=3600,
    )
    sessions_table: str | None = setting(
        "SESSIONS_TABLE",
        None,
        "a table name or ARN",
        "DynamoDB table of the sessions; without it they are kept in SESSIONS_FILE",
        pattern=r"^[A-Za-z0-9_.:/-]{3,1024}$",
    )
    sessions_file: Path = setting(
        "SESSIONS_FILE", Path("sessions.db"), "a path", "SQLite file of the sessions, where there is no table"
    )
    sessions_window: int = setting(
        "SESSIONS_WINDOW",
        20,
        "a whole number from 1 to 200",
        "newest turns that an agent sees, and that an idempotency key reaches",
        ge=1,
        le=200,
    )
    sessions_keep_days: int = setting(
        "SESSIONS_KEEP_DAYS", 30, "a whole number from 1 to 3650", "days until a turn expires", ge=1, le=3650
    )
    max_message_bytes: int = setting(
        "MAX_MESSAGE_BYTES",
        32_768,
        "a whole number from 1 to 131072",
        "longest message, in bytes of UTF-8",
        ge=1,
        le=131_072,
    )
    max_concurrent_turns: int = setting(
        "MAX_CONCURRENT_TURNS",
        100,
        "a whole number from 1 to 10000",
        "turns that run at once in a process",
        ge=1,
        le=10_000,
    )
    drain_delay_s: float = setting(
        "DRAIN_DELAY_S",
        0.0,
        "a number from 0 to 3600",
        "seconds a stopping process goes on serving",
        ge=0,
        le=3600,
    )
    shutdown_grace_s: float = setting(
        "SHUTDOWN_GRACE_S",
        8.0,
        "a number from 3 to 3600",
        "seconds from SIGTERM to the exit, at most",
        ge=3,
        le=3600,
    )
    readyz_store_fail_after_s: float = setting(
        "READYZ_STORE_FAIL_AFTER_S",
        0.0,
        "a number from 0 to 3600",
        "seconds without an answer of the store after which /readyz fails; 0 for never",
        ge=0,
        le=3600,
    )
    aws_region: str | None = setting(
        "AWS_REGION", None, "a region name", "region of the table", pattern=r"^[a-z0-9-]+$"
    )
    aws_endpoint_url_dynamodb: AnyHttpUrl | None = setting(
        "AWS_ENDPOINT_URL_DYNAMODB",
        None,
        "an http or https URL",
        "address of a local DynamoDB-compatible server",
        repr=False,  # it may hold a password
    )
    lambda_response_mode: Literal["buffer", "stream"] = setting(
        "LAMBDA_RESPONSE_MODE",
        "buffer",
        "buffer or stream",
        "whether the image answers on Lambda in one piece, for any front door, or as it happens, for one that streams",
    )
    lambda_function: str | None = setting(
        "AWS_LAMBDA_FUNCTION_NAME", None, "a text", "set by Lambda, which has no file to keep sessions in"
    )
    http_endpoint: Annotated[str | None, AfterValidator(web_function.checked)] = setting(
        "AWS_LAMBDA_HTTP_ENDPOINT",
        None,
        "host:port, an IPv6 host in brackets",
        "set by Lambda Web Functions: where `python -m app` listens, whatever HOST and PORT say",
    )

    @property
    def agent_name(self) -> str:
        """The agent that serves: the one named, else the one that the model or the key suggests."""
        if self.agent:
            return self.agent
        if self.agent_model and ":" in self.agent_model:
            return "pydantic-ai"
        return "claude" if self.api_key else "echo"

    @property
    def address(self) -> tuple[str, int]:
        """Where `python -m app` listens."""
        return web_function.address(self.http_endpoint) if self.http_endpoint else (self.host, self.port)

    @property
    def frozen(self) -> bool:
        """Whether the process stands still between two calls, as on Lambda, if it is no Web Function."""
        return self.lambda_function is not None and self.http_endpoint is None

    @property
    def grace_s(self) -> float:
        """How long the process may live after the first signal."""
        return web_function.GRACE_S if self.http_endpoint else self.shutdown_grace_s

    def validate(self) -> list[str]:  # type: ignore[override]  # pydantic's own is a deprecated class method
        """Return what is wrong with the settings as a whole, one text each; empty when the process may start."""
        on_lambda = self.lambda_function or self.http_endpoint
        where = "in production" if self.environment == "production" else "on Lambda" if on_lambda else None
        problems = self._validate_agent()
        if self.http_endpoint:
            timeout_s = self.timeout_s if "timeout_s" in self.model_fields_set else None
            problems += web_function.problems(timeout_s, self._names(OF_A_STOP))
        if where and not self.sessions_table:
            problems.append(f"SESSIONS_TABLE is required {where}; a file there forgets or divides the sessions")
        if self.sessions_table and not self.aws_region:
            problems.append("AWS_REGION is required with SESSIONS_TABLE")
        if self.drain_delay_s + STOP_S > self.shutdown_grace_s:
            problems.append(f"SHUTDOWN_GRACE_S must be at least DRAIN_DELAY_S and {STOP_S:.0f} seconds")
        return problems

    def _validate_agent(self) -> list[str]:
        problems = []
        if self.api_key is None and self.environment == "production" and self.agent_name in ("claude", "echo"):
            problems.append("ANTHROPIC_API_KEY is required in production")
        elif self.api_key is None and self.agent_name == "claude":
            problems.append("ANTHROPIC_API_KEY is required with AGENT=claude")
        if self.agent_model is None and self.agent_name == "pydantic-ai":
            problems.append("AGENT_MODEL is required with AGENT=pydantic-ai; name provider:model")
        ignored: tuple[str, ...] = {"claude": (), "pydantic-ai": ("prices",)}.get(self.agent_name, OF_A_MODEL)
        problems += [f"{name} has no effect on this agent" for name in self._names(ignored)]
        if self.instructions and self.instructions_file:
            problems.append("AGENT_INSTRUCTIONS and AGENT_INSTRUCTIONS_FILE exclude each other")
        return problems

    def _names(self, fields: tuple[str, ...]) -> list[str]:
        """Return the variables of those fields that are set."""
        return [str(type(self).model_fields[field].validation_alias) for field in fields if self._is_set(field)]

    def _is_set(self, name: str) -> bool:
        return bool(getattr(self, name) != type(self).model_fields[name].default)

    def redacted(self) -> dict[str, object]:
        """Return the settings for people to read: of a secret, and of what may hold one, only whether it is set."""
        shown: dict[str, object] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if name in MAY_HOLD_SECRETS:
                shown[f"{name}_set"] = self._is_set(name)
            else:
                shown[name] = str(value) if isinstance(value, Path) else value
        return shown | {"agent": self.agent_name}
