"""template.yaml under the real SAM CLI: it is valid, builds, and serves every front door from a real table."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.container.engine import docker, network
from tests.deployment.documents import load
from tests.deployment.promises import change
from tests.entry_points import HTTPClient
from tests.machine import tool
from tests.sam.cli import ROOT, Local, Sam
from tests.servers import sessions_table

SAM = tool("sam")
ENGINE = tool("engine")
FRONT_DOORS = ["alb", "function_url", "http_api", "rest"]
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> Sam:
    return Sam(SAM, ENGINE, tmp_path_factory.mktemp("sam"))


@pytest.fixture(scope="module")
def built(sam: Sam) -> Path:
    """The template that `sam build` writes; it names the image."""
    folder = sam.folder / "build"
    sam.run("build", "--build-dir", folder, "--cache-dir", sam.folder / "cache")
    return folder / "template.yaml"


@pytest.fixture(scope="module")
def local(sam: Sam, built: Path) -> Iterator[Local]:
    with network() as bridge, sessions_table(bridge.gateway) as table:
        yield Local(sam, built, bridge, table)


@pytest.fixture(scope="module")
def api(local: Local) -> Iterator[HTTPClient]:
    with local.api() as api:
        yield api


def test_the_template_is_valid(sam: Sam) -> None:
    assert "is a valid SAM Template" in sam.run("validate", "--lint")


def test_a_template_that_aws_would_refuse_is_not_valid(sam: Sam, tmp_path: Path) -> None:
    template = tmp_path / "template.json"
    template.write_text(json.dumps(change(load("template.yaml"), "AgentFunction.Properties.PackageType", "Wheel")))
    done = sam.attempt("validate", "--lint", "--template", template)
    assert done.returncode == 1
    assert "'Wheel' is not one of" in done.stdout + done.stderr


def test_the_function_is_built_as_the_image_that_may_become_root(built: Path) -> None:
    """`sam local` puts the emulator into the image, which the image's own user could not."""
    template = load(str(built))
    image = template["Resources"]["AgentFunction"]["Properties"]["ImageUri"]
    config = json.loads(docker("image", "inspect", "--format", "{{json .Config}}", image).stdout)
    assert config.get("User", "") == ""
    assert config["Entrypoint"][-1].endswith("/entrypoint.sh")


@pytest.mark.parametrize("door", FRONT_DOORS)
def test_the_chat_of_a_front_door_is_answered_and_stored(local: Local, door: str) -> None:
    reply = local.invoke(ROOT / "events" / f"{door}_chat.json")
    answer = json.loads(reply["body"])
    assert {"answer": "You said: hi", "turn": 1}.items() <= answer.items()
    assert len(local.table.turns(answer["session_id"])) == 1


def test_a_scheduled_ping_is_answered(local: Local) -> None:
    assert local.invoke(ROOT / "events" / "scheduled_ping.json")["statusCode"] == 200


@pytest.mark.parametrize(("path", "status"), [("/healthz", "alive"), ("/readyz", "ready")])
def test_the_api_answers_probes(api: HTTPClient, path: str, status: str) -> None:
    answer = api.request("GET", path)
    assert answer.status == 200
    assert answer.json["status"] == status


def test_the_api_continues_a_session_in_the_table(local: Local, api: HTTPClient) -> None:
    chat = json.dumps({"message": "hello", "session_id": "through-the-api"}).encode()
    turns = [api.request("POST", "/chat", chat, JSON).json["turn"] for _ in range(2)]
    assert turns == [1, 2]
    assert [int(item["turn"]["N"]) for item in local.table.turns("through-the-api")] == turns


def test_a_problem_keeps_its_status_and_its_type(api: HTTPClient) -> None:
    answer = api.request("POST", "/chat", b'{"message', JSON)
    assert (answer.status, answer.headers["content-type"]) == (400, "application/problem+json")
    assert answer.slug == "malformed-json"
