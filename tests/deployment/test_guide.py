"""docs/deploy-lambda.md: its figures are the templates' and the code's, and its shell commands are well-formed."""

import json
import re
import subprocess

import botocore.session
import botocore.validate
import pytest

from app.web_function import LONGEST_S, MARGIN_S
from tests.deployment.documents import ROOT, load, properties

GUIDE = (ROOT / "docs" / "deploy-lambda.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)


def constant(name: str) -> int:
    [value] = re.findall(rf"^{name} = ([0-9_]+)", (ROOT / "handler.py").read_text(), re.MULTILINE)
    return int(value)


def test_the_table_has_the_figures_of_the_templates() -> None:
    modes = load("template.yaml")["Mappings"]["Modes"]
    variables = properties(load("deploy/zip.yaml"), "AgentFunction")["Environment"]["Variables"]
    revision = properties(load("deploy/web-function.yaml"), "Revision")["ServiceConfig"]
    turns = {
        "HTTP API": modes["buffer"]["TurnS"],
        "function URL": modes["buffer"]["TurnS"],
        "function URL that streams": modes["stream"]["TurnS"],
        "REST API that streams": modes["stream"]["TurnS"],
        "HTTP API, SnapStart": variables["AGENT_TIMEOUT_S"],
        "Web Function": revision["EnvironmentVariables"]["AGENT_TIMEOUT_S"],
    }
    rows = re.findall(r"^\| ([^|]+) \|[^|]+\|[^|]+\|[^|]+\| (\d+) s \|", GUIDE, re.MULTILINE)
    assert dict(rows) == turns


def test_the_limits_are_the_handlers() -> None:
    assert f"{constant('MAX_RESULT_BYTES') / 2**20:.1f} MiB; {constant('MAX_BALANCER_BYTES'):,} bytes" in GUIDE
    assert f"below {LONGEST_S - MARGIN_S} is checked" in GUIDE
    assert f"at least {MARGIN_S} s lower" in GUIDE


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_of_commands_can_be_parsed(number: int) -> None:
    parsed = subprocess.run(["/bin/sh", "-n"], input=BLOCKS[number], text=True, capture_output=True, check=False)
    assert (parsed.returncode, parsed.stderr) == (0, "")


def test_the_call_that_makes_a_revision_is_one_of_the_api() -> None:
    """As AWS's own description of the API has it; a shell and no account is needed to see what would be sent."""
    [block] = [block for block in BLOCKS if "create-web-function-revision" in block]
    role = "arn:aws:iam::123456789012:role/agent"
    shown = subprocess.run(
        ["/bin/sh", "-c", f"aws() {{ printf '%s\\n' \"$@\"; }}\n{block}"],
        env={"BUCKET": "a-bucket", "ROLE_ARN": role},
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    ).stdout.splitlines()
    service, call, *options = shown
    given = dict(zip(options[::2], options[1::2], strict=True))
    config = json.loads(given["--service-config"])
    sent = {
        "functionName": given["--function-name"],
        "buildConfig": json.loads(given["--build-config"]),
        "serviceConfig": config,
    }
    model = botocore.session.get_session().get_service_model(service)
    shape = model.operation_model("".join(part.title() for part in call.split("-"))).input_shape
    assert not botocore.validate.ParamValidator().validate(sent, shape).has_errors()
    assert sent["buildConfig"]["codeConfig"]["s3Object"]["bucket"] == "a-bucket"
    assert int(config["environmentVariables"]["AGENT_TIMEOUT_S"]) + MARGIN_S <= config["timeoutSeconds"]


def test_the_parameters_that_are_named_exist() -> None:
    known = {
        name
        for template in ("template.yaml", "deploy/zip.yaml", "deploy/web-function.yaml")
        for name in load(template)["Parameters"]
    }
    named = set(re.findall(r"\b([A-Z][a-z][A-Za-z]+)=", GUIDE)) - {"Status", "InvocationType"}  # S3's and Lambda's
    assert named >= {"Environment", "ResponseMode", "RestApi", "SessionsTable", "CodeVersion"}
    assert named <= known
