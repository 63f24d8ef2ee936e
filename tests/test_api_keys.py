"""AUTH=api-key: which keys are let in, how they are made, and how a file of them changes under the service."""

import hashlib
import logging
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.auth import MAX_CREDENTIAL_BYTES, Headers
from app.auth.api_keys import LOOK_S, MAX_FILE_BYTES, PREFIX, ApiKeys, KeyFile, make, pair, parse
from app.errors import ConfigurationError, Unauthenticated
from tests.conformance.stores.rig import Clock
from tests.test_config import run_app

pytestmark = pytest.mark.anyio

KEY, OTHER, OLD = f"{PREFIX}one-key-of-alice", f"{PREFIX}key-of-bob", f"{PREFIX}another-of-alice"
PAIRS = ",".join([pair("alice", KEY), pair("alice", OLD), pair("arn:aws:iam::1:user/bob", OTHER)])
KEYS = ApiKeys(parse(PAIRS))


async def outcome(headers: Headers, keys: ApiKeys = KEYS) -> str:
    try:
        return await keys.principal(headers, None)
    except Unauthenticated as exc:
        return f"refused: {exc}"


def bearer(key: str | bytes, scheme: bytes = b"Bearer") -> tuple[bytes, bytes]:
    return b"authorization", scheme + b" " + (key if isinstance(key, bytes) else key.encode())


def header(key: str | bytes) -> tuple[bytes, bytes]:
    return b"x-api-key", key if isinstance(key, bytes) else key.encode()


@pytest.mark.parametrize(
    ("headers", "principal"),
    [
        ([bearer(KEY)], "alice"),
        ([bearer(OLD)], "alice"),
        ([header(OTHER)], "arn:aws:iam::1:user/bob"),
        ([bearer(KEY, b"bearer")], "alice"),
        ([bearer(KEY, b"BEARER ")], "alice"),
        ([(b"Authorization", b"Bearer " + KEY.encode())], "alice"),
        ([bearer(KEY), header(KEY)], "alice"),
        ([bearer("x", b"AWS4-HMAC-SHA256"), header(KEY)], "alice"),
        ([(b"x-other", b"\xff"), header(KEY)], "alice"),
    ],
)
async def test_a_key_names_its_principal(headers: Headers, principal: str) -> None:
    assert await outcome(headers) == principal


BAD: dict[str, tuple[list[tuple[bytes, bytes]], str]] = {
    "absent": ([], "no key"),
    "empty": ([header("")], "unknown key"),
    "no scheme": ([(b"authorization", KEY.encode())], "no key"),
    "basic": ([bearer(KEY, b"Basic")], "no key"),
    "wrong": ([bearer(f"{KEY}x")], "unknown key"),
    "prefix": ([bearer(KEY[:-1])], "unknown key"),
    "case": ([bearer(KEY.swapcase())], "unknown key"),
    "its digest": ([bearer(hashlib.sha256(KEY.encode()).hexdigest())], "unknown key"),
    "its pair": ([bearer(pair("alice", KEY))], "unknown key"),
    "not ASCII": ([bearer(KEY.encode() + b"\xc3\xa9")], "unknown key"),
    "bytes": ([header(b"\xff\xfe\x00")], "unknown key"),
    "a megabyte": ([header(b"x" * 1_048_576)], "too long"),
    "a key in a megabyte": ([bearer(KEY.encode() + b" " * 1_048_576)], "too long"),
    "no byte too long": ([header(b"x" * MAX_CREDENTIAL_BYTES)], "unknown key"),
    "a byte too long": ([header(b"x" * (MAX_CREDENTIAL_BYTES + 1))], "too long"),
    "twice": ([bearer(KEY), bearer(KEY)], "several headers"),
    "two of a name": ([header(KEY), header(OTHER)], "several headers"),
    "two of different names": ([bearer(KEY), header(OTHER)], "two keys"),
    "joined by a front door": ([header(f"{KEY},{KEY}")], "unknown key"),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_key_is_refused(name: str) -> None:
    headers, reason = BAD[name]
    assert await outcome(headers) == f"refused: {reason}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        " , \n",
        "# only words",
        KEY,
        f"alice:{KEY}",
        f":{'0' * 64}",
        f"alice:{'0' * 63}",
        f"alice:{'0' * 65}",
        f"alice:{'g' * 64}",
        f"a b:{'0' * 64}",
        f"é:{'0' * 64}",
        f"anonymous:{'0' * 64}",
        f"{'a' * 1025}:{'0' * 64}",
        f"alice:{'0' * 64},bob:{'0' * 64}",
        f"{PAIRS},bob",
    ],
)
def test_what_are_no_pairs_is_refused_without_a_word_of_it(text: str) -> None:
    with pytest.raises(ValueError, match=r"^$"):
        parse(text)


def test_pairs_stand_between_commas_or_in_lines_with_comments() -> None:
    text = f" # alice's\n{pair('alice', KEY)} ,\n\n{pair('alice', OLD).upper().replace('ALICE', 'alice')}\n"
    assert list(parse(text).values()) == ["alice", "alice"]


def test_a_principal_may_hold_what_parts_it_from_its_digest() -> None:
    assert parse(pair("arn:aws:iam::1:user/bob", KEY)) == {
        hashlib.sha256(KEY.encode()).digest(): "arn:aws:iam::1:user/bob"
    }


def rewrite(file: Path, text: str | bytes) -> None:
    """Replace the file as a mounted secret is: by another one of its name."""
    fresh = file.with_suffix(".new")
    fresh.write_bytes(text if isinstance(text, bytes) else text.encode())
    fresh.replace(file)


@pytest.fixture(name="file")
def _file(tmp_path: Path) -> Path:
    (tmp_path / "keys").write_text(pair("alice", KEY))
    return tmp_path / "keys"


async def test_keys_rotate_without_a_restart(file: Path) -> None:
    clock = Clock()
    keys = ApiKeys(parse(pair("carol", OLD)), KeyFile(file, clock))
    rewrite(file, f"{pair('alice', KEY)}\n{pair('bob', OTHER)}\n")
    assert await outcome([bearer(OTHER)], keys) == "refused: unknown key"
    clock.advance(LOOK_S)
    assert [await outcome([bearer(each)], keys) for each in (KEY, OTHER, OLD)] == ["alice", "bob", "carol"]
    rewrite(file, pair("bob", OTHER))
    clock.advance(LOOK_S)
    assert [await outcome([bearer(each)], keys) for each in (KEY, OTHER)] == ["refused: unknown key", "bob"]


async def test_a_file_that_is_written_in_place_is_read_again(file: Path) -> None:
    clock = Clock()
    keys = ApiKeys({}, KeyFile(file, clock))
    file.write_text(pair("carol", KEY))
    os.utime(file, ns=(1, 1))  # the same size and, on a coarse file system, the same time
    clock.advance(LOOK_S)
    assert await outcome([bearer(KEY)], keys) == "carol"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "ValueError"),
        ("alice:canary-7f3a", "ValueError"),
        (b"\xff\xfe", "UnicodeDecodeError"),
        (pair("bob", OTHER).ljust(MAX_FILE_BYTES + 1), "ValueError"),
    ],
    ids=["empty", "no digest", "no text", "a byte too long"],
)
async def test_a_bad_new_file_changes_nothing_and_is_logged_once(
    file: Path, text: str | bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    keys = ApiKeys({}, KeyFile(file, clock))
    rewrite(file, text)
    with caplog.at_level(logging.DEBUG):
        for _ in range(5):
            clock.advance(LOOK_S)
            assert await outcome([bearer(KEY)], keys) == "alice"
    [record] = caplog.records
    assert (record.getMessage(), vars(record)["reason"]) == ("API keys cannot be read again", reason)
    assert "canary" not in caplog.text
    rewrite(file, pair("bob", OTHER))
    clock.advance(LOOK_S)
    assert await outcome([bearer(OTHER)], keys) == "bob"


async def test_a_file_of_the_greatest_length_is_read_once_and_then_looked_at_only(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file.write_text(pair("alice", KEY).ljust(MAX_FILE_BYTES))
    clock = Clock()
    keys = ApiKeys({}, KeyFile(file, clock))
    with caplog.at_level(logging.DEBUG):
        for _ in range(3):
            clock.advance(LOOK_S)
            assert await outcome([bearer(KEY)], keys) == "alice"
    assert caplog.records == []


async def test_a_file_that_is_gone_changes_nothing(file: Path) -> None:
    clock = Clock()
    keys = ApiKeys({}, KeyFile(file, clock))
    file.unlink()
    clock.advance(LOOK_S)
    assert await outcome([bearer(KEY)], keys) == "alice"


@pytest.mark.parametrize("text", [None, b"", b"alice", b"\xff"])
def test_a_bad_file_at_the_start_is_a_bad_setting(tmp_path: Path, text: bytes | None) -> None:
    if text is not None:
        (tmp_path / "bad").write_bytes(text)
    with pytest.raises(ConfigurationError) as caught:
        KeyFile(tmp_path / "bad")
    expected = ["AUTH_API_KEYS_FILE must be a readable text file of principal:digest pairs in UTF-8"]
    assert caught.value.problems == expected
    assert caught.value.__cause__ is None


async def test_a_new_key_is_let_in_by_its_pair() -> None:
    made = [run_app("new-key", *principal) for principal in ([], ["a@example.com"])]
    for ended, principal in zip(made, ("me", "a@example.com"), strict=True):
        (_, key), (_, digests) = (line.split() for line in ended.stdout.splitlines())
        assert ended.returncode == 0
        assert key.startswith(PREFIX)
        assert await outcome([bearer(key)], ApiKeys(parse(digests))) == principal


def test_keys_are_long_and_never_alike() -> None:
    keys = {make() for _ in range(1000)}
    assert len(keys) == 1000
    assert {len(key) for key in keys} == {len(PREFIX) + 43}  # 256 bits, six to a character


@pytest.mark.parametrize(
    "arguments", [["new-key", "a b"], ["new-key", "anonymous"], ["new-key", "a,b"], ["serve", "x"]]
)
def test_what_cannot_be_a_principal_gets_no_key(arguments: list[str]) -> None:
    ended = run_app(*arguments)
    assert (ended.returncode, ended.stdout) == (2, "")


async def test_a_new_file_that_could_not_be_opened_is_read_as_soon_as_it_can_be(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A process without a free descriptor, or a file whose rights are mended later, must not keep a key for ever."""
    clock = Clock()
    keys = ApiKeys({}, KeyFile(file, clock))
    rewrite(file, pair("bob", OTHER))
    with caplog.at_level(logging.DEBUG):
        with no_free_descriptor():
            for _ in range(3):
                clock.advance(LOOK_S)
                assert await outcome([bearer(KEY)], keys) == "alice"
        clock.advance(LOOK_S)
        assert await outcome([bearer(KEY)], keys) == "refused: unknown key"
        clock.advance(LOOK_S)
        assert await outcome([bearer(OTHER)], keys) == "bob"
    assert [record.message for record in caplog.records] == ["API keys cannot be read again", "API keys read again"]


@contextmanager
def no_free_descriptor() -> Iterator[None]:
    """Let this process open nothing more within the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_pipe_is_no_file_and_holds_up_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "keys")
    with pytest.raises(ConfigurationError):
        KeyFile(tmp_path / "keys")
