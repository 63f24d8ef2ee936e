"""When a turn must have answered: the setting, or what the platform leaves."""

import asyncio

import pytest

from app.deadline import COMMIT_MARGIN_S, LEASE_MARGIN_S, PLATFORM_MARGIN_S, turn_deadline

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("timeout_s", "remaining_s", "expected_s"),
    [(60.0, None, 60.0), (60.0, 29.0, 27.5), (5.0, 29.0, 5.0), (60.0, 1.0, 0.0)],
    ids=["no platform", "platform first", "setting first", "nothing left"],
)
async def test_the_deadline_is_the_nearer_one(timeout_s: float, remaining_s: float | None, expected_s: float) -> None:
    now = asyncio.get_running_loop().time()
    assert turn_deadline(timeout_s, remaining_s) - now == pytest.approx(expected_s, abs=0.05)


def test_a_commit_ends_before_the_platform_and_before_the_lease() -> None:
    assert COMMIT_MARGIN_S < PLATFORM_MARGIN_S < LEASE_MARGIN_S
