"""Where the keys of AWS are looked for."""

import sys
from pathlib import Path
from typing import Any

import pytest

from app.errors import StoreUnavailable
from app.sessions.credentials import BotocoreCredentials, credentials

pytestmark = pytest.mark.anyio

NO_HTTP: Any = None  # the sources below read files and variables


@pytest.fixture(autouse=True)
def no_aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in (
        *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE"),
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    ):
        monkeypatch.delenv(name, raising=False)
    config = tmp_path / "config"
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return config


async def test_the_environment_comes_first(monkeypatch: pytest.MonkeyPatch, no_aws: Path) -> None:
    no_aws.write_text("[default]\naws_access_key_id = of-profile\naws_secret_access_key = s\n")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    key = await credentials().get_key(NO_HTTP)
    assert key
    assert key.id == "of-environment"


async def test_a_profile_with_a_process_is_left_to_botocore(monkeypatch: pytest.MonkeyPatch, no_aws: Path) -> None:
    answer = '{"Version": 1, "AccessKeyId": "of-process", "SecretAccessKey": "s", "SessionToken": "t"}'
    script = no_aws.with_name("keys.py")
    script.write_text(f"print('''{answer}''')\n")
    no_aws.write_text(f"[profile work]\ncredential_process = {sys.executable} {script}\n")
    monkeypatch.setenv("AWS_PROFILE", "work")
    key = await credentials().get_key(NO_HTTP)
    assert key
    assert (key.id, key.secret, key.token) == ("of-process", "s", "t")


async def test_without_any_configuration_botocore_is_not_asked(no_aws: Path) -> None:
    assert BotocoreCredentials().is_disabled()
    no_aws.write_text("[default]\n")
    assert not BotocoreCredentials().is_disabled()


async def test_a_profile_without_keys_leaves_the_question_to_the_next_source(no_aws: Path) -> None:
    no_aws.write_text("[default]\nregion = eu-central-1\n")
    source = BotocoreCredentials()
    assert await source.get_key(NO_HTTP) is None
    assert source.invalidate()


@pytest.mark.parametrize(
    "name", ["AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"]
)
async def test_what_only_botocore_knows_is_left_to_it(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "x")
    assert not BotocoreCredentials().is_disabled()


async def test_the_usual_file_of_profiles_is_looked_for_at_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_CONFIG_FILE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert BotocoreCredentials().is_disabled()
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "config").write_text("[default]\n")
    assert not BotocoreCredentials().is_disabled()


async def test_keys_are_asked_for_once_and_again_when_they_were_given_up(no_aws: Path) -> None:
    profile = "[default]\naws_access_key_id = {}\naws_secret_access_key = s\n"
    source = BotocoreCredentials()
    for number, expected in enumerate(("0", "0", "2")):
        no_aws.write_text(profile.format(number))
        if number == 2:
            assert source.invalidate() is True
        key = await source.get_key(NO_HTTP)
        assert key
        assert key.id == expected


async def test_a_source_that_fails_is_told_by_the_class_of_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "canary-7f3a")
    with pytest.raises(StoreUnavailable, match=r"^AWS keys cannot be had: ProfileNotFound$"):
        await BotocoreCredentials().get_key(NO_HTTP)
