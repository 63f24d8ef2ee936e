"""Requests made from the OpenAPI document, good and bad, the same ones over a server and every front door of Lambda."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import requests
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import Case, GenerationMode, Response, checks, openapi
from schemathesis.core.failures import FailureGroup
from yarl import URL

from app.config import Settings
from app.main import create_app
from tests.chaos.front_doors import DOORS, Event, Sent
from tests.chaos.replicas import OURS, Replica, broken
from tests.chaos.trial import Bar, Trial
from tests.entry_points import Answer, handler

CASES = {True: 10_000, False: 300}
SESSIONS = ("one", "two", "three", "four")  # what random ids never do: meet
ODD = 0.35  # of the turns that also say what the document does not know: headers
HEADERS = (
    {"Accept": "text/event-stream"},
    {"Accept": "text/event-stream, application/json;q=0.5"},
    {"Accept": "image/png"},
    {"Idempotency-Key": "one"},
    {"Idempotency-Key": "two"},
    {"Idempotency-Key": "no key"},
    {"Content-Type": "text/plain"},
    {"Prefer": "wait=2"},
)
CONFORMS: list[Any] = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]
# An id of this request, one of a session that it made, or when that was.
FRESH = re.compile(r'"instance":"[^"]*"|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|"created":"[^"]*"|"before":"[^"]*"')
MET = (200, 204, 400, 404, 406, 415, 422)  # each in every run


@dataclass(frozen=True, slots=True)
class Sample:
    """A case of schemathesis and the request that it makes."""

    case: Case[Any]
    sent: Sent


async def run(trial: Trial) -> None:
    command = broken("undocumented status") if trial.broken else OURS
    samples = _samples(trial)
    with TemporaryDirectory() as folder:
        async with Replica(_made(folder, "server"), command) as replica:
            served, *invoked = await asyncio.gather(
                _serve(replica, samples),
                *[asyncio.to_thread(_invoke, _made(folder, name), wrap, samples) for name, wrap in DOORS.items()],
            )
    for number, (sample, answer) in enumerate(zip(samples, served, strict=True)):
        trial.saw(f"{answer.status}")
        _check_document(trial, sample, answer)
        for name, answers in zip(DOORS, invoked, strict=True):
            same = _without_ids(answers[number]) == _without_ids(answer)
            trial.check(same, f"{name} differs: {_title(sample, answers[number])}, not {answer.status} {answer.body}")
    trial.demand("positive", len(samples) // 3)
    trial.demand("negative", len(samples) // 3)
    for status in MET:
        trial.demand(f"{status}", 1)


def _made(folder: str, name: str) -> Path:
    path = Path(folder) / name
    path.mkdir()
    return path


def _samples(trial: Trial) -> list[Sample]:
    """Return the requests of the run, all operations mixed."""
    app = create_app(Settings(_env_file=None))
    operations: list[Any] = [each.ok() for each in openapi.from_dict(app.openapi()).get_all_operations()]  # type: ignore[union-attr]  # or it raises
    varied = [each for each in operations if each.body or each.path_parameters]
    share = CASES[trial.full] // len(varied) // len(GenerationMode)
    cases = [each.Case() for each in operations if each not in varied for _ in range(share // 10)]
    for operation in varied:
        for mode in GenerationMode:
            found = _generated(trial, operation, mode, share)
            trial.saw(mode.value, len(found))
            cases += found
    trial.random.shuffle(cases)
    return [Sample(case, _sent(trial, case)) for case in cases]


def _generated(trial: Trial, operation: Any, mode: GenerationMode, count: int) -> list[Case[Any]]:
    """Return cases of an operation; some of those that are good are about sessions that others are about too."""
    found: list[Case[Any]] = []

    @seed(trial.seed)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def collect(case: Case[Any]) -> None:
        if mode is GenerationMode.POSITIVE and trial.random.random() < 0.5:
            holder = case.body if isinstance(case.body, dict) else case.path_parameters
            holder["session_id"] = trial.random.choice(SESSIONS)
        found.append(case)

    collect()
    return found


def _sent(trial: Trial, case: Case[Any]) -> Sent:
    """Return the bytes of the case, and sometimes a header that the document does not know."""
    known = ("method", "url", "params", "data", "json")
    arguments = case.as_transport_kwargs(base_url="http://service")
    made = requests.Request(**{name: arguments[name] for name in known if name in arguments}).prepare()
    headers = {name: str(value) for name, value in made.headers.items() if name == "Content-Type"}
    if case.method == "POST" and trial.random.random() < ODD:
        headers |= trial.random.choice(HEADERS)
    body = made.body or b""
    assert isinstance(body, str | bytes)
    return Sent(str(made.method), made.path_url, headers, body.encode() if isinstance(body, str) else body)


async def _serve(replica: Replica, samples: list[Sample]) -> list[Answer]:
    answers = []
    async with aiohttp.ClientSession(skip_auto_headers=("Content-Type", "User-Agent")) as http:
        for sample in samples:
            sent = sample.sent
            url = URL(replica.url + sent.target, encoded=True)
            async with http.request(sent.method, url, data=sent.body or None, headers=sent.headers) as answer:
                headers = {name.lower(): value for name, value in answer.headers.items()}
                answers.append(Answer(answer.status, headers, await answer.text()))
    return answers


def _invoke(folder: Path, wrap: Callable[[Sent], Event], samples: list[Sample]) -> list[Answer]:
    with handler(folder) as function:
        results = [function.invoke(wrap(sample.sent)) for sample in samples]
    return [
        Answer(each["statusCode"], {k.lower(): v for k, v in each["headers"].items()}, each.get("body") or "")
        for each in results
    ]


def _check_document(trial: Trial, sample: Sample, answer: Answer) -> None:
    """The document knows the answer, and what is no success is a problem."""
    kind = answer.headers.get("content-type", "")
    trial.check(answer.status < 500, f"a server error: {_title(sample, answer)}")
    trial.check(
        answer.status < 400 or kind == "application/problem+json", f"no problem but {kind}: {_title(sample, answer)}"
    )
    request = requests.Request(sample.sent.method, "http://service").prepare()
    headers = {name: [value] for name, value in answer.headers.items()}
    response = Response(answer.status, headers, answer.body.encode(), request, elapsed=0.0, verify=False)
    unfit: list[str] = []
    try:
        sample.case.validate_response(response, checks=CONFORMS)
    except FailureGroup as group:
        unfit = [getattr(each, "title", "") for each in group.exceptions]
    trial.check(not unfit, f"{unfit}: {_title(sample, answer)}")


def _without_ids(answer: Answer) -> tuple[int, str, str]:
    kind = answer.headers.get("content-type", "") if answer.body else ""  # two doors name one for an empty body, too
    return answer.status, kind, FRESH.sub("", answer.body)


def _title(sample: Sample, answer: Answer) -> str:
    sent = sample.sent
    return f"{sent.method} {sent.target} {sent.headers} {sent.body[:200]!r} gets {answer.status} {answer.body[:200]}"


BAR = Bar(
    name="contract",
    promise="What the OpenAPI document says holds for any request, and the same one over a server and on Lambda.",
    control="a documented status",
    run=run,
)
