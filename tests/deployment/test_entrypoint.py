"""What the image starts, by its entry point's own shell and a `python` that says what it was asked for."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.entry_points import ROOT

ON_LAMBDA = {"AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9001"}
STREAM = {"LAMBDA_RESPONSE_MODE": "stream"}
BUFFERED, STREAMING = "-m awslambdaric handler.handler", "-m app.lambda_runtime"


@pytest.mark.parametrize(
    ("variables", "arguments", "started"),
    [
        ({}, [], "-m app"),
        ({}, ["check-config"], "-m app check-config"),
        (STREAM, [], "-m app"),
        (ON_LAMBDA, [], BUFFERED),
        (ON_LAMBDA | {"LAMBDA_RESPONSE_MODE": ""}, [], BUFFERED),
        (ON_LAMBDA | {"LAMBDA_RESPONSE_MODE": "buffer"}, [], BUFFERED),
        (ON_LAMBDA | STREAM, [], STREAMING),
        (STREAM, ["handler.handler"], STREAMING),
        (ON_LAMBDA | STREAM, ["other.handler"], "-m awslambdaric other.handler"),
    ],
    ids=str,
)
def test_the_entry_point_starts(tmp_path: Path, variables: dict[str, str], arguments: list[str], started: str) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", ROOT / "docker/entrypoint.sh", *arguments],
        env={"PATH": f"{tmp_path}:{os.defpath}", **variables},
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    )
    assert done.stdout.strip() == started
