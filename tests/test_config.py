"""The environment as settings: what it accepts, what it refuses, what it never tells."""

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from app import config
from app.config import Settings
from app.errors import ConfigurationError
from tests.entry_points import environment

CANARY = "canary-7f3a"
PRODUCTION = {"ENVIRONMENT": "production", "AUTH": "none", "SESSIONS_TABLE": "sessions", "AWS_REGION": "eu-central-1"}
MODEL = {"ANTHROPIC_API_KEY": "k"}
WEB_FUNCTION = {
    "AWS_LAMBDA_HTTP_ENDPOINT": "0.0.0.0:3000",
    "AGENT_TIMEOUT_S": "27",
    "SESSIONS_TABLE": "sessions",
    "AWS_REGION": "eu-central-1",
}
NAMES = [str(field.validation_alias) for field in Settings.model_fields.values()]


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def problems(monkeypatch: pytest.MonkeyPatch, **variables: str) -> list[str]:
    """Return what is wrong with an environment."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    try:
        return config.load().validate()
    except ConfigurationError as exc:
        return exc.problems


def test_the_defaults_suit_a_laptop() -> None:
    shown = config.load().redacted()
    told = {name: shown[name] for name in ("environment", "max_steps", "api_key_set", "log_level")}
    assert told == {"environment": "development", "max_steps": 6, "api_key_set": False, "log_level": "INFO"}
    assert config.load_valid().validate() == []


def test_the_environment_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    assert problems(monkeypatch, AGENT_MAX_STEPS="12", LOG_LEVEL="debug", ENVIRONMENT="Staging") == []
    settings = config.load()
    assert (settings.max_steps, settings.log_level, settings.environment) == (12, "DEBUG", "staging")


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    assert problems(monkeypatch, **dict.fromkeys(NAMES, "")) == []
    assert config.load().redacted() == Settings(_env_file=None).redacted()


def test_a_secret_loses_its_line_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", f"{CANARY}\n")
    key = config.load().api_key
    assert key is not None
    assert key.get_secret_value() == CANARY


@pytest.mark.parametrize("key", [f"{CANARY}\n{CANARY}", f"{CANARY}\xff", f"{CANARY}\t{CANARY}"])
def test_a_secret_that_fits_into_no_header_is_refused(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    assert problems(monkeypatch, ANTHROPIC_API_KEY=key) == ["ANTHROPIC_API_KEY must be a line of visible ASCII"]


def test_a_secret_of_nothing_but_a_line_end_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "\n")
    assert config.load().api_key is None


@pytest.mark.parametrize(
    "origins",
    [
        "*",
        "null",
        "app.example",
        "https://",
        "https://*.app.example",
        "https://app.example/",
        "https://app.example/path",
        "https://app.example?a",
        "https://App.example",
        "https://app.example:443",
        "http://app.example:80",
        "https://app.example:0",
        "https://user@app.example",
        "ftp://app.example",
        "HTTPS://app.example",
        "https://app.example https://b.example",
        "https://app.example,",
        "https://app.example, *",
    ],
)
def test_an_origin_that_is_not_exact_is_refused(monkeypatch: pytest.MonkeyPatch, origins: str) -> None:
    told = ["CORS_ORIGINS must be origins such as https://app.example, between commas"]
    assert problems(monkeypatch, CORS_ORIGINS=origins) == told


def test_origins_are_taken_as_they_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORS_ORIGINS", "https://app.example, http://localhost:3000,http://[::1]:8080,https://a.b:80")
    found = ("https://app.example", "http://localhost:3000", "http://[::1]:8080", "https://a.b:80")
    assert config.load().cors_origins == found


@pytest.mark.parametrize(
    "hosts",
    [
        "*",
        "*.",
        "a.*",
        "a*.example",
        "api.example:443",
        "https://api.example",
        "api.example/",
        "a b",
        "a..b",
        ".a",
        "a,",
    ],
)
def test_a_host_that_is_no_name_is_refused(monkeypatch: pytest.MonkeyPatch, hosts: str) -> None:
    told = ["ALLOWED_HOSTS must be host names such as api.example or *.api.example, between commas"]
    assert problems(monkeypatch, ALLOWED_HOSTS=hosts) == told


def test_a_dotenv_file_is_read_and_the_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("AGENT_MAX_STEPS=3\nPORT=9000\n")
    monkeypatch.setenv("PORT", "9001")
    settings = config.load()
    assert (settings.max_steps, settings.port) == (3, 9001)


def test_an_unreadable_dotenv_file_is_one_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_bytes(b"PORT=\xff\xfe\n")
    assert problems(monkeypatch) == [".env must be a readable text file in UTF-8"]


def test_production_without_its_key_misses_exactly_that(monkeypatch: pytest.MonkeyPatch) -> None:
    assert problems(monkeypatch, **PRODUCTION) == ["ANTHROPIC_API_KEY is required in production"]


def test_production_with_an_agent_of_its_own_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    assert problems(monkeypatch, **PRODUCTION, AGENT="mine:agent") == []


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        (
            {"ENVIRONMENT": "production", "ANTHROPIC_API_KEY": "k", "AUTH": "none"},
            "SESSIONS_TABLE is required in production; a file there forgets or divides the sessions",
        ),
        (
            {"AWS_LAMBDA_FUNCTION_NAME": "f"},
            "SESSIONS_TABLE is required on Lambda; a file there forgets or divides the sessions",
        ),
        (
            WEB_FUNCTION | {"SESSIONS_TABLE": ""},
            "SESSIONS_TABLE is required on Lambda; a file there forgets or divides the sessions",
        ),
        (
            WEB_FUNCTION | {"AGENT_TIMEOUT_S": ""},
            "AGENT_TIMEOUT_S is required on a Web Function: timeoutSeconds of its revision less 3",
        ),
        (WEB_FUNCTION | {"AGENT_TIMEOUT_S": "898"}, "AGENT_TIMEOUT_S must be at most 897 on a Web Function"),
        (WEB_FUNCTION | {"DRAIN_DELAY_S": "2"}, "DRAIN_DELAY_S has no effect on a Web Function"),
        (WEB_FUNCTION | {"SHUTDOWN_GRACE_S": "9"}, "SHUTDOWN_GRACE_S has no effect on a Web Function"),
        ({"SESSIONS_TABLE": "sessions"}, "AWS_REGION is required with SESSIONS_TABLE"),
        ({"DRAIN_DELAY_S": "6"}, "SHUTDOWN_GRACE_S must be at least DRAIN_DELAY_S and 3 seconds"),
        ({"AGENT_MAX_STEPS": "0"}, "AGENT_MAX_STEPS must be a whole number from 1 to 50"),
        ({"AGENT_MAX_STEPS": "51"}, "AGENT_MAX_STEPS must be a whole number from 1 to 50"),
        ({"AGENT_MAX_STEPS": "6.5"}, "AGENT_MAX_STEPS must be a whole number from 1 to 50"),
        ({"AGENT_TIMEOUT_S": "0"}, "AGENT_TIMEOUT_S must be a number from 1 to 3600"),
        ({"AGENT_TIMEOUT_S": "nan"}, "AGENT_TIMEOUT_S must be a number from 1 to 3600"),
        ({"PORT": "0"}, "PORT must be a whole number from 1 to 65535"),
        ({"AGENT": "a b"}, "AGENT must be echo, claude, pydantic-ai or module:object"),
        ({"AGENT": "claude"}, "ANTHROPIC_API_KEY is required with AGENT=claude"),
        ({"AGENT": "pydantic-ai"}, "AGENT_MODEL is required with AGENT=pydantic-ai; name provider:model"),
        ({"AGENT_TOOLS": "clock"}, "AGENT_TOOLS must be module:object"),
        ({"AGENT_MAX_OUTPUT_TOKENS": "0"}, "AGENT_MAX_OUTPUT_TOKENS must be a whole number from 1 to 128000"),
        ({"AGENT_MAX_TOKENS": "0"}, "AGENT_MAX_TOKENS must be a whole number from 1"),
        ({"AGENT_MAX_COST_USD": "0"}, "AGENT_MAX_COST_USD must be a number above 0"),
        ({"AGENT_MAX_COST_USD": "inf"}, "AGENT_MAX_COST_USD must be a number above 0"),
        ({"AGENT_PRICES": "2"}, "AGENT_PRICES must be two numbers above 0, such as 2,10"),
        ({"AGENT_PRICES": "2,-1"}, "AGENT_PRICES must be two numbers above 0, such as 2,10"),
        ({"ANTHROPIC_BASE_URL": "here"}, "ANTHROPIC_BASE_URL must be an http or https URL"),
        ({"AGENT": "echo", "AGENT_TOOLS": "mine:tools"}, "AGENT_TOOLS has no effect on this agent"),
        ({"AGENT": "mine:agent", "AGENT_PRICES": "1,2"}, "AGENT_PRICES has no effect on this agent"),
        ({"AGENT": "echo", "AGENT_MAX_TOKENS": "9"}, "AGENT_MAX_TOKENS has no effect on this agent"),
        ({"AGENT": "echo", "AGENT_MAX_COST_USD": "9"}, "AGENT_MAX_COST_USD has no effect on this agent"),
        ({"AGENT_MODEL": "bedrock:x", "AGENT_PRICES": "1,2"}, "AGENT_PRICES has no effect on this agent"),
        ({"RATE_LIMIT_PER_MINUTE": "0"}, "RATE_LIMIT_PER_MINUTE must be a whole number from 1 to 100000"),
        ({"RATE_LIMIT_PER_MINUTE": "100001"}, "RATE_LIMIT_PER_MINUTE must be a whole number from 1 to 100000"),
        ({"RATE_LIMIT_PER_MINUTE": "10/min"}, "RATE_LIMIT_PER_MINUTE must be a whole number from 1 to 100000"),
        ({"RATE_LIMIT_PER_MINUTE": "1.5"}, "RATE_LIMIT_PER_MINUTE must be a whole number from 1 to 100000"),
        ({"RATE_LIMIT_PER_MINUTE": "-1"}, "RATE_LIMIT_PER_MINUTE must be a whole number from 1 to 100000"),
        ({"RATE_LIMIT_PER_MINUTE": "inf"}, "RATE_LIMIT_PER_MINUTE must be a whole number from 1 to 100000"),
        ({"MAX_TURNS_PER_PRINCIPAL": "0"}, "MAX_TURNS_PER_PRINCIPAL must be a whole number from 1 to 100"),
        ({"MAX_TURNS_PER_PRINCIPAL": "101"}, "MAX_TURNS_PER_PRINCIPAL must be a whole number from 1 to 100"),
        ({"MAX_TURNS_PER_PRINCIPAL": "nan"}, "MAX_TURNS_PER_PRINCIPAL must be a whole number from 1 to 100"),
        ({"MAX_TURNS_PER_PRINCIPAL": "none"}, "MAX_TURNS_PER_PRINCIPAL must be a whole number from 1 to 100"),
        *[
            ({name: value}, f"{name} must be a whole number from 1 to 1000000000000")
            for name in ("SESSION_MAX_TOKENS", "DAILY_MAX_TOKENS")
            for value in ("0", "-1", "1.5", "1000000000001", "many")
        ],
        *[
            ({name: value}, f"{name} must be a number above 0, at most 1000000")
            for name in ("SESSION_MAX_COST_USD", "DAILY_MAX_COST_USD")
            for value in ("0", "-1", "inf", "nan", "1000001", "$5")
        ],
        *[
            (MODEL | {name: "5"}, f"{needed} is required with {name}; it is what a running turn sets aside")
            for name, needed in (
                ("SESSION_MAX_TOKENS", "AGENT_MAX_TOKENS"),
                ("DAILY_MAX_TOKENS", "AGENT_MAX_TOKENS"),
                ("SESSION_MAX_COST_USD", "AGENT_MAX_COST_USD"),
                ("DAILY_MAX_COST_USD", "AGENT_MAX_COST_USD"),
            )
        ],
        (
            MODEL | {"AGENT_MAX_COST_USD": "5", "DAILY_MAX_TOKENS": "9"},
            "AGENT_MAX_TOKENS is required with DAILY_MAX_TOKENS; it is what a running turn sets aside",
        ),
        ({"SESSION_MAX_TOKEN": "1"}, "SESSION_MAX_TOKEN is not a setting; the nearest is SESSION_MAX_TOKENS"),
        ({"DAILY_MAX_USD": "1"}, "DAILY_MAX_USD is not a setting; the nearest is DAILY_MAX_COST_USD"),
        ({"ON_DISCONNECT": "leave"}, "ON_DISCONNECT must be finish or stop"),
        (
            {"ANTHROPIC_API_KEY": "k", "AGENT_INSTRUCTIONS": "a", "AGENT_INSTRUCTIONS_FILE": "b"},
            "AGENT_INSTRUCTIONS and AGENT_INSTRUCTIONS_FILE exclude each other",
        ),
        ({"SESSIONS_TABLE": "a b", "AWS_REGION": "r"}, "SESSIONS_TABLE must be a table name or ARN"),
        ({"AWS_ENDPOINT_URL_DYNAMODB": "here"}, "AWS_ENDPOINT_URL_DYNAMODB must be an http or https URL"),
        ({"AGENT_MAX_STEP": "9"}, "AGENT_MAX_STEP is not a setting; the nearest is AGENT_MAX_STEPS"),
        ({"ALLOWED_HOST": "a"}, "ALLOWED_HOST is not a setting; the nearest is ALLOWED_HOSTS"),
        ({"CORS_ORIGIN": "https://a"}, "CORS_ORIGIN is not a setting; the nearest is CORS_ORIGINS"),
        ({"MAX_TURNS_PER_USER": "1"}, "MAX_TURNS_PER_USER is not a setting; the nearest is MAX_TURNS_PER_PRINCIPAL"),
        ({"RATE_LIMIT_PER_MIN": "9"}, "RATE_LIMIT_PER_MIN is not a setting; the nearest is RATE_LIMIT_PER_MINUTE"),
        (
            {"SESSION_TABLE": "t", "SESSIONS_TABEL": "t"},
            "SESSIONS_TABEL is not a setting; the nearest is SESSIONS_TABLE",
        ),
    ],
    ids=lambda value: ",".join(map("=".join, value.items())) if isinstance(value, dict) else "",
)
def test_a_bad_setting_is_named(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str) -> None:
    assert problems(monkeypatch, **variables) == [expected]


@pytest.mark.parametrize(
    ("variables", "agent"),
    [
        ({}, "echo"),
        ({"ANTHROPIC_API_KEY": "k"}, "claude"),
        ({"AGENT_MODEL": "bedrock:anthropic.claude"}, "pydantic-ai"),
        ({"ANTHROPIC_API_KEY": "k", "AGENT_MODEL": "claude-opus-5-5"}, "claude"),
        ({"ANTHROPIC_API_KEY": "k", "AGENT": "echo"}, "echo"),
        ({"AGENT": "mine:agent"}, "mine:agent"),
    ],
)
def test_the_key_and_the_model_choose_the_agent(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], agent: str
) -> None:
    assert problems(monkeypatch, **variables) == []
    assert config.load().redacted()["agent"] == agent


@pytest.mark.parametrize("agent", [{"ANTHROPIC_API_KEY": "k"}, {"AGENT_MODEL": "bedrock:x"}, {"AGENT": "mine:agent"}])
def test_budgets_suit_any_agent_that_tells_its_usage(monkeypatch: pytest.MonkeyPatch, agent: dict[str, str]) -> None:
    turn = {"AGENT_MAX_TOKENS": "9", "AGENT_MAX_COST_USD": "0.5"}
    more = {f"{each}_MAX_{what}": "7" for each in ("SESSION", "DAILY") for what in ("TOKENS", "COST_USD")}
    assert problems(monkeypatch, **agent, **turn, **more) == []


def test_production_with_a_model_of_another_provider_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    assert problems(monkeypatch, **PRODUCTION, AGENT_MODEL="bedrock:anthropic.claude") == []


def test_prices_are_two_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert problems(monkeypatch, ANTHROPIC_API_KEY="k", AGENT_PRICES="2.5, 10") == []
    assert config.load().prices == (2.5, 10.0)


def test_an_unknown_variable_in_dotenv_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("SESSIONS_WINDOWS=3\n")
    assert problems(monkeypatch) == ["SESSIONS_WINDOWS is not a setting; the nearest is SESSIONS_WINDOW"]


@pytest.mark.parametrize("prefix", ["AGENT", "AGENT_SERVICE", "SESSIONS"])
def test_what_kubernetes_sets_beside_a_service_is_no_typing_error(monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    tcp = f"{prefix}_PORT_8000_TCP"
    names = [f"{prefix}_SERVICE_HOST", f"{prefix}_SERVICE_PORT", f"{prefix}_SERVICE_PORT_HTTP", f"{prefix}_PORT", tcp]
    names += [f"{tcp}_PROTO", f"{tcp}_PORT", f"{tcp}_ADDR"]
    assert problems(monkeypatch, **dict.fromkeys(names, "tcp://10.0.0.11:8000")) == []


def test_an_unknown_variable_that_is_empty_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    assert problems(monkeypatch, AGENT_MAX_STEP="") == []


def test_the_settings_class_itself_tells_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_MAX_STEPS", CANARY)
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert CANARY not in str(caught.value)


def test_every_bad_setting_is_reported_at_once_and_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = {name: f"{CANARY} {name}" for name in NAMES}
    bad |= {"ENVIRONMENT": "production", "AGENT_TYPO": CANARY}
    del bad["ANTHROPIC_API_KEY"], bad["SESSIONS_FILE"]  # any text will do for them
    for free in ("HOST", "AGENT_MODEL", "AGENT_INSTRUCTIONS", "AGENT_INSTRUCTIONS_FILE", "AWS_LAMBDA_FUNCTION_NAME"):
        del bad[free]
    del bad["OTEL_SERVICE_NAME"]
    found = problems(monkeypatch, **bad)
    named = {text.split(" ")[0] for text in found}
    assert named == (set(bad) - {"ENVIRONMENT"}) | {"ANTHROPIC_API_KEY"}
    assert CANARY not in str(found)


def test_nothing_secret_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", CANARY)
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", f"http://u:{CANARY}@127.0.0.1:1/")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", f"http://u:{CANARY}@127.0.0.1:1/")
    monkeypatch.setenv("AGENT_INSTRUCTIONS", f"never say {CANARY}")
    settings = config.load()
    assert CANARY not in f"{settings.redacted()} {settings!r}"
    assert settings.redacted()["api_key_set"] is True


@pytest.mark.parametrize("entry", [["-m", "app"], ["-m", "uvicorn", "app:app"], ["-c", "import handler"]])
def test_no_entry_point_starts_on_a_bad_setting(entry: list[str], tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, *entry],
        cwd=tmp_path,
        env=environment(AGENT_MAX_STEPS=CANARY, LOG_LEVEL=CANARY, ANTHROPIC_API_KEY=CANARY),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode != 0
    assert "AGENT_MAX_STEPS must be" in ended.stdout + ended.stderr
    assert "LOG_LEVEL must be" in ended.stdout + ended.stderr
    assert CANARY not in ended.stdout + ended.stderr


def run_app(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_check_config_prints_the_effective_settings() -> None:
    ended = run_app("check-config", PORT="9000", ANTHROPIC_API_KEY=CANARY)
    assert ended.returncode == 0
    assert '"port": 9000' in ended.stdout
    assert '"api_key_set": true' in ended.stdout
    assert CANARY not in ended.stdout + ended.stderr


def test_check_config_says_what_is_wrong_and_fails() -> None:
    ended = run_app("check-config", **PRODUCTION)
    assert (ended.returncode, ended.stderr) == (78, "ANTHROPIC_API_KEY is required in production\n")
    assert '"environment": "production"' in ended.stdout


def test_a_bad_setting_ends_the_server_with_one_line_each() -> None:
    ended = run_app(PORT="http")
    assert (ended.returncode, ended.stderr) == (78, "PORT must be a whole number from 1 to 65535\n")


@pytest.mark.parametrize("entry", [["-m", "app"], ["-m", "app", "check-config"], ["-m", "uvicorn", "app:app"]])
def test_an_agent_that_cannot_be_had_is_a_bad_setting_like_any_other(entry: list[str], tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, *entry],
        cwd=tmp_path,
        env=environment(AGENT=f"{CANARY.replace('-', '_')}:agent", SESSIONS_TABLE="sessions"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode != 0
    assert "AGENT cannot be found: ModuleNotFoundError" in ended.stdout + ended.stderr
    assert "AWS_REGION is required with SESSIONS_TABLE" in ended.stdout + ended.stderr
    assert CANARY.replace("-", "_") not in ended.stdout.replace('"agent": "canary_7f3a:agent"', "") + ended.stderr


@pytest.mark.parametrize(
    ("endpoint", "address"),
    [
        ("0.0.0.0:3000", ("0.0.0.0", 3000)),  # noqa: S104 what Lambda says
        ("localhost:1", ("localhost", 1)),
        ("[::]:65535", ("::", 65535)),
        ("[2001:db8::1]:3000", ("2001:db8::1", 3000)),
        ("", ("127.0.0.1", 8000)),
    ],
)
def test_the_endpoint_of_a_web_function_is_where_it_listens(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, address: tuple[str, int]
) -> None:
    assert problems(monkeypatch, **WEB_FUNCTION, AWS_LAMBDA_FUNCTION_NAME="f") == []
    monkeypatch.setenv("AWS_LAMBDA_HTTP_ENDPOINT", endpoint)
    assert config.load().address == address
    assert config.load().frozen is (endpoint == "")


@pytest.mark.parametrize(
    "endpoint",
    [
        "3000",
        ":3000",
        "host:",
        "host:0",
        "host:65536",
        "host:3000/",
        "::1:3000",
        "[::1]",
        "[host]:3000",
        "a b:1",
        "h:1\n",
    ],
)
def test_what_is_no_endpoint_is_refused(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    found = problems(monkeypatch, **WEB_FUNCTION | {"AWS_LAMBDA_HTTP_ENDPOINT": endpoint})
    assert found == ["AWS_LAMBDA_HTTP_ENDPOINT must be host:port, an IPv6 host in brackets"]
