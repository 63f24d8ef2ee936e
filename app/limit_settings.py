"""The settings of what one principal may take of the service. Unset they limit nothing, and cost nothing."""

from app.setting import Positive, SettingsPart, setting

MOST_TOKENS, MOST_USD = 10**12, 10**6
TOKENS_MUST_BE = "a whole number from 1 to 1000000000000"
USD_MUST_BE = "a number above 0, at most 1000000"

# By each budget the limit of a turn that it needs: that is what a turn sets aside while it runs.
RESERVED = {
    "session_max_tokens": "max_tokens",
    "session_max_cost_usd": "max_cost_usd",
    "daily_max_tokens": "max_tokens",
    "daily_max_cost_usd": "max_cost_usd",
}


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
    session_max_tokens: int | None = setting(
        "SESSION_MAX_TOKENS",
        None,
        TOKENS_MUST_BE,
        "tokens that all turns of a session may use together; needs AGENT_MAX_TOKENS",
        ge=1,
        le=MOST_TOKENS,
    )
    session_max_cost_usd: Positive | None = setting(
        "SESSION_MAX_COST_USD",
        None,
        USD_MUST_BE,
        "dollars that all turns of a session may use together; needs AGENT_MAX_COST_USD",
        le=MOST_USD,
    )
    daily_max_tokens: int | None = setting(
        "DAILY_MAX_TOKENS",
        None,
        TOKENS_MUST_BE,
        "tokens that a principal may use in a day of UTC; needs AGENT_MAX_TOKENS",
        ge=1,
        le=MOST_TOKENS,
    )
    daily_max_cost_usd: Positive | None = setting(
        "DAILY_MAX_COST_USD",
        None,
        USD_MUST_BE,
        "dollars that a principal may use in a day of UTC; needs AGENT_MAX_COST_USD",
        le=MOST_USD,
    )

    def validate_limits(self) -> list[str]:
        """Return what is wrong with them as a whole, one text each."""
        return [
            f"{self.name_of(reserved)} is required with {self.name_of(budget)}; it is what a running turn sets aside"
            for budget, reserved in RESERVED.items()
            if self.is_set(budget) and not self.is_set(reserved)
        ]
