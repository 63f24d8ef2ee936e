"""When a turn must have answered: the setting, or what the platform leaves."""

import asyncio

import pytest

from app.deadline import COMMIT_MARGIN_S, LEASE_MARGIN_S, PLATFORM_MARGIN_S, lambda_remaining_s, turn_deadline

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("timeout_s", "remaining_s", "wanted_s", "expected_s"),
    [
        (60.0, None, None, 60.0),
        (60.0, 29.0, None, 27.5),
        (5.0, 29.0, None, 5.0),
        (60.0, 1.0, None, 0.0),
        (60.0, 29.0, 7.0, 7.0),
        (5.0, None, 7.0, 5.0),
    ],
    ids=["no platform", "platform first", "setting first", "nothing left", "caller first", "caller later"],
)
async def test_the_deadline_is_the_nearest_one(
    timeout_s: float, remaining_s: float | None, wanted_s: float | None, expected_s: float
) -> None:
    now = asyncio.get_running_loop().time()
    assert turn_deadline(timeout_s, remaining_s, wanted_s) - now == pytest.approx(expected_s, abs=0.05)


class Context:
    """What Lambda tells of an invocation."""

    def __init__(self, left: object) -> None:
        self._left = left

    def get_remaining_time_in_millis(self) -> object:
        return self._left


@pytest.mark.parametrize(
    ("context", "expected_s"),
    [(None, None), (Context(29_001), 29.001), (Context(None), None), (Context("x"), None), (object(), None)],
    ids=["not on Lambda", "on Lambda", "no time", "no number", "no context"],
)
def test_what_the_platform_leaves_is_what_it_says(context: object, expected_s: float | None) -> None:
    assert lambda_remaining_s(context) == expected_s


def test_a_commit_ends_before_the_platform_and_before_the_lease() -> None:
    assert COMMIT_MARGIN_S < PLATFORM_MARGIN_S < LEASE_MARGIN_S
