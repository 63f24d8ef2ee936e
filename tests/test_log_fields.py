"""docs/logs.md against what is written."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from app import turn_log
from app.config import Settings
from tests import agents
from tests.entry_points import ROOT, handler
from tests.in_process import warm
from tests.log_lines import lines_of, turns_in, written
from tests.model_script import Call, says
from tests.with_model import talking

DOCUMENT = (ROOT / "docs" / "logs.md").read_text()
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def documented(*headings: str) -> dict[str, str]:
    """Return the fields in the tables under these headings, and when each is absent."""
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", DOCUMENT, re.MULTILINE | re.DOTALL))
    tables = [re.findall(r"^\| `(\w+)` \|.*\| ([^|]+) \|$", sections[each], re.MULTILINE) for each in headings]
    assert all(tables)
    return {name: absent for rows in tables for name, absent in rows}


async def written_fields(settings: Settings, folder: Path) -> list[set[str]]:
    """Return the fields of the lines of turns that end in different ways, on Lambda and elsewhere."""
    with written() as log:
        async with talking(says("so", Call("weather", {"city": "Bonn"})), says("Sun!")) as talk:
            await talk.ask(traceparent=TRACE)
        async with warm(settings, agent=agents.raising) as app:
            await app.chat("hello")
    with handler(folder) as client:
        client.request("POST", "/chat", b'{"message": "hello"}', {"Content-Type": "application/json"})
    return [set(line) for line in [*log.turns, *turns_in("".join(client.log))]]


@pytest.mark.anyio
async def test_the_table_of_a_turns_fields_is_what_is_written(settings: Settings, tmp_path: Path) -> None:
    lines = await written_fields(settings, tmp_path)
    fields = documented("Every line", "`turn finished`")
    assert set.union(*lines) == set(fields)
    assert set.intersection(*lines) >= {name for name, absent in fields.items() if absent.startswith("never")}


def test_the_table_of_a_phases_fields_is_what_is_written(tmp_path: Path) -> None:
    with handler(tmp_path) as client:
        client.request("GET", "/healthz")
    changes = [line for line in lines_of("".join(client.log)) if line["event"] == "phase changed"]
    always = {name for name, absent in documented("Every line").items() if absent == "never"}
    assert [set(line) for line in changes] == [always | set(documented("`phase changed`"))] * 2


def test_the_example_is_a_line_of_the_table() -> None:
    example = json.loads(DOCUMENT.partition("```json\n")[2].partition("\n```")[0])
    assert set(example) <= set(documented("Every line", "`turn finished`"))
    assert example["session_hash"] == turn_log.hash_of("anonymous/demo")


def test_the_command_for_a_hash_gives_it() -> None:
    command = re.findall(r"^printf .*$", DOCUMENT, re.MULTILINE)
    done = subprocess.run(["/bin/sh", "-c", *command], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == turn_log.hash_of("anonymous/demo")


def test_the_queries_name_fields_that_exist() -> None:
    queries = "".join(re.findall(r"^```\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL))
    named = set(re.findall(r"\b[a-z]+(?:_[a-z]+)+\b|\bproblem\b|\blevel\b", queries))
    assert len(named) >= 8
    assert named <= set(documented("Every line", "`turn finished`"))
