"""docs/haproxy.cfg: its times fit the service's. That they are enough, `python -m tests.chaos rolling` shows."""

import re

from app.config import Settings
from app.deadline import COMMIT_MARGIN_S
from app.main import HEARTBEAT_S
from tests.chaos.rolling import CONFIGURATION, DRAIN_DELAY_S

TEXT = CONFIGURATION.read_text()


def seconds(setting: str) -> float:
    [(number, unit)] = re.findall(rf"^    .*\b{setting} (\d+)(m?s)\b", TEXT, re.MULTILINE)
    return int(number) / {"s": 1, "ms": 1000}[unit]


def test_a_replica_that_leaves_serves_until_it_is_seen() -> None:
    [looks] = re.findall(r"fall (\d+) rise 1$", TEXT, re.MULTILINE)
    assert f"DRAIN_DELAY_S={DRAIN_DELAY_S}:" in TEXT
    seen_s = seconds("inter") + (int(looks) - 1) * seconds("fastinter") + seconds("timeout check")
    assert float(DRAIN_DELAY_S) > seen_s


def test_a_slow_second_takes_no_replica_out() -> None:
    [looks] = re.findall(r" fall (\d+) ", TEXT)
    assert int(looks) * seconds("timeout check") >= 3


def test_no_turn_is_cut_for_its_silence() -> None:
    longest_s = Settings.model_fields["timeout_s"].default + COMMIT_MARGIN_S
    for side in ("client", "server"):
        assert seconds(f"timeout {side}") > max(longest_s, HEARTBEAT_S)
