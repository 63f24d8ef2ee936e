"""Secrets in every setting come out of no start that fails: not on stdout or stderr, nor in what Lambda is told."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import httpx2
import pytest

from app.config import Settings
from app.settings import MAY_HOLD_SECRETS
from tests.canaries import found_in, secret
from tests.entry_points import environment
from tests.lambda_runtime.emulator import BUFFERED, STREAMING
from tests.lambda_runtime.front_door import INVOKE, in_thread
from tests.lambda_runtime.service import Function
from tests.machine import START_S, free_port

Case: TypeAlias = Callable[[Path], dict[str, str]]

NAMES = {field: str(info.validation_alias) for field, info in Settings.model_fields.items()}
SERVED = {
    "python -m app": [sys.executable, "-m", "app"],
    "uvicorn": [sys.executable, "-m", "uvicorn", "app:app"],
}
INVOKED = {"buffered": BUFFERED, "streaming": STREAMING}


def secrets_everywhere(_: Path) -> dict[str, str]:
    """Return a secret for each setting, most of which allow no such value, and for a name that is misspelt."""
    return {name: secret(name) for name in NAMES.values()} | {"AGENT_MAX_STEP": secret("a name misspelt")}


def secrets_with_more(_: Path) -> dict[str, str]:
    """Return a secret and more for each setting, so that fewer still allow it."""
    return {name: f" {secret(name)},\u00fc\t@" for name in NAMES.values()}


def good_secrets(_: Path) -> dict[str, str]:
    """Return secrets where they belong, in a configuration that contradicts itself."""
    return {
        "AGENT": "echo",
        "AUTH": "jwt",
        "ANTHROPIC_API_KEY": secret("ANTHROPIC_API_KEY"),
        "ANTHROPIC_BASE_URL": f"http://user:{secret('ANTHROPIC_BASE_URL')}@127.0.0.1:9",
        "AWS_ENDPOINT_URL_DYNAMODB": f"http://user:{secret('AWS_ENDPOINT_URL_DYNAMODB')}@127.0.0.1:9",
        "AUTH_JWT_JWKS_URL": f"https://user:{secret('AUTH_JWT_JWKS_URL')}@127.0.0.1:9",
        "AUTH_API_KEYS": f"{secret('principal')}:{'0' * 64}",
        "AUTH_PLATFORM_SECRET": secret("AUTH_PLATFORM_SECRET"),
        "AGENT_INSTRUCTIONS": secret("AGENT_INSTRUCTIONS"),
        "AGENT_INSTRUCTIONS_FILE": secret("AGENT_INSTRUCTIONS_FILE"),
    }


def dotenv(folder: Path) -> dict[str, str]:
    """Put secrets into lines of `.env` that are good, bad and none."""
    lines = [f"AGENT_MAX_STEPS={secret('bad line')}", f"'{secret('no line')} = \"", f"AUTH_JWT_X={secret('unknown')}"]
    (folder / ".env").write_text("\n".join(lines))
    return {}


def broken_module(folder: Path) -> dict[str, str]:
    """Name an agent whose module tells a secret while it is imported."""
    (folder / "broken.py").write_text(f"raise LookupError('{secret('import')}') from OSError('{secret('cause')}')")
    return {"AGENT": "broken:agent"}


def broken_files(folder: Path) -> dict[str, str]:
    """Name a file of keys that holds other secrets."""
    (folder / "keys").write_text(secret("file of keys"))
    return {"AUTH": "api-key", "AUTH_API_KEYS_FILE": str(folder / "keys")}


CASES: dict[str, tuple[Case, str]] = {
    "secrets everywhere": (secrets_everywhere, "AGENT_MAX_STEPS must be"),
    "secrets and more": (secrets_with_more, "AGENT_MAX_STEPS must be"),
    "good secrets": (good_secrets, "AUTH_JWT_ISSUER is required"),
    "a file of variables": (dotenv, "AGENT_MAX_STEPS must be"),
    "a broken module": (broken_module, "AGENT"),
    "a broken file": (broken_files, "AUTH_API_KEYS_FILE must be"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("command", SERVED)
def test_no_server_that_cannot_start_tells_a_secret(tmp_path: Path, command: str, case: str) -> None:
    make, told = CASES[case]
    variables = {"PORT": str(free_port()), "LOG_LEVEL": "DEBUG"} | make(tmp_path)
    failed = run(
        [*SERVED[command], *(["--port", str(free_port())] if command == "uvicorn" else [])], tmp_path, variables
    )
    assert failed.returncode != 0
    assert told in failed.stdout + failed.stderr
    assert found_in(failed.stdout + failed.stderr) == set()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("runtime", INVOKED)
def test_no_environment_that_cannot_open_tells_a_secret(tmp_path: Path, runtime: str, case: str) -> None:
    make, told = CASES[case]
    settings = environment(**({"AWS_LAMBDA_FUNCTION_NAME": "", "LOG_LEVEL": "DEBUG"} | make(tmp_path)))
    with in_thread(Function(INVOKED[runtime], tmp_path, settings)) as running:
        reply = httpx2.post(f"{running.url}{INVOKE}", content=b"{}", timeout=START_S)
        out = running.log.read_text() + reply.text + str(reply.headers) + str(running.report)
    assert reply.headers["x-amz-function-error"] == "Unhandled"
    assert told in out
    assert found_in(out) == set()


@pytest.mark.parametrize("case", CASES)
def test_the_check_of_the_settings_shows_only_what_holds_no_secrets(tmp_path: Path, case: str) -> None:
    make, told = CASES[case]
    checked = run([*SERVED["python -m app"], "check-config"], tmp_path, make(tmp_path))
    assert told in checked.stdout + checked.stderr
    assert found_in(checked.stderr) == set()
    plain = {name for field, name in NAMES.items() if field not in MAY_HOLD_SECRETS}
    assert found_in(checked.stdout) <= plain


def run(command: list[str], folder: Path, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )
