"""Who may import whom: the rings of the architecture, what is not ours, and the cold start."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def name_of(path: Path) -> str:
    """Return the name of a module without `app.`; the package itself is `app`."""
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__").removeprefix("app.")


MODULES = {name_of(path): path for path in [ROOT / "handler.py", *(ROOT / "app").rglob("*.py")]}


def table(text: str) -> dict[str, set[str]]:
    """Return the rows `name: others`; names may go on in the next line."""
    rows = re.findall(r"([\w.]+):([^:]*)(?=^ +[\w.]+:|\Z)", text, re.MULTILINE)
    return {name: set(others.split()) for name, others in rows}


# Every module and exactly what it imports of ours, the outermost first: none imports from above.
RINGS = table("""
    handler:              errors lambda_environment lambda_events main middleware
    lambda_runtime:       errors lambda_environment lambda_events main middleware telemetry
    lambda_environment:   lambda_shutdown
    lambda_events:        problems
    lambda_shutdown:
    __main__:             auth.api_keys connections errors main
    app:                  main
    main:                 agents agents.claude agents.from_pydantic_ai agents.loader agents.messages_api \
                          agents.prices agents.tools auth auth.loader budgets caller clients config cors errors hosts \
                          lifecycle limits middleware observability problems routes session_routes sessions \
                          sessions.claims sessions.credentials sessions.dynamodb sessions.sqlite signals telemetry \
                          turns usage_routes
    config:               errors settings
    settings:             agent_settings auth_settings http_settings limit_settings setting \
                          telemetry_settings web_function
    agent_settings:       setting
    http_settings:        setting
    limit_settings:       setting
    observability:        agents deadline hosts lifecycle metrics.emf metrics.otlp metrics.prometheus otlp report \
                          telemetry_settings tracing turn_log
    telemetry_settings:   setting
    auth.loader:          auth auth.api_keys auth.front_door auth.jwks auth.tokens auth_settings errors
    auth_settings:        auth.api_keys setting
    setting:
    signals:              lifecycle
    clients:              errors
    web_function:
    usage_routes:         budgets caller problems
    session_routes:       caller deadline errors problems sessions sessions.claims sessions.codec turns wire
    routes:               caller deadline errors events lifecycle problems running sessions turns wire
    caller:               auth errors
    connections:          errors middleware problems request_head
    middleware:           cors errors lifecycle problems telemetry
    hosts:                errors problems request_head
    request_head:         errors
    cors:
    auth.api_keys:        auth errors
    auth.tokens:          auth auth.jwks errors
    auth.jwks:            errors
    auth.front_door:      auth errors
    sessions.dynamodb:    errors sessions sessions.items
    sessions.items:       sessions sessions.codec
    sessions.credentials: errors
    sessions.sqlite:      errors sessions
    agents.claude:        agents agents.conversation agents.messages_api agents.prices agents.reply \
                          agents.tools errors events
    agents.reply:         agents.conversation agents.messages_api errors
    agents.messages_api:  errors
    agents.prices:
    agents.from_pydantic_ai: agents agents.conversation agents.states agents.tools errors events
    agents.from_langgraph: agents agents.conversation agents.states errors events
    agents.from_strands:  agents agents.conversation agents.pumped agents.states errors events
    agents.loader:        agents errors
    agents.basic_tools:   agents.tools
    agents.tools:         agents errors events
    agents.conversation:  events
    agents.states:
    agents.pumped:
    agents.echo:          agents events
    otlp:
    tracing:              agents errors events problems sessions turn_log
    metrics.prometheus:   lifecycle metrics report
    metrics.otlp:         lifecycle metrics report
    metrics.emf:          metrics report turn_log
    metrics:              problems report telemetry
    turn_log:             errors problems report telemetry
    wire:                 errors events problems sessions strict_json
    strict_json:          errors
    problems:             errors telemetry
    lifecycle:            errors
    turns:                agents budgets deadline errors events limits report running sessions sessions.claims work
    limits:               errors sessions sessions.claims
    budgets:              errors events sessions sessions.claims
    running:              errors events work
    report:               events sessions work
    work:                 errors events
    sessions.claims:      errors events sessions sessions.codec
    sessions.codec:       errors events
    agents:               events
    auth:                 errors
    sessions:
    deadline:
    events:
    errors:
    telemetry:
""")

# Every package that is not ours and exactly who imports it: no framework below `wire`.
OUTSIDE = table("""
    aiodynamo:            sessions.credentials sessions.dynamodb
    aiohttp:              agents.messages_api auth.jwks lambda_runtime sessions.dynamodb
    botocore:             sessions.credentials
    dotenv:               config
    fastapi:              app caller lambda_environment main metrics.prometheus observability problems routes \
                          session_routes usage_routes
    httptools:            connections
    jwt:                  auth.jwks auth.tokens
    langchain_core:       agents.from_langgraph
    langgraph:            agents.from_langgraph
    mangum:               lambda_events
    pydantic:             agent_settings agents.from_pydantic_ai agents.tools auth_settings config http_settings \
                          problems session_routes setting settings telemetry_settings usage_routes wire
    opentelemetry:        metrics.otlp observability otlp telemetry tracing
    prometheus_client:    metrics.prometheus
    pydantic_ai:          agents.from_pydantic_ai
    pydantic_core:        agents.from_pydantic_ai agents.states agents.tools problems sessions.codec telemetry wire
                          work
    pydantic_settings:    agent_settings http_settings setting settings
    snapshot_restore_py:  lambda_environment
    starlette:            cors hosts lambda_events lambda_runtime main middleware problems routes
    strands:              agents.from_strands
    typing_extensions:    agents.tools
    uvicorn:              __main__ connections
    yarl:                 sessions.dynamodb
""")

# What a cold start must not pay for, and what has no place in a serving process at all.
HEAVY = {
    "anthropic",
    "boto3",
    "botocore",
    "cryptography",
    "httpx",
    "httpx2",
    "jwt",
    "langchain_core",
    "langgraph",
    "moto",
    "openai",
    "opentelemetry.exporter",
    "opentelemetry.sdk",
    "prometheus_client",
    "pydantic_ai",
    "requests",
    "strands",
}
LAMBDA = {"AWS_LAMBDA_FUNCTION_NAME": "f", "AWS_REGION": "us-east-1", "SESSIONS_TABLE": "sessions"}


def imports(module: str) -> Iterator[str]:
    """Yield the name of every module imported, wherever in the file the statement stands."""
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name.removeprefix("app.") in MODULES else str(node.module) for name in names)


def test_every_module_has_its_ring() -> None:
    assert set(MODULES) == set(RINGS)


@pytest.mark.parametrize("module", RINGS)
def test_a_module_imports_what_its_ring_allows(module: str) -> None:
    ours = {name.removeprefix("app.") for name in imports(module) if name.split(".")[0] == "app"}
    assert ours == RINGS[module]


@pytest.mark.parametrize("module", RINGS)
def test_no_module_imports_from_above(module: str) -> None:
    below = list(RINGS)[list(RINGS).index(module) + 1 :]
    assert RINGS[module] <= set(below)


def test_what_is_not_ours_is_imported_at_the_edge_only() -> None:
    found: dict[str, set[str]] = {}
    for module in MODULES:
        for package in {name.split(".")[0] for name in imports(module)}:
            if package != "app" and package not in sys.stdlib_module_names:
                found.setdefault(package, set()).add(module)
    assert found == OUTSIDE


@pytest.mark.parametrize("key", [{}, {"ANTHROPIC_API_KEY": "k"}], ids=["without key", "with key"])
@pytest.mark.parametrize(
    ("statement", "environment", "heavy"),
    [
        ("import handler", LAMBDA, HEAVY | {"sqlite3", "uvicorn"}),
        ("from app import app", {}, HEAVY),
    ],
    ids=["handler", "app"],
)
def test_importing_loads_nothing_heavy(
    statement: str,
    environment: dict[str, str],
    heavy: set[str],
    key: dict[str, str],
    tmp_path: Path,
) -> None:
    loaded = printed(f"import sys; {statement}; print(*sys.modules)", tmp_path, environment | key)
    assert heavy.isdisjoint(loaded.split())


def test_the_handler_collects_garbage_again_but_not_what_was_loaded(tmp_path: Path) -> None:
    statement = "import handler, gc; print(gc.isenabled(), gc.get_freeze_count() > 10_000)"
    assert printed(statement, tmp_path, LAMBDA).split()[-2:] == ["True", "True"]


def test_a_server_does_not_look_again_at_what_was_loaded(tmp_path: Path) -> None:
    statement = "from app import app; import gc; print(gc.isenabled(), gc.get_freeze_count() > 10_000)"
    assert printed(statement, tmp_path, {}).split()[-2:] == ["True", "True"]


def printed(program: str, folder: Path, environment: dict[str, str]) -> str:
    """Return what a new Python prints."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={"PATH": os.defpath, "PYTHONPATH": str(ROOT), **environment},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout
