"""The image on a real engine: as a container server, and as a Lambda function under the emulator."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.container.engine import IMAGE, ROOT, Container, config, container, docker, network, service
from tests.lambda_runtime.emulator import Emulator, load_event
from tests.machine import listens, tool, wait_until
from tests.servers import Table, sessions_table

tool("engine")
RIE = tool("rie")

MAX_ADDED_MB = 100  # by us to the base image: dependencies, bytecode and code
NOT_FOR_PRODUCTION = {"boto3", "botocore", "hypothesis", "moto", "mypy", "pip", "pytest", "uv"}
CLIENTS = 20
SLOW_AGENT = """
import asyncio

async def agent(turn):
    print("a turn has begun", flush=True)
    await asyncio.sleep(1)
    yield "done"
"""
# PEP 552: the magic number, flags that say "hash, not compared with the source", the source's hash.
LIST_BYTECODE = """
import importlib.util, json, pathlib, sysconfig

good, bad = 0, []
for root in (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), "/srv"):
    for source in pathlib.Path(root).rglob("*.py"):
        head = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little")
        head += importlib.util.source_hash(source.read_bytes())
        code = pathlib.Path(importlib.util.cache_from_source(source))
        if code.is_file() and code.read_bytes().startswith(head):
            good += 1
        else:
            bad.append(str(source))
print(json.dumps([good, bad]))
"""
LIST_DISTRIBUTIONS = """
import importlib.metadata, sys

sys.path.append(f"{sys.base_prefix}/lib/python3.13/site-packages")
print(*(each.name.lower().replace("_", "-") for each in importlib.metadata.distributions()))
"""


@pytest.fixture(scope="module")
def running() -> Iterator[Container]:
    """A container with no setting at all."""
    with service("--health-interval", "0.5s") as running:
        yield running


def hello(running: Container) -> str:
    status, answer = running.request("POST", "/chat", {"message": "hello"})
    assert status == 200
    return str(answer["answer"])


def size_mb(image: str) -> float:
    return int(docker("image", "inspect", "--format", "{{.Size}}", image).stdout) / 1e6


def test_the_image_adds_little_to_its_base(capsys: pytest.CaptureFixture[str]) -> None:
    base = re.search(r"^ARG PYTHON_IMAGE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert base
    total, added = size_mb(IMAGE), size_mb(IMAGE) - size_mb(base[1])
    with capsys.disabled():
        print(f"\nimage: {total:.0f} MB, of which {added:.0f} MB are added to {base[1]}")
    assert added <= MAX_ADDED_MB


def test_it_answers_a_chat_with_no_setting(running: Container) -> None:
    assert hello(running) == "You said: hello"


def test_it_answers_on_the_published_port() -> None:
    with service("--publish", "127.0.0.1::8000") as running:
        port = docker("port", running.name, "8000/tcp").stdout.strip().rpartition(":")[2]
        assert hello(Container(running.name, "127.0.0.1", int(port))) == "You said: hello"


def test_its_health_check_turns_healthy(running: Container) -> None:
    def healthy() -> bool:
        return running.inspect("{{.State.Health.Status}}") == "healthy"

    wait_until(healthy, limit_s=30, what="the container is healthy")
    assert running.inspect("{{.RestartCount}}") == "0"


def test_its_health_check_fails_where_nothing_answers() -> None:
    check = config("Healthcheck.Test")
    assert isinstance(check, list)
    _, *command = check
    done = docker("run", "--rm", "--entrypoint", command[0], IMAGE, *command[1:], check=False)
    assert done.returncode == 1
    assert "/healthz did not answer" in done.stderr


def test_process_one_is_python_and_belongs_to_nobody(running: Container) -> None:
    command = running.python("print(open('/proc/1/cmdline').read().split(chr(0))[:3])")
    ids = running.python("print(*re.findall(r'[UG]id:\\t(\\d+)', open('/proc/1/status').read()))")
    assert command == "['python', '-m', 'app']"
    assert ids == "10001 10001"


def test_its_user_is_a_number_so_that_kubernetes_can_tell_it_is_not_root() -> None:
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", str(config("User")))


def test_it_claims_to_be_lambda_only_there() -> None:
    assert "AWS_" not in str(config("Env"))


def test_it_needs_no_writable_root_no_capability_and_no_certain_user() -> None:
    locked = ["--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL"]  # noqa: S108 in the container
    locked += ["--security-opt", "no-new-privileges", "--user", "65532:65532"]
    with service(*locked) as running:
        assert hello(running) == "You said: hello"


def test_it_writes_below_tmp_only() -> None:
    with service() as running:
        hello(running)
        changed = docker("diff", running.name).stdout.split("\n")
    assert [line for line in changed if line and not line[2:].startswith("/tmp")] == []  # noqa: S108


def test_bad_settings_end_it_at_once_with_their_names_and_status_78() -> None:
    bad = ["--env", "ENVIRONMENT=production", "--env", "PORT=canary"]
    done = docker("run", "--rm", *bad, IMAGE, check=False)
    assert done.returncode == 78
    assert [name in done.stderr for name in ("PORT", "ANTHROPIC_API_KEY", "SESSIONS_TABLE")] == [True] * 3
    assert "canary" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_other_arguments_are_commands_of_the_app() -> None:
    done = docker("run", "--rm", IMAGE, "check-config")
    assert json.loads(done.stdout)["environment"] == "development"


def test_every_module_has_bytecode_that_is_never_checked(running: Container) -> None:
    good, bad = json.loads(running.python(LIST_BYTECODE))
    assert bad == []
    assert good > 1000


def test_nothing_is_installed_but_the_pinned_requirements(running: Container) -> None:
    installed = set(running.python(LIST_DISTRIBUTIONS).split())
    pinned = re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert installed <= set(pinned)
    assert {"fastapi", "awslambdaric"} <= installed
    assert not installed & NOT_FOR_PRODUCTION


def test_nothing_of_the_checkout_is_in_it_but_the_service(running: Container) -> None:
    assert running.python("print(sorted(os.listdir('/srv')))") == str(
        ["__pycache__", "app", "handler.py", "requirements.txt"]
    )


@pytest.fixture
def slow(tmp_path: Path) -> list[str]:
    """Options for an agent that takes a second."""
    file = tmp_path / "slow.py"
    file.write_text(SLOW_AGENT)
    return ["--volume", f"{file}:/srv/slow.py:ro", "--env", "AGENT=slow:agent"]


def test_a_stop_lets_the_turns_in_flight_finish(slow: list[str]) -> None:
    with service(*slow) as running, ThreadPoolExecutor(CLIENTS) as clients:
        chat = {"message": "hello"}
        turns = [clients.submit(running.request, "POST", "/chat", chat) for _ in range(CLIENTS)]
        wait_until(
            lambda: running.log.count("a turn has begun") == CLIENTS,
            limit_s=10,
            what="every turn is running",
        )
        docker("stop", running.name)
        assert [turn.result()[0] for turn in turns] == [200] * CLIENTS
        assert running.inspect("{{.State.ExitCode}}") == "0"


def test_a_stop_drops_no_request_of_clients_that_watch_readiness(slow: list[str]) -> None:
    def talk_while_ready(running: Container) -> list[int]:
        turns = []
        while running.request("GET", "/readyz")[0] == 200:
            turns.append(running.request("POST", "/chat", {"message": "hello"})[0])
        return turns

    # The delay must outlast a turn, so that every client asks for readiness before the listener closes.
    with service(*slow, "--env", "DRAIN_DELAY_S=3") as running, ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(talk_while_ready, running) for _ in range(CLIENTS)]
        wait_until(
            lambda: running.log.count("a turn has begun") >= 2 * CLIENTS,
            limit_s=20,
            what="every client has begun its second turn",
        )
        docker("stop", running.name)
        statuses = [status for client in clients for status in client.result()]
        assert statuses == [200] * len(statuses)
        assert len(statuses) >= 2 * CLIENTS
        assert running.inspect("{{.State.ExitCode}}") == "0"


@pytest.fixture(scope="module")
def stored() -> Iterator[tuple[Table, list[str]]]:
    """A table on this machine, and options for a container that keeps its sessions there."""
    with network() as bridge, sessions_table(bridge.gateway) as table:
        settings = [f"--env={name}={value}" for name, value in table.settings.items()]
        yield table, [f"--network={bridge.name}", *settings]


@pytest.mark.parametrize("handler", [[], ["handler.handler"]], ids=["default", "named"])
def test_the_same_image_is_a_lambda_function(stored: tuple[Table, list[str]], handler: list[str]) -> None:
    table, options = stored
    entry = config("Entrypoint")
    assert isinstance(entry, list)
    with container(
        *options,
        *("--read-only", "--tmpfs", "/tmp"),  # noqa: S108 as on Lambda
        *("--volume", f"{RIE}:/rie:ro", "--entrypoint", "/rie"),
        arguments=[*entry, *handler],
    ) as running:
        wait_until(lambda: listens(running.address, 8080), limit_s=10, what="the emulator listens")
        reply = Emulator(running.address, 8080).invoke(load_event("http_api_chat"))
    assert reply.answer["answer"] == "You said: hi"
    assert reply.headers["x-cold-start"] == "true"
    assert len(table.turns("event-http-api")) == reply.answer["turn"]


def test_the_container_server_keeps_its_sessions_in_the_table(stored: tuple[Table, list[str]]) -> None:
    table, options = stored
    with service(*options) as running:
        chat = {"message": "hello", "session_id": "in-the-table"}
        assert running.request("POST", "/chat", chat)[0] == 200
    assert len(table.turns("in-the-table")) == 1
