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
    assert "check inter 500ms fall 1 " in TEXT
    assert f"DRAIN_DELAY_S={DRAIN_DELAY_S}:" in TEXT
    assert float(DRAIN_DELAY_S) > seconds("inter") + seconds("timeout check")


def test_no_turn_is_cut_for_its_silence() -> None:
    longest_s = Settings.model_fields["timeout_s"].default + COMMIT_MARGIN_S
    for side in ("client", "server"):
        assert seconds(f"timeout {side}") > max(longest_s, HEARTBEAT_S)
