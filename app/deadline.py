"""One absolute deadline per turn, from the settings and from what the platform leaves."""

import asyncio

# Lambda ends an invocation without a word. A second and a half is left for the commit, the answer and its way out.
PLATFORM_MARGIN_S = 1.5
# A run that is past its deadline may still be committing. Only after this may another run take its turn over.
LEASE_MARGIN_S = 5.0
# How long past the deadline the store may take to claim or commit, and then to release: both below PLATFORM_MARGIN_S,
# so that the caller still hears of it.
COMMIT_MARGIN_S = 1.0
RELEASE_MARGIN_S = 1.25


def lambda_remaining_s(context: object) -> float | None:
    """Return how many seconds Lambda leaves this invocation; None elsewhere, or where the context does not say it."""
    try:
        return None if context is None else float(context.get_remaining_time_in_millis() / 1000)  # type: ignore[attr-defined]  # or else
    except (AttributeError, TypeError, ValueError, OverflowError):
        return None


def turn_deadline(timeout_s: float, remaining_s: float | None = None, wanted_s: float | None = None) -> float:
    """Return the instant, on the running event loop's clock, by which a turn that starts now must have answered.

    timeout_s:   the longest a turn may take (AGENT_TIMEOUT_S)
    remaining_s: seconds until the platform ends this invocation, where it says so
    wanted_s:    seconds after which the caller waits no more, where it says so
    """
    limits_s = [timeout_s]
    if remaining_s is not None:
        limits_s.append(remaining_s - PLATFORM_MARGIN_S)
    if wanted_s is not None:
        limits_s.append(wanted_s)
    return asyncio.get_running_loop().time() + max(min(limits_s), 0.0)
