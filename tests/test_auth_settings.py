"""Which settings of authentication are accepted, what they make, and what the API's description says then."""

import subprocess
import sys
from pathlib import Path

import pytest

from app import config
from app.auth.loader import load
from app.config import Settings
from app.main import create_app
from tests.entry_points import environment
from tests.test_config import CANARY, PRODUCTION, empty_environment, problems

__all__ = ["empty_environment"]  # which every test here uses

PAIR = f"alice:{'0' * 64}"
JWT = {
    "AUTH": "jwt",
    "AUTH_JWT_ISSUER": "https://issuer.example.com/",
    "AUTH_JWT_AUDIENCE": "agent-service",
    "AUTH_JWT_JWKS_URL": "https://issuer.example.com/keys",
}
PROXY = {"AUTH": "platform", "AUTH_PLATFORM_HEADER": "X-User", "AUTH_PLATFORM_SECRET": CANARY * 3}
ON_LAMBDA = {"AWS_LAMBDA_FUNCTION_NAME": "f", "SESSIONS_TABLE": "sessions", "AWS_REGION": "eu-central-1"}
ON_WEB = ON_LAMBDA | {"AWS_LAMBDA_HTTP_ENDPOINT": "0.0.0.0:3000", "AGENT_TIMEOUT_S": "27"}
CHOOSE = "AUTH is required in production: api-key, jwt, platform, or none if that is meant"
NEEDED = "is required with AUTH=platform off Lambda"
URL = "AUTH_JWT_JWKS_URL must be an https URL, or http on this machine"
WORD = "AUTH_PLATFORM_SECRET must be 24 or more characters of visible ASCII, or several such with commas between them"


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"AUTH": "NONE"},
        {"AUTH": "api-key", "AUTH_API_KEYS": PAIR},
        {"AUTH": "api-key", "AUTH_API_KEYS": f"{PAIR},\n bob:{'1' * 64}\n"},
        {"AUTH": "api-key", "AUTH_API_KEYS_FILE": "keys"},
        JWT,
        JWT | {"AUTH_JWT_ALGORITHMS": "PS512", "AUTH_JWT_PRINCIPAL_CLAIM": "email"},
        JWT | {"AUTH_JWT_JWKS_URL": "http://127.0.0.1:9/keys"},
        JWT | {"AUTH_JWT_JWKS_URL": "http://localhost/keys"},
        JWT | {"AUTH_JWT_JWKS_URL": "http://[::1]:9/keys"},
        PROXY,
        PROXY | {"AUTH_PLATFORM_SECRET": f"{CANARY * 3},{'x' * 24}\n"},
        ON_LAMBDA | {"AUTH": "platform"},
        ON_WEB | PROXY,
        PRODUCTION | {"AGENT": "mine:agent"},
        PRODUCTION | {"AGENT": "mine:agent"} | JWT,
    ],
)
def test_a_whole_choice_is_accepted(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    assert problems(monkeypatch, **variables) == []


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        (PRODUCTION | {"ANTHROPIC_API_KEY": "k", "AUTH": ""}, [CHOOSE]),
        ({"AUTH": "basic"}, ["AUTH must be none, api-key, jwt or platform"]),
        ({"AUTH": "api-key"}, ["AUTH_API_KEYS or AUTH_API_KEYS_FILE is required with AUTH=api-key"]),
        (
            {"AUTH": "jwt"},
            [f"AUTH_JWT_{name} is required with AUTH=jwt" for name in ("AUDIENCE", "ISSUER", "JWKS_URL")],
        ),
        (JWT | {"AUTH_JWT_AUDIENCE": ""}, ["AUTH_JWT_AUDIENCE is required with AUTH=jwt"]),
        ({"AUTH": "platform"}, [f"AUTH_PLATFORM_HEADER {NEEDED}", f"AUTH_PLATFORM_SECRET {NEEDED}"]),
        (PROXY | {"AUTH_PLATFORM_SECRET": ""}, [f"AUTH_PLATFORM_SECRET {NEEDED}"]),
        (PROXY | {"AUTH_PLATFORM_HEADER": ""}, [f"AUTH_PLATFORM_HEADER {NEEDED}"]),
        (ON_WEB | {"AUTH": "platform"}, [f"AUTH_PLATFORM_HEADER {NEEDED}", f"AUTH_PLATFORM_SECRET {NEEDED}"]),
        (
            ON_LAMBDA | PROXY,
            [f"AUTH_PLATFORM_{name} has no effect with AUTH=platform on Lambda" for name in ("HEADER", "SECRET")],
        ),
        ({"AUTH_API_KEYS": PAIR}, ["AUTH_API_KEYS has no effect with AUTH=none"]),
        (JWT | {"AUTH_API_KEYS_FILE": "keys"}, ["AUTH_API_KEYS_FILE has no effect with AUTH=jwt"]),
        (PROXY | {"AUTH_JWT_ALGORITHMS": "RS256"}, ["AUTH_JWT_ALGORITHMS has no effect with AUTH=platform"]),
        ({"AUTH_JWT_ISUER": "x"}, ["AUTH_JWT_ISUER is not a setting; the nearest is AUTH_JWT_ISSUER"]),
        *[(JWT | {"AUTH_JWT_ALGORITHMS": each}, None) for each in ("none", "HS256", "RS256,HS256", "RS256,", "ES256K")],
        *[
            (JWT | {"AUTH_JWT_JWKS_URL": each}, [URL, "AUTH_JWT_JWKS_URL is required with AUTH=jwt"])
            for each in (
                "http://issuer.example.com/keys",
                "http://127.0.0.1.example.com/keys",
                "https://user:secret@issuer.example.com/keys",
                "https://issuer.example.com:0/keys",
                "https://issuer.example.com:x/keys",
                "https:///keys",
                "ftp://localhost/keys",
                "file:///keys",
                "keys",
            )
        ],
        *[
            (PROXY | {"AUTH_PLATFORM_SECRET": each}, [WORD, f"AUTH_PLATFORM_SECRET {NEEDED}"])
            for each in ("x" * 23, f"{'x' * 24},y", f"{'x' * 24} {'y' * 24}", "é" * 24)
        ],
        *[
            (
                PROXY | {"AUTH_PLATFORM_HEADER": each},
                ["AUTH_PLATFORM_HEADER must be the name of a header", f"AUTH_PLATFORM_HEADER {NEEDED}"],
            )
            for each in ("X_User", "X-User:", "Authorization", "x-proxy-secret", "X-API-Key", "Host", "X-Request-ID")
        ],
    ],
)
def test_half_a_choice_or_a_bad_one_is_named(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: list[str] | None
) -> None:
    algorithms = "of RS256, RS384, RS512, PS256 … ES512 and EdDSA, with commas between them"
    assert problems(monkeypatch, **variables) == (expected or [f"AUTH_JWT_ALGORITHMS must be {algorithms}"])


def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert problems(monkeypatch, **PROXY) == []
    assert CANARY not in f"{config.load().redacted()} {config.load()!r}"
    assert config.load().redacted()["auth_platform_secret_set"] is True


@pytest.mark.parametrize(
    ("variables", "events", "made"),
    [
        ({}, False, "Nobody"),
        ({"AUTH": "api-key", "AUTH_API_KEYS": PAIR}, False, "ApiKeys"),
        (JWT, True, "Tokens"),
        ({"AUTH": "platform"}, True, "FrontDoor"),
        (PROXY, False, "Proxy"),
    ],
)
def test_the_setting_chooses_who_authenticates(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], *, events: bool, made: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert type(load(config.load(), has_events=events)).__name__ == made


@pytest.mark.parametrize("command", [["-m", "app", "check-config"], ["-m", "app"], ["-m", "uvicorn", "app:app"]])
def test_a_file_of_keys_that_cannot_be_used_stops_the_start(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"alice:{CANARY}")
    ended = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env=environment(AUTH="api-key", AUTH_API_KEYS_FILE="keys"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode != 0
    told = ended.stdout + ended.stderr
    assert "AUTH_API_KEYS_FILE must be a readable text file of principal:digest pairs in UTF-8" in told
    assert CANARY not in told


def test_without_its_extra_jwt_stops_the_start_and_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "jwt.py").write_text("raise ModuleNotFoundError(name='jwt')")
    env = environment(**JWT)
    ended = subprocess.run(
        [sys.executable, "-m", "app", "check-config"],
        cwd=tmp_path,
        env=env | {"PYTHONPATH": f"{tmp_path}:{env['PYTHONPATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (
        78,
        "AUTH=jwt needs PyJWT and cryptography: install both beside the service\n",
    )


SCHEMES = {
    "api-key": {"HTTPBearer", "APIKeyHeader"},
    "jwt": {"HTTPBearer"},
    "platform": set(),
    "none": set(),
}


@pytest.mark.parametrize("way", SCHEMES)
def test_the_description_says_how_to_prove_who_one_is(settings: Settings, way: str) -> None:
    described = create_app(settings.model_copy(update={"auth": way})).openapi()
    assert set(described["components"].get("securitySchemes", {})) == SCHEMES[way]
    for path, operations in described["paths"].items():
        for operation in operations.values():
            asked = {name for each in operation.get("security", []) for name in each}
            assert asked == (set() if path in ("/healthz", "/readyz") else SCHEMES[way])
            assert ("401" in operation["responses"]) is (path not in ("/healthz", "/readyz"))
