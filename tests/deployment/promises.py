"""Promises that a document makes, each seen to fail.

Linters see none of what is promised here, so each rule names changes that break it in a copy of its document, and must
notice each of them.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest

# Trees of any depth; a wrong step into one raises, and so fails the test.
Document = dict[str, Any]
Rule = Callable[[Document], None]
Change = tuple[str, object]

DELETE = object()


class Promises:
    """The rules of a module, with the changes that break them."""

    def __init__(self) -> None:
        self._broken_by: dict[Rule, tuple[Change, ...]] = {}

    def broken_by(self, *changes: Change) -> Callable[[Rule], Rule]:
        """Name changes that break the rule: a dotted path, and the value to put there or DELETE."""

        def register(rule: Rule) -> Rule:
            self._broken_by[rule] = changes
            return rule

        return register

    @property
    def kept(self) -> pytest.MarkDecorator:
        """Run a test once for each `rule`."""
        return pytest.mark.parametrize("rule", [pytest.param(rule, id=rule.__name__) for rule in self._broken_by])

    @property
    def broken(self) -> pytest.MarkDecorator:
        """Run a test once for each change of each rule: `rule`, `path`, `value`."""
        return pytest.mark.parametrize(("rule", "path", "value"), list(self._cases()))

    def _cases(self) -> Iterator[Any]:
        for rule, changes in self._broken_by.items():
            for number, change in enumerate(changes, 1):
                yield pytest.param(rule, *change, id=f"{rule.__name__}-{number}")


def is_noticed(rule: Rule, document: Document, path: str, value: object) -> bool:
    """Return whether the rule fails on a copy of the document that has another value, or nothing, at the path."""
    changed = change(document, path, value)
    try:
        rule(changed)
    except AssertionError:
        return True
    return False


def change(document: Document, path: str, value: object) -> Document:
    """Return a copy with another value, or nothing, at the path. Numbers index lists.

    What is no key of a CloudFormation template is the name of one of its resources.
    """
    changed = copy.deepcopy(document)
    *way, last = parts = [int(part) if part.isdigit() else part for part in path.split(".")]
    here: Any = changed["Resources"] if "Resources" in changed and parts[0] not in changed else changed
    for part in way:
        here = here[part]
    here[last] = value
    if value is DELETE:
        del here[last]
    return changed
