"""The deployment's documents as data, and the parts of them that several tests look at."""

import json
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from app.config import Settings
from tests.deployment.promises import Document
from tests.entry_points import environment

ROOT = Path(__file__).parents[2]
# Of DynamoDB; test_table.py finds them in the store.
OPERATIONS = ["Query", "PutItem", "DeleteItem", "BatchWriteItem", "UpdateItem"]
TABLE = {"Ref": "SessionsTable"}
SETTINGS = {str(field.validation_alias) for field in Settings.model_fields.values()} | {"LAMBDA_RESPONSE_MODE"}
# Not settings of ours: where the service looks for them is up to AWS's own rules.
CREDENTIALS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}


class CloudFormationLoader(yaml.SafeLoader):
    """Reads CloudFormation's short tags as their long forms: `!Ref x` is `{"Ref": "x"}`."""


def _long_form(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> Document:
    name = tag if tag in {"Ref", "Condition"} else f"Fn::{tag}"
    if isinstance(node, yaml.ScalarNode):
        return {name: loader.construct_scalar(node)}
    assert isinstance(node, yaml.SequenceNode)
    return {name: loader.construct_sequence(node, deep=True)}


CloudFormationLoader.add_multi_constructor("!", _long_form)


def load(name: str) -> Document:
    """Return the document of that name at the top of the repository."""
    text = (ROOT / name).read_text()
    match Path(name).suffix:
        case ".toml":
            return tomllib.loads(text)
        case ".json":
            document = json.loads(text)
        case _:
            document = yaml.load(text, Loader=CloudFormationLoader)  # noqa: S506 a SafeLoader
    assert isinstance(document, dict)
    return document


def properties(template: Document, name: str) -> Document:
    found = template["Resources"][name]["Properties"]
    assert isinstance(found, dict)
    return found


def of_type(template: Document, kind: str) -> dict[str, Document]:
    return {n: r["Properties"] for n, r in template["Resources"].items() if r["Type"] == kind}


def variables(template: Document) -> Document:
    """Return the environment of the function."""
    found = properties(template, "AgentFunction")["Environment"]["Variables"]
    assert isinstance(found, dict)
    return found


def statements(template: Document) -> list[dict[str, Any]]:
    policies = properties(template, "FunctionRole")["Policies"]
    return [s for policy in policies for s in policy["PolicyDocument"]["Statement"]]


def check_config(variables: Mapping[str, str]) -> tuple[int, str]:
    """Return the status and the complaints of `python -m app check-config` in this environment."""
    done = subprocess.run(
        [sys.executable, "-m", "app", "check-config"],
        cwd=ROOT / "docs",  # no .env there
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stderr
