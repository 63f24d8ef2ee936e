"""The list of hosts that the service answers for, over every way in."""

import json
import sys
from collections.abc import Iterator

import pytest

from app.config import Settings
from tests.entry_points import HandlerClient, Server, handler, server
from tests.http_headers import missing
from tests.in_process import warm
from tests.lambda_events import DOORS, HOST, Event, Request, answer_to
from tests.raw_http import read, said

LIST = "api.example.com, *.Inner.example, 127.0.0.1, [::1]"
OURS = [
    "api.example.com",
    "API.Example.COM",
    "api.example.com:8443",
    "api.example.com:",
    "a.inner.example",
    "a.b.inner.example:80",
    "127.0.0.1:80",
    "[::1]",
]
OTHERS = [
    "evil.example",
    "api.example.com.evil.example",
    "evil-api.example.com",
    "evil.api.example.com",
    "inner.example",
    ".inner.example",
    "evilinner.example",
    "apixexample.com",
    "api.example.com.",
    "[::2]",
    "",
]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server([sys.executable, "-m", "app"], tmp_path_factory.mktemp("hosts"), ALLOWED_HOSTS=LIST) as running:
        yield running


@pytest.fixture(scope="module")
def lambda_(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HandlerClient]:
    with handler(tmp_path_factory.mktemp("hosts-handler"), ALLOWED_HOSTS=LIST) as client:
        yield client


def asked(path: str, *hosts: str) -> bytes:
    return "\r\n".join(
        [f"GET {path} HTTP/1.1", *(f"Host: {host}" for host in hosts), "Connection: close\r\n\r\n"]
    ).encode()


@pytest.mark.parametrize("host", OURS)
def test_a_request_for_a_host_of_the_list_is_answered(running: Server, host: str) -> None:
    assert read(said(running.port, asked("/sessions", host))).status == 200


@pytest.mark.parametrize("host", OTHERS)
def test_a_request_for_another_host_is_misdirected(running: Server, host: str) -> None:
    answer = read(said(running.port, asked("/sessions", host)))
    assert (answer.status, answer.slug, missing(answer.headers)) == (421, "misdirected-request", {})
    assert "example" not in answer.body


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_the_probes_answer_for_any_host(running: Server, path: str) -> None:
    """Kubelets and balancers ask by address."""
    assert read(said(running.port, asked(path, "10.0.0.7:8000"))).status == 200


@pytest.mark.anyio
@pytest.mark.parametrize("headers", [[("Host", "a"), ("Host", "a")], [("Host", "b@a")], [("Host", "a/b")]], ids=str)
async def test_two_hosts_or_none_are_no_request(settings: Settings, headers: list[tuple[str, str]]) -> None:
    """Behind any server: ours has refused such a request before."""
    async with warm(settings.model_copy(update={"allowed_hosts": ("a",)})) as app:
        answer = await app.request("GET", "/sessions", headers=headers)
        assert (answer.status, answer.slug, missing(answer.headers)) == (400, "malformed-request", {})
        assert (await app.request("GET", "/sessions", headers=[("Host", "a")])).status == 200


def elsewhere(event: Event) -> Event:
    found: Event = json.loads(json.dumps(event).replace(HOST[1], "evil.example"))
    return found


@pytest.mark.parametrize("door", DOORS)
def test_every_front_door_names_its_host(lambda_: HandlerClient, door: str) -> None:
    event = DOORS[door](Request("GET", "/sessions"))
    assert answer_to(event, lambda_.invoke(event)).status == 200
    answer = answer_to(event, lambda_.invoke(elsewhere(event)))
    assert (answer.status, answer.slug, missing(answer.headers)) == (421, "misdirected-request", {})


def test_on_lambda_a_request_without_a_host_is_none(lambda_: HandlerClient) -> None:
    event = DOORS["http api"](Request("GET", "/sessions"))
    del event["headers"]["host"]
    answer = answer_to(event, lambda_.invoke(event))
    assert (answer.status, answer.slug) == (400, "malformed-request")
