"""A Docker Engine, our image on it, and containers that end with a block."""

import http.client
import json
import os
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.machine import tool, wait_until

ROOT = Path(__file__).parents[2]
IMAGE = "agent-service:test"
PORT = 8000


def docker(*arguments: str, check: bool = True, limit_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a docker command on the engine of the tests; unless `check` is off, it has to succeed."""
    done = subprocess.run(
        ["docker", *arguments],  # noqa: S607 whichever one the user has
        env=os.environ | {"DOCKER_HOST": tool("engine")},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def build() -> None:
    """Make the image of this checkout."""
    docker("build", "--tag", IMAGE, ".", limit_s=110)


def config(key: str) -> object:
    """Return what the image says there."""
    return json.loads(docker("image", "inspect", "--format", f"{{{{json .Config.{key}}}}}", IMAGE).stdout)


@dataclass(frozen=True, slots=True)
class Network:
    """A bridge; its gateway is the address by which its containers reach this machine, and nobody else does."""

    name: str
    gateway: str


@contextmanager
def network() -> Iterator[Network]:
    """Make a network, removed with the block.

    The engine's own bridge will not do: an engine that has just made it does not tell its gateway (seen with 20.10).
    """
    name = f"agent-service-test-{uuid.uuid4().hex[:8]}"
    docker("network", "create", name)
    try:
        told = docker("network", "inspect", "--format", "{{(index .IPAM.Config 0).Gateway}}", name)
        yield Network(name, told.stdout.strip())
    finally:
        docker("network", "rm", name)


@dataclass(frozen=True, slots=True)
class Container:
    """A running container, addressed on the bridge; no proxy of the engine stands in between."""

    name: str
    address: str
    port: int

    def request(self, method: str, path: str, document: object = None) -> tuple[int, dict[str, object]]:
        """Send one request on a connection of its own; return the status and the JSON body."""
        connection = http.client.HTTPConnection(self.address, self.port, timeout=30)
        try:
            headers = {"Content-Type": "application/json"}
            body = None if document is None else json.dumps(document)
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def ready(self) -> bool:
        try:
            return self.request("GET", "/readyz")[0] == 200
        except OSError:
            return False

    def inspect(self, template: str) -> str:
        return docker("inspect", "--format", template, self.name).stdout.strip()

    def python(self, code: str) -> str:
        """What this Python code prints inside the container."""
        return docker("exec", self.name, "python", "-c", f"import os, re\n{code}").stdout.strip()

    @property
    def log(self) -> str:
        done = docker("logs", self.name)
        return done.stdout + done.stderr


@contextmanager
def container(*options: str, arguments: Sequence[str] = ()) -> Iterator[Container]:
    """Run the image, removed with the block."""
    name = docker("run", "--detach", *options, IMAGE, *arguments).stdout.strip()
    try:
        template = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        yield Container(name, docker("inspect", "--format", template, name).stdout.strip(), PORT)
    finally:
        docker("rm", "--force", "--volumes", name)


@contextmanager
def service(*options: str) -> Iterator[Container]:
    """Run the image as a container server that takes turns."""
    with container(*options) as running:
        wait_until(running.ready, limit_s=30, what="the container is ready")
        yield running
