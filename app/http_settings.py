"""The settings of HTTP: which hosts it answers for, and which web pages may call it."""

import re
from typing import Annotated, TypeAlias

from pydantic import AfterValidator, BeforeValidator
from pydantic_settings import NoDecode

from app.setting import SettingsPart, setting, split

Names: TypeAlias = tuple[str, ...] | None

# As browsers write it: in lower case, with no port that is the scheme's own. Another spelling would match nothing.
_ORIGIN = re.compile(r"(?:http://(?!.*:80$)|https://(?!.*:443$))(?:[a-z0-9._-]+|\[[0-9a-f:]+\])(?::[1-9][0-9]{0,4})?")
_HOST = re.compile(r"(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:]+\]")


def origins(values: Names) -> Names:
    """Return the origins, or raise ValueError where one is none, or not exact."""
    return _each(_ORIGIN, values)


def hosts(values: Names) -> Names:
    """Return the host names in lower case, or raise ValueError where one is none."""
    return _each(_HOST, values and tuple(value.lower() for value in values))


def _each(form: re.Pattern[str], values: Names) -> Names:
    if not all(form.fullmatch(value) for value in values or ()):
        raise ValueError
    return values


class HTTPSettings(SettingsPart):
    """The part of the settings that says whose requests are answered."""

    allowed_hosts: Annotated[Names, NoDecode, BeforeValidator(split), AfterValidator(hosts)] = setting(
        "ALLOWED_HOSTS",
        None,
        "host names such as api.example or *.api.example, between commas",
        "hosts that the service answers for, at any port; without it for all, and the probes always",
    )
    cors_origins: Annotated[Names, NoDecode, BeforeValidator(split), AfterValidator(origins)] = setting(
        "CORS_ORIGINS",
        None,
        "origins such as https://app.example, between commas",
        "web pages that may call the service from a browser; without it none",
    )
