"""The runtime that streams, under the fake service: any ASGI app, chunk by chunk, whatever goes wrong."""

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings

from app.lambda_events import SCHEDULERS
from tests.entry_points import http_api_event
from tests.fake_model import FakeModel
from tests.fake_model import in_thread as model_in_thread
from tests.lambda_events import Event
from tests.lambda_runtime.emulator import STREAMING, emulator, http_event
from tests.lambda_runtime.front_door import INVOKE, Running, in_thread
from tests.lambda_runtime.service import Function
from tests.machine import START_S, tool, wait_until
from tests.model_process import heard_while_it_speaks, variables_for
from tests.model_script import Gate, says
from tests.odd_events import CANARY, STATUSES, odd_events
from tests.servers import Table, sessions_table

TOY = [sys.executable, "-m", "tests.lambda_runtime.toy"]
SSE = {"Accept": "text/event-stream"}
MAX_BYTES = 100_000


@contextmanager
def toy(folder: Path, **how: Any) -> Iterator[tuple[Running, httpx2.Client]]:
    """Yield a service that runs the toy, and a client of it."""
    function = Function(TOY, folder, {"MAX_BYTES": str(MAX_BYTES), **how.pop("settings", {})}, repeats=True, **how)
    with in_thread(function) as running, httpx2.Client(base_url=running.url, timeout=START_S) as http:
        yield running, http


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, httpx2.Client]]:
    """One environment of the toy, which must survive everything but a timeout."""
    with toy(tmp_path_factory.mktemp("toy")) as (running, http):
        http.get("/").raise_for_status()
        [pid] = running.pids
        yield running, http
        assert running.pids == [pid]


@pytest.fixture(scope="module")
def table() -> Iterator[Table]:
    with sessions_table() as table:
        yield table


@pytest.fixture(scope="module")
def model() -> Iterator[FakeModel]:
    with model_in_thread() as model:
        yield model


@contextmanager
def service(folder: Path, table: Table, model: FakeModel, **how: Any) -> Iterator[tuple[Running, httpx2.Client]]:
    """Yield the service with the real app in it, its agent talking with the model, and a client of it."""
    settings = {**table.settings, **variables_for(model), **how.pop("settings", {})}
    with (
        in_thread(Function(STREAMING, folder, settings, repeats=True, **how)) as running,
        httpx2.Client(base_url=running.url, timeout=START_S) as http,
    ):
        yield running, http


def turns(http: httpx2.Client, session: str) -> list[str]:
    """Return the answers that are stored."""
    return [turn["answer"] for turn in http.get(f"/sessions/{session}").json().get("turns", [])]


def test_a_chunk_reaches_the_client_while_the_agent_still_speaks(
    tmp_path: Path, table: Table, model: FakeModel
) -> None:
    with service(tmp_path, table, model) as (_, http):
        assert heard_while_it_speaks(http, model) == ["one", " two", " three"]


def test_curl_sees_a_stream_as_it_comes(tmp_path: Path, table: Table, model: FakeModel) -> None:
    gate = Gate()
    model.script[:] = [says("one", gate, " two")]
    with service(tmp_path, table, model) as (running, _):
        command = ["curl", "-sN", f"{running.url}/chat", "-H", "Content-Type: application/json"]
        command += ["-H", "Accept: text/event-stream", "-d", '{"message": "hello"}']
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as curl:
            assert curl.stdout
            assert '{"text":"one"}' in next(line for line in curl.stdout if "text" in line)
            gate.set()
            assert "event: done" in curl.stdout.read()
        assert curl.returncode == 0


def test_a_body_of_three_megabytes_goes_both_ways(tmp_path: Path) -> None:
    body = bytes(range(256)) * 12_000
    with toy(tmp_path, settings={"MAX_BYTES": str(len(body))}) as (_, http):
        assert http.post("/echo", content=body).content == body


def test_cookies_go_both_ways(one: tuple[Running, httpx2.Client]) -> None:
    answer = httpx2.get(f"{one[0].url}/headers")
    assert answer.headers.get_list("set-cookie") == ["a=1; Path=/", "b=2"]
    assert answer.headers["x-n"] == "1, 2"
    assert httpx2.get(f"{one[0].url}/cookies", headers={"cookie": "a=1; b=2"}).text == "a=1; b=2"


def test_an_error_before_the_first_byte_is_a_function_error(one: tuple[Running, httpx2.Client]) -> None:
    assert one[1].get("/raise").status_code == 502
    for path, kind in [("/raise", "Function.LookupError"), ("/nothing", "Function.NoResponse")]:
        answer = one[1].post(INVOKE, json=http_api_event("GET", path, b"", {}))
        assert (answer.headers["x-amz-function-error"], answer.json()["errorType"]) == ("Unhandled", kind)
        assert "canary" not in answer.text


def test_an_error_after_the_first_byte_cuts_the_stream(one: tuple[Running, httpx2.Client]) -> None:
    with one[1].stream("GET", "/break") as response:
        chunks = response.iter_text()
        assert next(chunks) == "begun"
        with pytest.raises(httpx2.RemoteProtocolError):
            next(chunks)
    assert "canary" not in one[0].log.read_text()


def test_the_trailers_tell_what_went_wrong(one: tuple[Running, httpx2.Client]) -> None:
    answer = one[1].post(INVOKE, json=http_api_event("GET", "/break", b"", {}))
    assert answer.headers["x-amz-function-error"] == "Unhandled"
    prelude, _, body = answer.content.partition(bytes(8))
    assert (json.loads(prelude)["statusCode"], body) == (200, b"begun")


def test_a_response_over_the_limit_ends_there(one: tuple[Running, httpx2.Client]) -> None:
    assert len(one[1].get(f"/much/{MAX_BYTES // 1000}").content) == MAX_BYTES
    received: list[bytes] = []
    with one[1].stream("GET", f"/much/{MAX_BYTES // 1000 + 1}") as response, pytest.raises(httpx2.RemoteProtocolError):
        received.extend(response.iter_bytes())
    assert len(b"".join(received)) == MAX_BYTES


def test_the_context_tells_the_time_that_is_left(one: tuple[Running, httpx2.Client]) -> None:
    remaining_ms, _ = one[1].get("/context").json()
    assert 0 < remaining_ms <= 10_000


def test_the_trace_of_an_invocation_is_in_the_environment(one: tuple[Running, httpx2.Client]) -> None:
    traces = {one[1].get("/trace").text for _ in range(2)}
    assert len(traces) == 2
    assert all(each.startswith("Root=1-") for each in traces)


def test_a_scheduled_ping_is_answered_quietly(one: tuple[Running, httpx2.Client]) -> None:
    before = one[0].log.read_text()
    answer = one[1].post(INVOKE, json={"source": "aws.events", "detail-type": "Scheduled Event"})
    assert answer.json() == {"statusCode": 200, "body": '{"status":"alive"}'}
    assert one[0].log.read_text() == before


@pytest.mark.parametrize("payload", [b"{}", b"[]", b"no json", b'{"version": "2.0", "requestContext": null}'])
def test_an_event_that_is_no_request_gets_a_problem(one: tuple[Running, httpx2.Client], payload: bytes) -> None:
    prelude, _, body = one[1].post(INVOKE, content=payload).content.partition(bytes(8))
    assert (json.loads(prelude)["statusCode"], json.loads(body)["status"]) == (400, 400)
    assert json.loads(prelude)["headers"]["x-request-id"] == json.loads(body)["instance"]


def test_two_thousand_odd_events_are_answered_by_one_process(tmp_path: Path, table: Table) -> None:
    seen = []
    with (
        in_thread(Function(STREAMING, tmp_path, table.settings)) as running,
        httpx2.Client(base_url=running.url, timeout=START_S) as http,
    ):
        http.get("/healthz").raise_for_status()
        pids = running.pids

        @settings(max_examples=2000, derandomize=True, deadline=None, database=None)
        @given(odd_events())
        def answered(event: Event) -> None:
            reply = http.post(INVOKE, content=json.dumps(event).encode())
            prelude, end, body = reply.content.partition(bytes(8))
            head = json.loads(prelude)
            seen.append(head["statusCode"])
            assert "x-amz-function-error" not in reply.headers
            assert end or event["source"] in SCHEDULERS
            assert head["statusCode"] in STATUSES
            assert head["statusCode"] < 400 or json.loads(body)["instance"] == head["headers"]["x-request-id"]
            assert CANARY not in prelude.decode()

        answered()
        assert running.pids == pids
        log = running.log.read_text()
    assert len(seen) >= 2000
    assert min(seen.count(200), seen.count(400)) > 100
    assert CANARY not in log
    assert "exception" not in log


def test_a_timeout_in_the_middle_cuts_the_stream_and_costs_the_environment(tmp_path: Path) -> None:
    with toy(tmp_path, timeout_s=2) as (running, http):
        http.get("/").raise_for_status()
        pids = running.pids
        with http.stream("GET", "/stall") as response:
            chunks = response.iter_text()
            assert next(chunks) == "begun"
            with pytest.raises(httpx2.RemoteProtocolError):
                next(chunks)
        assert running.report == ["Task timed out after 2.00 seconds"]
        http.get("/").raise_for_status()
        assert running.pids != pids


def test_an_environment_takes_one_request_at_a_time(tmp_path: Path) -> None:
    with toy(tmp_path, environments=2) as (running, http), ExitStack() as stalled:
        for _ in range(2):
            response = stalled.enter_context(httpx2.stream("GET", f"{running.url}/stall", timeout=START_S))
            assert next(response.iter_text()) == "begun"
        assert http.get("/").status_code == 429


def test_an_environment_of_managed_instances_takes_several(tmp_path: Path) -> None:
    with (
        toy(tmp_path, concurrency=3, kind="lambda-managed-instances") as (running, http),
        ThreadPoolExecutor(3) as callers,
    ):
        http.get("/").raise_for_status()
        met = [callers.submit(httpx2.get, f"{running.url}/meet/4", timeout=START_S) for _ in range(3)]
        wait_until(lambda: running.busy == 3, what="all are there")
        assert http.get("/").status_code == 429
        running.stop()
        assert all(each.exception() for each in met)
    with toy(tmp_path, concurrency=3) as (running, http), ThreadPoolExecutor(3) as callers:
        http.get("/").raise_for_status()
        met = [callers.submit(httpx2.get, f"{running.url}/meet/3", timeout=START_S) for _ in range(3)]
        assert [each.result().status_code for each in met] == [200] * 3
        assert len(running.pids) == 1


def test_a_turn_whose_client_has_left_is_stored_and_then_the_next_one_comes(
    tmp_path: Path, table: Table, model: FakeModel
) -> None:
    gate = Gate()
    model.script[:] = [says("one", gate, " two")]
    with service(tmp_path, table, model) as (running, http):
        body = {"message": "hello", "session_id": "left"}
        with http.stream("POST", "/chat", json=body, headers=SSE) as response:
            next(line for line in response.iter_lines() if "text" in line)
        pids = running.pids
        assert httpx2.get(f"{running.url}/healthz").status_code == 429
        gate.set()
        wait_until(lambda: turns(http, "left") == ["one two"], what="the turn is stored")
        assert running.pids == pids


def test_a_turn_whose_response_nobody_takes_is_stored(tmp_path: Path, table: Table, model: FakeModel) -> None:
    model.script[:] = [says(*["word "] * 200)]
    with service(tmp_path, table, model, deaf=2000) as (running, http):
        body = {"message": "hello", "session_id": "deaf"}
        with (
            pytest.raises(httpx2.RemoteProtocolError),
            http.stream("POST", "/chat", json=body, headers=SSE) as response,
        ):
            response.read()
        pids = running.pids
        wait_until(lambda: table.turns("deaf") != [] and "body" in table.turns("deaf")[0], what="the turn is stored")
        assert http.get("/healthz").status_code == 200
        assert running.pids == pids


def test_awss_own_emulator_takes_the_same_bytes(tmp_path: Path, table: Table) -> None:
    """It collects a streamed response, and hands out its prelude too."""
    rie = tool("rie", for_module=False)
    with emulator(rie, table.settings, tmp_path / "log", command=STREAMING) as environment:
        for number, cold in [(1, "true"), (2, None)]:
            event = http_event("POST", "/chat", {"message": "hello", "session_id": "emulated"})
            event["headers"] |= SSE
            reply = environment.invoke(event)
            prelude, _, body = reply.body.partition(bytes(8))
            assert (reply.status, json.loads(prelude)["statusCode"]) == (200, 200)
            assert json.loads(prelude)["headers"].get("x-cold-start") == cold
            name, data = body.decode().strip().split("\n\n")[-1].split("\n")
            assert (name, json.loads(data.removeprefix("data: "))["turn"]) == ("event: done", number)


def test_awss_own_emulator_hears_of_an_error(tmp_path: Path) -> None:
    rie = tool("rie", for_module=False)
    with emulator(rie, {"MAX_BYTES": "1000"}, tmp_path / "log", command=TOY) as environment:
        assert environment.invoke(http_event("GET", "/raise")).document["errorType"] == "Function.LookupError"
        assert environment.invoke(http_event("GET", "/echo")).body.endswith(bytes(8))
