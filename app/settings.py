"""Every setting: its variable, its default, what it must be and what it is for. `config.py` reads them."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, AnyHttpUrl, BeforeValidator
from pydantic_settings import SettingsConfigDict

from app import web_function
from app.agent_settings import AgentSettings
from app.auth_settings import AuthSettings
from app.http_settings import HTTPSettings
from app.limit_settings import LimitSettings
from app.setting import lower, setting, upper
from app.telemetry_settings import TelemetrySettings

ENV_FILE = ".env"
MAY_HOLD_SECRETS = {
    "api_key",
    "auth_api_keys",
    "auth_platform_secret",
    "aws_endpoint_url_dynamodb",
    "base_url",
    "instructions",
}
OF_A_STOP = ("drain_delay_s", "shutdown_grace_s")
STOP_S = 3.0  # of the grace: a second for turns to end, the rest to stop those that do not and to close


class Settings(TelemetrySettings, HTTPSettings, LimitSettings, AuthSettings, AgentSettings):
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
    def address(self) -> tuple[str, int]:
        """Where `python -m app` listens."""
        return web_function.address(self.http_endpoint) if self.http_endpoint else (self.host, self.port)

    @property
    def service(self) -> str:
        """What traces and metrics call the service."""
        return self.service_name or self.lambda_function or "agent-service"

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
        in_production = self.environment == "production"
        where = "in production" if in_production else "on Lambda" if on_lambda else None
        problems = self.validate_agent(in_production=in_production)
        problems += self.validate_limits()
        problems += self.validate_auth(in_production=in_production, has_events=self.frozen)
        problems += self.validate_telemetry(on_lambda=bool(on_lambda), log_level=self.log_level)
        if self.http_endpoint:
            timeout_s = self.timeout_s if "timeout_s" in self.model_fields_set else None
            problems += web_function.problems(timeout_s, self.names_set(OF_A_STOP))
        if where and not self.sessions_table:
            problems.append(f"SESSIONS_TABLE is required {where}; a file there forgets or divides the sessions")
        if self.sessions_table and not self.aws_region:
            problems.append("AWS_REGION is required with SESSIONS_TABLE")
        if self.drain_delay_s + STOP_S > self.shutdown_grace_s:
            problems.append(f"SHUTDOWN_GRACE_S must be at least DRAIN_DELAY_S and {STOP_S:.0f} seconds")
        return problems

    def redacted(self) -> dict[str, object]:
        """Return the settings for people to read: of a secret, and of what may hold one, only whether it is set."""
        shown: dict[str, object] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if name in MAY_HOLD_SECRETS:
                shown[f"{name}_set"] = self.is_set(name)
            else:
                shown[name] = str(value) if isinstance(value, Path) else value
        return shown | {"agent": self.agent_name}
