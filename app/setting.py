"""How one setting is declared, and how its text is read before it is checked; and what the parts of them share."""

from typing import Annotated, Any

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def lower(value: object) -> object:
    """Return a text in lower case, without blanks around it; anything else as it is."""
    return value.strip().lower() if isinstance(value, str) else value


def upper(value: object) -> object:
    """Return a text in upper case, without blanks around it; anything else as it is."""
    return value.strip().upper() if isinstance(value, str) else value


def strip(value: object) -> object:
    """Return a text without blanks around it, None for nothing but blanks; anything else as it is."""
    return value.strip() or None if isinstance(value, str) else value


def one_line(value: SecretStr | None) -> SecretStr | None:
    """Return the secret.

    Raises:
        ValueError: it is not one line of visible ASCII.
    """
    if value is not None and not (value.get_secret_value().isascii() and value.get_secret_value().isprintable()):
        raise ValueError
    return value


def split(value: object) -> object:
    """Return the parts of a text between commas, without blanks around them; anything else as it is."""
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


def setting(name: str, default: object, must_be: str, purpose: str, **rules: Any) -> Any:  # noqa: ANN401 as Field
    """Return a field read from the variable `name`. `must_be` completes the sentence "`name` must be …"."""
    return Field(
        default,
        validation_alias=name,
        description=purpose,
        json_schema_extra={"must_be": must_be},
        **rules,
    )


class SettingsPart(BaseSettings):
    """A part of the settings that belongs together."""

    # Nobody reads a part by itself: a validator of its own for each would cost a thirtieth of the cold start.
    model_config = SettingsConfigDict(defer_build=True)

    @classmethod
    def name_of(cls, field: str) -> str:
        """Return the variable of a field."""
        return str(cls.model_fields[field].validation_alias)

    def names_set(self, fields: tuple[str, ...]) -> list[str]:
        """Return the variables of those fields that are set."""
        return [self.name_of(field) for field in fields if self.is_set(field)]

    def is_set(self, field: str) -> bool:
        """Return whether a field holds something else than its default."""
        return bool(getattr(self, field) != type(self).model_fields[field].default)
