"""The error table: complete, without doubles, the same to the client and in the documentation of the API."""

import json
from collections.abc import Iterator

import pytest

from app import errors, problems
from app.config import Settings
from app.main import create_app

GROUPS = {  # never raised themselves
    errors.ServiceError,
    errors.NotServing,
    errors.InvalidRequest,
    errors.SessionConflict,
    errors.ModelFailed,
}


def tree(root: type[errors.ServiceError]) -> Iterator[type[errors.ServiceError]]:
    yield root
    for child in root.__subclasses__():
        yield from tree(child)


RAISED = [error for error in tree(errors.ServiceError) if error not in GROUPS | {errors.ConfigurationError}]


def instance(kind: type[errors.ServiceError]) -> errors.ServiceError:
    return kind([]) if kind is errors.ValidationFailed else kind()


@pytest.mark.parametrize("kind", RAISED)
def test_every_error_has_a_row(kind: type[errors.ServiceError]) -> None:
    assert kind in problems.KINDS


@pytest.mark.parametrize("kind", RAISED)
def test_a_problem_says_whether_to_try_again_and_when(kind: type[errors.ServiceError]) -> None:
    response = problems.response_of(instance(kind))
    body = json.loads(bytes(response.body))
    assert response.media_type == "application/problem+json"
    assert body["status"] == response.status_code
    assert body["retryable"] is ("retry-after" in response.headers)
    assert body["retryable"] or response.status_code not in (409, 503, 504)


def test_no_two_kinds_share_a_slug() -> None:
    kinds = set(problems.KINDS.values()) | {problems.METHOD_NOT_ALLOWED, problems.INTERNAL}
    assert len({kind.slug for kind in kinds}) == len(kinds)


def test_what_is_not_ours_is_internal() -> None:
    body = json.loads(bytes(problems.response_of(LookupError("canary")).body))
    assert (body["type"], body["retryable"]) == ("urn:agent-service:problem:internal", False)
    assert "canary" not in str(body)


def test_the_description_of_the_api_names_every_status_of_a_turn(settings: Settings) -> None:
    described = create_app(settings).openapi()["paths"]["/chat"]["post"]["responses"]
    elsewhere = {404, 405, 414, 421, 431}  # no such path or session, no such method, refused before it is asked
    assert {int(status) for status in described} >= {kind.status for kind in problems.KINDS.values()} - elsewhere
    assert set(described["200"]["content"]) == {"application/json", "text/event-stream"}


def test_the_description_of_the_api_says_what_a_problem_holds(settings: Settings) -> None:
    for path in create_app(settings).openapi()["paths"].values():
        for operation in path.values():
            described = {each: body for each, body in operation["responses"].items() if int(each) >= 400}
            for response in described.values():
                assert set(response["content"]) == {problems.MEDIA_TYPE}
                assert "retryable" in response["content"][problems.MEDIA_TYPE]["schema"]["properties"]


def test_production_does_not_describe_its_api(settings: Settings) -> None:
    paths = {
        environment: {
            getattr(route, "path", None)
            for route in create_app(settings.model_copy(update={"environment": environment})).routes
        }
        for environment in ("development", "production")
    }
    assert paths["development"] - paths["production"] >= {"/docs", "/openapi.json"}
    assert not {"/docs", "/openapi.json", "/redoc"} & paths["production"]
