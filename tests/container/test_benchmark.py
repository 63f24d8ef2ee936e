"""The image's cold start under AWS's emulator is measured."""

from benchmarks.cases import Effort
from benchmarks.emulator import image_cold_start
from tests.machine import tool

tool("engine")
tool("rie")


def test_the_image_is_started_with_each_agent_beside_a_hello() -> None:
    rows = list(image_cold_start(Effort(cold=1)))
    assert [row.case.split(", ")[:2] for row in rows] == [
        ["cold start of the image", agent] for agent in ["echo"] * 3 + ["claude"] * 3
    ]
    assert all(float(row.figure.split()[0]) > 0 for row in rows)
