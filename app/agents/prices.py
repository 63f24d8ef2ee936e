"""List prices of models, in US dollars per million tokens.

From https://platform.claude.com/docs/en/about-claude/pricing, as of October 2026. `AGENT_PRICES` replaces them, for a
model that is not here or an agreement of your own.
"""

from dataclasses import dataclass
from typing import Self

MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars per million tokens: read anew, written by the model, read from the cache, written to the cache."""

    input: float
    output: float
    cache_read: float
    cache_write: float

    @classmethod
    def usual(cls, input_usd: float, output_usd: float, cached_share: float = 0.1) -> Self:
        """Return a price whose cache follows the usual shares of the input's: a read `cached_share`, a write 1.25."""
        return cls(input_usd, output_usd, input_usd * cached_share, input_usd * 1.25)

    def of(self, new: int, output: int, cache_read: int, cache_write: int) -> float:
        """Return what so many tokens of each kind cost, in dollars."""
        spent = new * self.input + output * self.output + cache_read * self.cache_read + cache_write * self.cache_write
        return spent / MILLION

    def tokens_for(self, usd: float) -> float:
        """Return how many tokens the model may write for so many dollars."""
        return usd * MILLION / self.output


# By the beginning of a model's id; the longest one that fits counts.
PRICES = {
    "claude-fable-5-1": Price.usual(10, 50, 0.025),
    "claude-opus-5-5": Price.usual(4, 20, 0.05),
    "claude-opus-5": Price.usual(5, 25),
    "claude-opus-4": Price.usual(5, 25),
    "claude-sonnet-5-5": Price.usual(2, 10, 0.05),
    "claude-sonnet-5": Price.usual(2, 10),
    "claude-sonnet-4": Price.usual(3, 15),
    "claude-haiku-5-5": Price.usual(0.5, 2.5),  # of prompts above 100,000 tokens; shorter ones cost a fifth
    "claude-haiku-4-5": Price.usual(1, 5),
}


def price_of(model: str) -> Price | None:
    """Return the list price of a model, or None where it is not known."""
    known = [beginning for beginning in PRICES if model.startswith(beginning)]
    return PRICES[max(known, key=len)] if known else None
