"""The SAM CLI on the engine of the tests: one command, or an HTTP API that ends with a block."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from tests.container.engine import Network
from tests.entry_points import HTTPClient
from tests.machine import free_port, listens, wait_until
from tests.servers import Table

ROOT = Path(__file__).parents[2]
LIMIT_S = 100  # less than pytest's, which would end the run


@dataclass(frozen=True, slots=True)
class Sam:
    """The CLI, started in the checkout as a user would; `folder` holds what it writes and is its home."""

    program: str
    engine: str
    folder: Path

    def run(self, *arguments: str | Path) -> str:
        """Run one command to its end and return what it printed."""
        done = self.attempt(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def attempt(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.program, *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )

    @property
    def environment(self) -> dict[str, str]:
        """Nothing of whoever runs the tests: no profile, no key, and no call to find some."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "DOCKER_HOST": self.engine,
            "SAM_CLI_TELEMETRY": "0",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@dataclass(frozen=True, slots=True)
class Local:
    """`sam local` for a built template, its functions on a network from which they reach the table."""

    sam: Sam
    template: Path
    network: Network
    table: Table

    def invoke(self, event: Path) -> Any:
        """Invoke the function once, in a container of its own, and return what it returned."""
        return json.loads(self.sam.run("local", "invoke", "--event", event, *self._options))

    @contextmanager
    def api(self) -> Iterator[HTTPClient]:
        """Serve the template's HTTP API on the loopback."""
        port, log = free_port(), self.sam.folder / "start-api.log"
        command = [self.sam.program, "local", "start-api", "--host", "127.0.0.1", "--port", str(port), *self._options]
        with log.open("wb") as output:
            process = subprocess.Popen(command, cwd=ROOT, env=self.sam.environment, stdout=output, stderr=output)
        try:
            wait_until(
                lambda: listens("127.0.0.1", port) or process.poll() is not None,
                limit_s=30,
                what="the API listens",
            )
            assert process.poll() is None, log.read_text()
            with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
                yield HTTPClient(Path(self.sam.folder), http)
        finally:
            process.terminate()  # on SIGTERM it removes its containers; in the background it is deaf to SIGINT
            try:
                process.wait(30)
            finally:
                process.kill()

    @property
    def _options(self) -> list[str | Path]:
        """The user's samconfig.toml, but for the address of the table and the network that leads to it."""
        settings = self.sam.folder / "settings.json"
        found = {name: self.table.settings[name] for name in ("SESSIONS_TABLE", "AWS_ENDPOINT_URL_DYNAMODB")}
        settings.write_text(json.dumps({"Parameters": {"ENVIRONMENT": "development", "AUTH": "none", **found}}))
        return [
            *("--template", self.template, "--config-file", ROOT / "samconfig.toml"),
            *("--env-vars", settings, "--docker-network", self.network.name),
            "--skip-pull-image",
        ]
