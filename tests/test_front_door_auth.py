"""AUTH=platform: whom a Lambda event or a proxy names, and what nobody can forge."""

import json
from typing import Any

import pytest

from app.auth import Headers
from app.auth.front_door import FrontDoor, Proxy
from app.errors import Unauthenticated
from tests.lambda_events import Event, Request, balancer, http_api, rest

pytestmark = pytest.mark.anyio

USER = "arn:aws:iam::123456789012:user/alice"
ROLE = "arn:aws:sts::123456789012:assumed-role/Cognito/CognitoIdentityCredentials"
FORGED = [
    (b"x-user", b"mallory"),
    (b"x-proxy-secret", b"s" * 24),
    (b"x-amzn-oidc-identity", b"mallory"),
    (b"x-amzn-oidc-data", b"e30.e30.x"),
    (b"x-amzn-request-context", b'{"authorizer": {"iam": {"userArn": "mallory"}}}'),
    (b"authorization", b"Bearer mallory"),
]


async def outcome(event: object, headers: Headers = FORGED) -> str:
    try:
        return await FrontDoor().principal(headers, event)
    except Unauthenticated as exc:
        return f"refused: {exc}"


def request(**authorizer: Any) -> Event:
    """Return an HTTP API's event, or a function URL's, which is the same payload."""
    event = http_api(Request("GET", "/sessions"))
    event["requestContext"] |= {"authorizer": authorizer} if authorizer else {}
    return event


def rest_request(authorizer: Any = None, **identity: Any) -> Event:
    event = rest(Request("GET", "/sessions"))
    event["requestContext"]["identity"] |= {"userArn": None, "cognitoIdentityId": None, **identity}
    event["requestContext"] |= {"authorizer": authorizer} if authorizer else {}
    return event


def iam(**changes: Any) -> dict[str, Any]:
    return {"accessKey": "AKIA", "accountId": "1", "cognitoIdentity": None, "userArn": USER, "userId": "A"} | changes


@pytest.mark.parametrize(
    ("event", "principal"),
    [
        (request(jwt={"claims": {"sub": "auth0|7", "iss": "i"}, "scopes": None}), "auth0|7"),
        (request(**{"lambda": {"principalId": "alice@example.com"}}), "alice@example.com"),
        (request(iam=iam()), USER),
        (request(iam=iam(userArn=ROLE, cognitoIdentity={"amr": ["x"], "identityId": "us-east-1:7"})), "us-east-1:7"),
        (rest_request({"principalId": "alice", "integrationLatency": 3}), "alice"),
        (rest_request({"claims": {"sub": "7"}}), "7"),
        (rest_request(userArn=USER), USER),
        (rest_request(userArn=ROLE, cognitoIdentityId="us-east-1:7"), "us-east-1:7"),
    ],
    ids=["jwt", "lambda", "iam", "iam of a pool", "v1 lambda", "v1 cognito", "v1 iam", "v1 iam of a pool"],
)
async def test_the_authorizer_of_a_front_door_names_the_principal(event: Event, principal: str) -> None:
    assert await outcome(event) == principal
    assert await outcome(json.loads(json.dumps(event)), []) == principal


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (request(), "no authorizer"),
        (request(iam=iam(userArn=None)), "no authorizer"),
        (request(**{"lambda": {"user": "alice"}}), "no authorizer"),
        (request(jwt=None), "no authorizer"),
        (rest_request(), "no authorizer"),
        (rest_request("alice"), "no authorizer"),
        (balancer(Request("GET", "/sessions")), "no authorizer"),
        (balancer(Request("GET", "/sessions"), several=True), "no authorizer"),
        ({"requestContext": []}, "no authorizer"),
        ({}, "no authorizer"),
        (None, "no authorizer"),
        (request(jwt={"claims": {"sub": 7}}), "no usable principal"),
        (request(jwt={"claims": {"sub": ""}}), "no usable principal"),
        (request(jwt={"claims": {"sub": "anonymous"}}), "no usable principal"),
        (request(**{"lambda": {"principalId": ["alice"]}}), "no usable principal"),
        (rest_request({"principalId": "a b"}), "no usable principal"),
    ],
)
async def test_nothing_else_names_one(event: object, reason: str) -> None:
    """A load balancer's OIDC headers, too, are headers that anybody can send who reaches the function."""
    assert await outcome(event) == f"refused: {reason}"


PROXY = Proxy("X-User", ["first-secret-of-the-proxy", "next-secret-of-the-proxy-"])
SECRET = (b"x-proxy-secret", b"first-secret-of-the-proxy")
NEXT = (b"x-proxy-secret", b"next-secret-of-the-proxy-")


async def by_proxy(*headers: tuple[bytes, bytes]) -> str:
    try:
        return await PROXY.principal(headers, request(iam=iam()))
    except Unauthenticated as exc:
        return f"refused: {exc}"


@pytest.mark.parametrize("secret", [SECRET, NEXT])
async def test_a_proxy_with_the_secret_names_the_principal(secret: tuple[bytes, bytes]) -> None:
    assert await by_proxy(secret, (b"x-user", b"alice@example.com")) == "alice@example.com"


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ([], "not the proxy"),
        ([(b"x-user", b"alice")], "not the proxy"),
        ([(b"x-user", b"alice"), (b"x-proxy-secret", b"")], "not the proxy"),
        ([(b"x-user", b"alice"), (b"x-proxy-secret", b"first-secret-of-the-prox")], "not the proxy"),
        ([(b"x-user", b"alice"), (b"x-proxy-secret", b"FIRST-SECRET-OF-THE-PROXY")], "not the proxy"),
        ([(b"x-user", b"alice"), (b"x-proxy-secret", SECRET[1] + b"," + NEXT[1])], "not the proxy"),
        ([(b"x-user", b"alice"), (b"x-proxy-secret", b"\xff")], "not the proxy"),
        ([(b"x-user", b"alice"), SECRET, NEXT], "several headers"),
        ([SECRET], "not one principal"),
        ([SECRET, (b"x-user", b"alice"), (b"x-user", b"bob")], "several headers"),
        ([SECRET, (b"x-user", b"alice"), (b"X-User", b"alice")], "several headers"),
        ([SECRET, (b"x-user", b"alice,bob")], "not one principal"),
        ([SECRET, (b"x-user", b"alice, bob")], "not one principal"),
        ([SECRET, (b"x-user", b"")], "no usable principal"),
        ([SECRET, (b"x-user", b"anonymous")], "no usable principal"),
        ([SECRET, (b"x-user", b"\xc3\xa9")], "no usable principal"),
        ([SECRET, (b"x_user", b"alice")], "not one principal"),
    ],
)
async def test_without_the_secret_or_with_two_names_nobody_is_let_in(
    headers: list[tuple[bytes, bytes]], reason: str
) -> None:
    assert await by_proxy(*headers) == f"refused: {reason}"


async def test_a_proxy_that_is_not_set_up_lets_nobody_in() -> None:
    with pytest.raises(Unauthenticated):
        await Proxy("", []).principal([(b"", b"alice"), (b"x-proxy-secret", b"")], None)
