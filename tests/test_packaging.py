"""The pins, and that every list of CI's stages is the same list."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

# `name==version ; marker` and its hashes: no option line, so no index address either.
PIN = r"[a-z0-9-]+==\S+( ; [^\n\\]+)?( \\\n    --hash=sha256:[0-9a-f]{64})+\n"
COMMENT = r" *#[^\n]*\n"


def pins(path: str) -> set[str]:
    """Return `name==version` of every requirement in a lock file."""
    return set(re.findall(r"^[a-z0-9-]+==[^ ]+", (ROOT / path).read_text(), re.MULTILINE))


def unsatisfied(ranges: list[str], locked: set[str]) -> list[str]:
    versions = dict(pin.split("==") for pin in locked)
    wanted = [Requirement(each) for each in ranges]
    return [str(each) for each in wanted if versions.get(each.name, "0") not in each.specifier]


def test_every_requirement_is_pinned_by_hash_and_names_no_index() -> None:
    for path in ("requirements.txt", *(f"requirements-{group}.txt" for group in PYPROJECT["dependency-groups"])):
        assert re.fullmatch(f"({PIN}|{COMMENT})+", (ROOT / path).read_text())


def test_the_pins_are_within_the_ranges_of_the_project() -> None:
    project, groups = PYPROJECT["project"], PYPROJECT["dependency-groups"]
    assert unsatisfied(project["dependencies"], pins("requirements.txt")) == []
    for name, ranges in groups.items():
        assert unsatisfied(ranges, pins(f"requirements-{name}.txt")) == []


def test_development_uses_the_versions_that_run_in_production() -> None:
    assert pins("requirements.txt") < pins("requirements-dev.txt")


def test_mutants_are_tried_with_the_versions_that_development_uses() -> None:
    """Both lists go into one environment."""
    development = dict(pin.split("==") for pin in pins("requirements-dev.txt"))
    ours = dict(pin.split("==") for pin in pins("requirements-mutants.txt"))
    assert {name: development[name] for name in ours if name in development}.items() <= ours.items()


def test_no_development_tool_reaches_the_runtime() -> None:
    tools = {Requirement(each).name for each in PYPROJECT["dependency-groups"]["dev"]}
    runtime = {pin.split("==")[0] for pin in pins("requirements.txt")}
    # anyio is Starlette's own dependency; for development it brings the pytest plugin.
    assert runtime & (tools | {"botocore"}) == {"anyio"}


def test_the_workflow_runs_every_stage_and_requires_each() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    stages = subprocess.run(
        ["make", "--silent", "stages"],  # noqa: S607 make started us
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},  # not MAKEFLAGS: the make that started us may run a part
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert workflow["jobs"]["stage"]["strategy"]["matrix"]["stage"] == stages.stdout.split()
    assert workflow["jobs"]["ci"]["needs"] == ["stage"]
    assert workflow["permissions"] == {}
