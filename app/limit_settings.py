"""The settings of what one principal may take of the service. Unset they limit nothing, and cost nothing."""

from app.setting import SettingsPart, setting


class LimitSettings(SettingsPart):
    """The part of the settings that limits principals."""

    rate_limit_per_minute: int | None = setting(
        "RATE_LIMIT_PER_MINUTE",
        None,
        "a whole number from 1 to 100000",
        "turns that a principal may begin in a minute, on all replicas together",
        ge=1,
        le=100_000,
    )
    max_turns_per_principal: int | None = setting(
        "MAX_TURNS_PER_PRINCIPAL",
        None,
        "a whole number from 1 to 100",
        "turns of a principal that run at once, on all replicas together",
        ge=1,
        le=100,
    )
