"""Mutation testing of the modules that decide who calls, how long a turn takes and what is stored.

`python -m tests.mutation [--again] [GROUP...]` changes each group's modules in one place at a time with mutmut, and
counts which changes a test notices. It fails where that is less than BAR of a group, and where a change that nothing
notices is not argued in docs/mutants.md. With `--again` only those are tried again that were not noticed before, and
what stands in functions that have changed since.
"""

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE

import pytest

ROOT = Path(__file__).parents[1]
WORK = ROOT / "build" / "mutants"
ARGUED = ROOT / "docs" / "mutants.md"
BAR = 0.90
MUTMUT = Path(sys.executable).with_name("mutmut")
# Exit codes in mutmut's results, None for a mutant that was not tried; others are limits of time and signals.
KILLED, NOTICED_BY_NONE = (1, 3), (None, 0, 5, 33)
# Seconds of tests that a mutant is tried with, the quickest first; then survivors with more, the slowest first.
BUDGET, ROUNDS_S = "MUTATION_BUDGET_S", (4, 90)
STORES = "tests/conformance/stores/"
PROCESSES = ("entry_point", "sees_its_own")  # words of what starts processes in tests/test_budgets.py


@dataclass(frozen=True, slots=True)
class Group:
    """Modules, and tests that notice changes in them.

    without: words in the names of tests that are left out: those that take seconds, or look at the text of a module
    """

    modules: Sequence[str]
    tests: Sequence[str]
    without: Sequence[str] = ("test_mutants",)


GROUPS = {
    "turns": Group(
        ("app/turns.py", "app/running.py", "app/work.py"),
        (
            "tests/test_turns.py",
            "tests/test_budgets.py",
            "tests/test_cancel.py",
            "tests/test_misbehaving_agents.py",
            "tests/test_running.py",
            "tests/test_silent_store.py",
            "tests/test_turn_log.py",
            "tests/test_work.py",
            STORES + "test_budgets.py",
            STORES + "test_limits.py",
            STORES + "test_turns.py",
        ),
        ("moto", "sqlite", "dynoxide", "local", "process_that_died", *PROCESSES),
    ),
    "claims": Group(
        ("app/sessions/claims.py", "app/sessions/codec.py"),
        (STORES, "tests/test_cancel.py", "tests/test_codec.py", "tests/test_silent_store.py"),
        ("moto", "sqlite", "dynoxide", "local", "test_mutants", "test_machine", "process_that_died"),
    ),
    "stores": Group(
        (
            "app/sessions/__init__.py",
            "app/sessions/credentials.py",
            "app/sessions/dynamodb.py",
            "app/sessions/items.py",
            "app/sessions/sqlite.py",
        ),
        (
            STORES + "test_dynamodb.py",
            STORES + "test_erasure.py",
            STORES + "test_listing.py",
            STORES + "test_port.py",
            STORES + "test_sqlite.py",
            STORES + "test_wire.py",
            "tests/test_credentials.py",
        ),
        ("memory", "processes", "dynoxide", "local"),
    ),
    "deadline": Group(("app/deadline.py",), ("tests/test_deadline.py",)),
    "auth": Group(
        ("app/auth/*.py", "app/caller.py"),
        (
            "tests/test_api_keys.py",
            "tests/test_auth_properties.py",
            "tests/test_auth_settings.py",
            "tests/test_caller.py",
            "tests/test_front_door_auth.py",
            "tests/test_tokens.py",
        ),
    ),
    "limits": Group(
        ("app/limits.py",),
        ("tests/test_limits.py", STORES + "test_limits.py"),
        ("moto", "sqlite", "test_two", "forwarded", "dynoxide", "local"),
    ),
    "budgets": Group(
        ("app/budgets.py",),
        ("tests/test_budgets.py", STORES + "test_budgets.py"),
        ("moto", "sqlite", "dynoxide", "local", *PROCESSES),
    ),
}


def prepare(name: str, group: Group) -> Path:
    """Return the group's own copy of what mutmut needs; it reads its configuration there and leaves its results."""
    folder = WORK / name
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("app", "tests"):
        shutil.copytree(ROOT / part, folder / part, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("handler.py", "pyproject.toml"):
        shutil.copy2(ROOT / part, folder)
    lists = {
        "source_paths": ["app"],
        "only_mutate": group.modules,
        "also_copy": ["handler.py"],
        "pytest_add_cli_args_test_selection": group.tests,
        "pytest_add_cli_args": ["-p", "tests.mutation", "-k", " and ".join(f"not {word}" for word in group.without)],
    }
    lines = [f"{key} =\n  " + "\n  ".join(values) for key, values in lists.items() if values]
    # A change may make a test wait for ever: it has half as long again as all tests take together, and some more.
    (folder / "setup.cfg").write_text(
        "\n".join(["[mutmut]", *lines, "timeout_multiplier = 1.5", "timeout_constant = 4"])
    )
    return folder


@dataclass(frozen=True, slots=True)
class Results:
    """What became of a group's mutants, by name, as mutmut left it in `folder`."""

    folder: Path
    exit_codes: Mapping[str, int | None]

    @classmethod
    def read(cls, folder: Path) -> "Results":
        metas = [json.loads(path.read_text()) for path in sorted(folder.glob("mutants/app/**/*.meta"))]
        return cls(folder, {name: code for meta in metas for name, code in meta["exit_code_by_key"].items()})

    @property
    def survivors(self) -> list[str]:
        return [name for name, code in self.exit_codes.items() if code in NOTICED_BY_NONE]

    @property
    def score(self) -> float:
        return 1 - len(self.survivors) / len(self.exit_codes)

    def __str__(self) -> str:
        killed = sum(code in KILLED for code in self.exit_codes.values())
        endless = len(self.exit_codes) - killed - len(self.survivors)
        return f"{len(self.exit_codes)} mutants, {killed} killed, {endless} out of time, {len(self.survivors)} survived"

    def change(self, name: str) -> str:
        """Return a mutant as docs/mutants.md names it: where it is, what stands there, and what it makes of that."""
        shown = mutmut(self.folder, "show", name, capture=True).splitlines()
        removed, added = (
            " ".join(line[1:].strip() for line in shown if line.startswith(sign) and not line.startswith(sign * 3))
            for sign in "-+"
        )
        module, _, function = name.rpartition("__mutmut_")[0].rpartition(".")
        place = function.removeprefix("x_").removeprefix("xǁ").replace("ǁ", ".")
        return f"`{module}.{place}`: `{removed}` → `{added}`"


def mutmut(folder: Path, *arguments: str, budget_s: float = 0, capture: bool = False) -> str:
    """Run mutmut and return what it printed, if that is to be captured."""
    # A test that takes longer than all of them together may is one that waits for what the mutant took away.
    variables = {BUDGET: str(budget_s), "PYTEST_ADDOPTS": f"-o faulthandler_timeout={budget_s + 5}"}
    ended = subprocess.run(
        [str(MUTMUT), *arguments],
        cwd=folder,
        env=os.environ | variables,
        check=True,
        text=True,
        stdout=PIPE if capture else None,
    )
    return ended.stdout or ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the quickest tests, as many as the budget allows, once mutmut has measured them and tries mutants."""
    if os.environ["MUTANT_UNDER_TEST"].startswith("app."):
        took_s = json.loads(Path("mutmut-stats.json").read_text())["duration_by_test"]
        items.sort(key=lambda each: took_s[each.nodeid])
        spent_s = itertools.accumulate(took_s[each.nodeid] for each in items)
        within = sum(each <= float(os.environ[BUDGET]) for each in spent_s)
        del items[max(within, 1) :]
        if float(os.environ[BUDGET]) > ROUNDS_S[0]:  # the quickest have been asked before
            items.reverse()


def tried(name: str, *, again: bool) -> Results:
    """Try a group's mutants, or again those that survived or are new, and return what became of all of them."""
    folder = prepare(name, GROUPS[name])
    if again:  # which tests reach what is measured anew all the same
        (folder / "mutants" / "mutmut-stats.json").unlink(missing_ok=True)
    else:
        shutil.rmtree(folder / "mutants", ignore_errors=True)
    mutmut(folder, "run", "--max-children", "1", budget_s=ROUNDS_S[0])
    if names := Results.read(folder).survivors:
        mutmut(folder, "run", "--max-children", "1", *names, budget_s=ROUNDS_S[1])
    return Results.read(folder)


def main() -> int:
    """Return the exit code: 1 where a group is below the bar or a survivor is not argued."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutation", description="Change the code, and see who notices."
    )
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)}; all of them by default")
    parser.add_argument("--again", action="store_true", help="try what survived the last time, and what is new")
    asked = parser.parse_args()
    argued, failed = ARGUED.read_text(), False
    for name in asked.groups or GROUPS:
        results = tried(name, again=asked.again)
        open_ones = [change for each in results.survivors if (change := results.change(each)) not in argued]
        print(f"{name}: {results}: {results.score:.1%}, {len(open_ones)} not argued", *open_ones, sep="\n- ")
        failed |= results.score < BAR or bool(open_ones)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
