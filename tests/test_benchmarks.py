"""The cold starts under AWS's emulator are measured, and say so where they are not."""

from pathlib import Path

import pytest

from benchmarks.__main__ import QUICK
from benchmarks.cases import Effort
from benchmarks.emulator import image_cold_start, of_zip, zip_cold_start
from tests.machine import tool

RIE = tool("rie")
ONCE = Effort(cold=1)


def test_the_zip_is_started_with_each_agent_beside_a_hello(package: Path) -> None:
    rows = list(of_zip(RIE, package, ONCE))
    assert [row.case.split(", ")[:2] for row in rows] == [
        ["cold start of the zip", agent] for agent in ("echo", "echo", "claude", "claude")
    ]
    assert all(float(row.figure.split()[0]) > 0 for row in rows)


def test_nothing_but_the_zip_is_installed_for_its_start(tmp_path: Path) -> None:
    """Its runtime client is missing here, though these tests have one."""
    with pytest.raises(RuntimeError, match="No module named awslambdaric"):
        list(of_zip(RIE, tmp_path, ONCE))


def test_a_row_says_that_the_image_was_not_run_without_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUIRE_ALL", "1")  # to ask for one would skip this test without it
    monkeypatch.delenv("ENGINE", raising=False)
    assert [row.figure for row in image_cold_start(ONCE)] == ["not run: no engine"]


def test_a_row_says_that_the_zip_was_not_run_without_the_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RIE")
    assert [row.figure for row in zip_cold_start(ONCE)] == ["not run: no emulator"]


def test_the_quick_pass_starts_neither() -> None:
    assert [*zip_cold_start(QUICK), *image_cold_start(QUICK)] == []
