"""The documents against the code: settings, commands and their output, links."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dotenv import dotenv_values

from app.config import Settings
from app.main import VERSION
from tests.entry_points import ROOT, environment, server
from tests.fake_model import in_thread
from tests.model_script import Call, says

README = (ROOT / "README.md").read_text()
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md"), *ROOT.glob("benchmarks/*.md")]
SET_BY_LAMBDA = {"lambda_function", "http_endpoint"}
OWN = {name: field for name, field in Settings.model_fields.items() if name not in SET_BY_LAMBDA}


def default(value: object) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def row(name: str) -> str:
    field = Settings.model_fields[name]
    assert isinstance(field.json_schema_extra, dict)
    shown = default(field.default)
    must_be = field.json_schema_extra["must_be"]
    return f"| `{field.validation_alias}` | {shown and f'`{shown}`'} | {must_be} | {field.description} |"


def examples() -> list[tuple[str, str]]:
    """Return the commands of the README that show their output, with it."""
    blocks = re.findall(r"```console\n\$ (.*?)\n(.*?)```", README, re.DOTALL)
    assert blocks
    return blocks


def test_the_settings_table_is_the_code() -> None:
    assert re.findall(r"^\| `[A-Z_]+` \|.*$", README, re.MULTILINE) == [row(name) for name in Settings.model_fields]


def test_the_example_of_a_dotenv_file_shows_every_setting_and_its_default(tmp_path: Path) -> None:
    text = (ROOT / ".env.example").read_text()
    shown = tmp_path / "shown"
    shown.write_text(re.sub(r"^# (?=[A-Z_]+=)", "", text, flags=re.MULTILINE))
    assert dict(dotenv_values(shown)) == {str(field.validation_alias): default(field.default) for field in OWN.values()}
    assert dict(dotenv_values(ROOT / ".env.example")) == {}


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed, and the README's commands need it")
def test_the_commands_of_the_readme_print_what_it_shows(tmp_path: Path) -> None:
    with server([sys.executable, "-m", "app"], tmp_path) as running:
        for command, output in examples():
            ran = subprocess.run(
                ["/bin/sh", "-c", command.replace("127.0.0.1:8000", f"127.0.0.1:{running.port}")],
                cwd=tmp_path,
                env=environment(),
                capture_output=True,
                text=True,
                timeout=30,
                check=True,
            )
            assert ran.stdout.rstrip() == output.rstrip()


def snippet(name: str) -> str:
    """Return the Python of the README that is to be saved under this name: the first block after it."""
    code: str = README.partition(f"`{name}`")[2].partition("```python\n")[2].partition("```")[0]
    assert code
    return code


def test_the_agent_of_the_readme_is_one(tmp_path: Path) -> None:
    (tmp_path / "my_agent.py").write_text(snippet("my_agent.py"))
    with server([sys.executable, "-m", "app"], tmp_path, AGENT="my_agent:agent") as running:
        turn = running.http.post("/chat", json={"message": "hello"})
    assert turn.json()["answer"] == "You wrote hello"


def test_the_tools_of_the_readme_are_called_by_a_model(tmp_path: Path) -> None:
    (tmp_path / "my_tools.py").write_text(snippet("my_tools.py"))
    order = Call("order", {"fruit": "pear", "count": 2})
    asked = says(Call("price", {"fruit": "pear"}), Call("price", {"fruit": "plum"}), order)
    with in_thread(asked, says("done")) as model:
        variables = {"ANTHROPIC_API_KEY": "k", "ANTHROPIC_BASE_URL": model.url, "AGENT_TOOLS": "my_tools:tools"}
        with server([sys.executable, "-m", "app"], tmp_path, **variables) as running:
            turn = running.http.post("/chat", json={"message": "two pears"})
    assert turn.json()["answer"] == "done"
    results = [block["content"] for block in model.requests[-1].body["messages"][-1]["content"]]
    assert results[:2] == ["0.75", "We sell apple and pear."]
    assert re.fullmatch(r"ordered 2 x pear, order [0-9a-f]{8}", results[2])


def test_the_make_targets_that_are_named_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        name for path in DOCUMENTS for name in re.findall(r"(?:^|`)make ([a-z-]+)", path.read_text(), re.MULTILINE)
    }
    assert named >= {"run", "test", "ci"}
    assert named <= targets


def test_the_event_that_the_readme_invokes_exists() -> None:
    [event] = re.findall(r"-e (events/\S+)", README)
    assert (ROOT / event).is_file()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_every_decision_is_in_the_list() -> None:
    adr = ROOT / "docs" / "adr"
    listed = re.findall(r"- \[(.+)\]\((.+)\)", (adr / "README.md").read_text())
    titles = [(path.read_text().splitlines()[0].removeprefix("# "), path.name) for path in sorted(adr.glob("0*.md"))]
    assert listed == titles


def test_there_is_one_version() -> None:
    assert f'version = "{VERSION}"' in (ROOT / "pyproject.toml").read_text()
    assert re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0] == VERSION
