"""docs/grafana.json: every number that it asks for is told by a process that has served."""

import json
import re
from typing import Any

import pytest

from app.config import Settings
from app.metrics import GAUGES, METRICS, PREFIX
from tests.entry_points import ROOT
from tests.in_process import warm
from tests.metered import load, metered
from tests.test_metrics import samples_of

pytestmark = pytest.mark.anyio

DASHBOARD = json.loads((ROOT / "docs" / "grafana.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]


def named(query: str) -> set[str]:
    return set(re.findall(rf"\b{PREFIX}_\w+", query))


async def test_every_number_on_it_is_scraped_after_a_load(settings: Settings) -> None:
    async with warm(settings.model_copy(update={"metrics": "prometheus"}), agent=metered) as app:
        await load(app, 50)
        found = samples_of((await app.request("GET", "/metrics")).body)
    told = {sample.name for sample in found}
    labels = {label for sample in found for label in sample.labels}
    assert all(named(query) and named(query) <= told for query in QUERIES)
    assert {label for query in QUERIES for label in re.findall(r"by \((\w+)\)", query)} <= labels


def test_every_number_is_on_it() -> None:
    shown = {name.removesuffix("_bucket") for query in QUERIES for name in named(query)}
    assert shown == {metric.prometheus for metric in METRICS} | {f"{PREFIX}_{name}" for name in GAUGES}


def test_its_queries_are_closed_and_choose_the_jobs() -> None:
    for query in QUERIES:
        assert all(query.count(a) == query.count(b) for a, b in ("()", "{}", "[]"))
        assert query.count('{job=~"$job"}') == len(re.findall(rf"\b{PREFIX}_\w+", query))


def test_it_can_be_imported_anywhere() -> None:
    assert {"title", "uid", "schemaVersion", "templating", "time"} <= set(DASHBOARD)
    assert [each["name"] for each in DASHBOARD["templating"]["list"]] == ["datasource", "job"]
    sources = re.findall(r'"uid": "([^"]*)"', json.dumps({"panels": PANELS, "templating": DASHBOARD["templating"]}))
    assert set(sources) == {"${datasource}"}


def test_no_two_panels_share_a_place() -> None:
    places = [panel["gridPos"] for panel in PANELS]
    cells = [
        (x, y) for at in places for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
