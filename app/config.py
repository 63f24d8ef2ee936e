"""The environment as one frozen Settings. Only this module reads it.

Every bad setting is reported at once, by name; no value of any variable is ever part of a report.
"""

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from dotenv import dotenv_values
from pydantic import AnyHttpUrl, BeforeValidator, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.errors import ConfigurationError

ENV_FILE = ".env"
OWN_PREFIXES = ("AGENT_", "SESSIONS_")  # a variable that starts so is ours, so an unknown one is a typing error
# But for what Kubernetes sets in every pod beside a service called agent or agent-service.
# https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
_SERVICE_LINK = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_\w+)?$|_PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?$")
STOP_S = 3.0  # of the grace: stopping what still runs and closing


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _upper(value: object) -> object:
    return value.strip().upper() if isinstance(value, str) else value


def _strip(value: object) -> object:
    return value.strip() if isinstance(value, str) else value


def setting(name: str, default: object, must_be: str, purpose: str, **rules: Any) -> Any:  # noqa: ANN401 as Field
    """Return a field read from the variable `name`. `must_be` completes the sentence "`name` must be …"."""
    return Field(
        default,
        validation_alias=name,
        description=purpose,
        json_schema_extra={"must_be": must_be},
        **rules,
    )


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

    environment: Annotated[Literal["development", "staging", "production"], BeforeValidator(_lower)] = setting(
        "ENVIRONMENT",
        "development",
        "development, staging or production",
        "where this runs; production refuses what only suits a laptop",
    )
    max_steps: int = setting(
        "AGENT_MAX_STEPS",
        6,
        "a whole number from 1 to 50",
        "model calls a turn may make",
        ge=1,
        le=50,
    )
    api_key: Annotated[SecretStr | None, BeforeValidator(_strip)] = setting(
        "ANTHROPIC_API_KEY",
        None,
        "a text without line breaks",
        "key of the Messages API",
        min_length=1,
    )
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_upper)] = setting(
        "LOG_LEVEL",
        "INFO",
        "DEBUG, INFO, WARNING, ERROR or CRITICAL",
        "least level that is logged, in any case",
    )
    host: str = setting("HOST", "127.0.0.1", "an address", "address that `python -m app` listens on", min_length=1)
    port: int = setting(
        "PORT",
        8000,
        "a whole number from 1 to 65535",
        "port that `python -m app` listens on",
        ge=1,
        le=65535,
    )
    agent: str = setting(
        "AGENT",
        "echo",
        "echo or module:object",
        "the agent: a built-in one, or your own",
        pattern=r"^echo$|^[\w.]+:[\w.]+$",
    )
    agent_model: str | None = setting(
        "AGENT_MODEL", None, "a text", "model that the agent calls; echo calls none", min_length=1
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
        "SESSIONS_FILE",
        Path("sessions.db"),
        "a path",
        "SQLite file of the sessions, where there is no table",
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
        "SESSIONS_KEEP_DAYS",
        30,
        "a whole number from 1 to 3650",
        "days until a turn expires",
        ge=1,
        le=3650,
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
    lambda_function: str | None = setting(
        "AWS_LAMBDA_FUNCTION_NAME",
        None,
        "a text",
        "set by Lambda, which has no file to keep sessions in",
    )

    def validate(self) -> list[str]:  # type: ignore[override]  # pydantic's own is a deprecated class method
        """Return what is wrong with the settings as a whole, one text each; empty when the process may start."""
        place = "production" if self.environment == "production" else "on Lambda" if self.lambda_function else None
        problems = []
        if self.environment == "production" and self.api_key is None and ":" not in self.agent:
            problems.append("ANTHROPIC_API_KEY is required in production")
        if place and not self.sessions_table:
            where = "in production" if place == "production" else place
            problems.append(f"SESSIONS_TABLE is required {where}; a file there forgets or divides the sessions")
        if self.sessions_table and not self.aws_region:
            problems.append("AWS_REGION is required with SESSIONS_TABLE")
        if self.drain_delay_s + STOP_S > self.shutdown_grace_s:
            problems.append(f"SHUTDOWN_GRACE_S must be at least DRAIN_DELAY_S and {STOP_S:.0f} seconds")
        return problems

    def redacted(self) -> dict[str, object]:
        """Return the settings for people to read: of a secret only whether it is set."""
        shown: dict[str, object] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if name in ("api_key", "aws_endpoint_url_dynamodb"):
                shown[f"{name}_set"] = value is not None
            else:
                shown[name] = str(value) if isinstance(value, Path) else value
        return shown


def load() -> Settings:
    """Return the settings in the environment and in `.env`, where the environment wins.

    Raises:
        ConfigurationError: variables cannot be read or are unknown; names all of them, and what `validate` adds.
    """
    try:
        unknown = _unknown(os.environ | _dotenv())
        settings, problems = _read()
    except (OSError, UnicodeDecodeError):
        raise ConfigurationError([f"{ENV_FILE} must be a readable text file in UTF-8"]) from None
    if problems or unknown:
        raise ConfigurationError(problems + unknown + settings.validate())
    return settings


def load_valid() -> Settings:
    """Return `load()`, or raise ConfigurationError with everything that is wrong."""
    settings = load()
    if problems := settings.validate():
        raise ConfigurationError(problems)
    return settings


def _read() -> tuple[Settings, list[str]]:
    """Return the settings, with defaults for the unreadable ones, and what is wrong with those."""
    try:
        return Settings(), []
    except ValidationError as exc:
        bad = {str(error["loc"][0]) for error in exc.errors(include_input=False, include_context=False)}
    fields = {str(field.validation_alias): field for field in Settings.model_fields.values()}
    problems = [f"{name} must be {_must_be(field)}" for name, field in fields.items() if name in bad]
    return Settings(**{name: fields[name].default for name in bad}), problems


def _must_be(field: FieldInfo) -> object:
    extra = field.json_schema_extra
    return extra["must_be"] if isinstance(extra, dict) else None


def _unknown(variables: Mapping[str, str | None]) -> list[str]:
    """Return a text for every variable with a prefix of ours that is none of ours."""
    known = [str(field.validation_alias) for field in Settings.model_fields.values()]
    return [
        f"{name} is not a setting; the nearest is {difflib.get_close_matches(name, known, 1, 0.0)[0]}"
        for name in sorted(variables)
        if name.startswith(OWN_PREFIXES) and name not in known and variables[name] and not _SERVICE_LINK.search(name)
    ]


def _dotenv() -> dict[str, str | None]:
    return dict(dotenv_values(ENV_FILE)) if Path(ENV_FILE).is_file() else {}
