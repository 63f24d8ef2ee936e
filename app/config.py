"""The environment as one frozen Settings. Only this module reads it.

Every bad setting is reported at once, by name; no value of any variable is ever part of a report.
"""

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from app.errors import ConfigurationError
from app.settings import ENV_FILE, Settings

__all__ = ["OWN_PREFIXES", "Settings", "load", "load_valid"]

OWN_PREFIXES = (
    "AGENT_",
    "SESSIONS_",
    "AUTH_API_",
    "AUTH_JWT_",
    "AUTH_PLATFORM_",
    "RATE_LIMIT_",
    "MAX_TURNS_",
    "SESSION_MAX_",
    "DAILY_MAX_",
    "ALLOWED_HOST",
    "CORS_ORIGIN",
)  # a variable that starts so is ours, so an unknown one is a typing error
# But for what Kubernetes sets in every pod beside a service called agent or agent-service.
# https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
_SERVICE_LINK = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_\w+)?$|_PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?$")


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
