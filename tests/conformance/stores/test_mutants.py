"""The suite notices each broken condition: a check that cannot fail is worse than none."""

from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from app.errors import SessionConflict
from app.sessions import claims, sqlite
from tests.conformance.stores.rig import Rig, on_dynamodb, on_sqlite
from tests.mutants import MUTANTS, Edit, Mutant
from tests.servers import Server

pytestmark = pytest.mark.anyio

# How a test goes red: never by StoreUnavailable, which a statement that the store refuses would raise.
RED = (AssertionError, pytest.fail.Exception, SessionConflict)

EVERY = [
    pytest.param(mutant, edit, store, id=f"{mutant.name}-{store}")
    for mutant in MUTANTS
    for edit in mutant.edits
    for store in ("sqlite", "moto")
    if edit.module is claims or (edit.module is sqlite) == (store == "sqlite")
]


@pytest.fixture
def broken(edit: Edit, store: str, tmp_path: Path, moto: Server) -> AbstractAsyncContextManager[Rig]:
    parts = edit.parts()
    return on_sqlite(tmp_path / "broken.db", parts) if store == "sqlite" else on_dynamodb(moto, parts)


@pytest.fixture
def whole(edit: Edit, store: str, tmp_path: Path, moto: Server) -> AbstractAsyncContextManager[Rig]:
    parts = edit.undone().parts()
    return on_sqlite(tmp_path / "whole.db", parts) if store == "sqlite" else on_dynamodb(moto, parts)


@pytest.mark.parametrize(("mutant", "edit", "store"), EVERY)
async def test_a_mutant_fails_its_test_which_passes_without_it(
    mutant: Mutant, broken: AbstractAsyncContextManager[Rig], whole: AbstractAsyncContextManager[Rig]
) -> None:
    """The same test passes on a copy of the module in which nothing was changed."""
    async with whole as rig:
        await mutant.killed_by(rig)
    async with broken as rig:
        with pytest.raises(RED):
            await mutant.killed_by(rig)


@pytest.mark.parametrize("times", ["no_such_text", "return"], ids=["absent", "ambiguous"])
def test_an_edit_without_its_one_place_is_an_error(times: str) -> None:
    with pytest.raises(LookupError):
        Edit(claims, times, "").parts()
