"""Whatever headers and events hold, an authenticator names a principal or refuses; it never fails."""

import asyncio
import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.auth import ANONYMOUS, PRINCIPAL, Authenticator, Headers
from app.auth.api_keys import ApiKeys, pair, parse
from app.auth.front_door import PAYLOAD_1, PAYLOAD_2, FrontDoor, Proxy
from app.auth.jwks import JWKS
from app.auth.tokens import Tokens
from app.errors import Unauthenticated
from tests.issuer import AUDIENCE, ISSUER, RSA_KEY, issuer

KEY, SECRET = "agentkey_of-alice", "a-secret-of-the-proxy-alone"
ALGORITHMS = ["RS256", "ES256", "EdDSA"]

names = st.sampled_from([b"authorization", b"Authorization", b"x-api-key", b"x-proxy-secret", b"x-user"]) | st.binary()
texts = st.sampled_from([b"Bearer ", b"bearer", b"", b"Basic "]) | st.binary(max_size=9)
values = st.builds(bytes.__add__, texts, st.binary(max_size=60) | st.just(KEY.encode()) | st.just(SECRET.encode()))
headers = st.lists(st.tuples(names, values), max_size=5)
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module", name="runner")
def _runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module", name="tokens")
def _tokens(runner: asyncio.Runner) -> Iterator[Tokens]:
    with issuer() as at:
        keys = JWKS(at.url, ALGORITHMS)
        tokens = Tokens(keys, issuer=ISSUER, audience=AUDIENCE, algorithms=ALGORITHMS, claim="sub")
        runner.run(tokens.__aenter__())
        yield tokens
        runner.run(tokens.__aexit__())


def names_or_refuses(runner: asyncio.Runner, authenticator: Authenticator, given: Headers, event: object) -> bool:
    """Return whether a caller is refused, or named as somebody may be named; nothing else may be raised."""
    try:
        principal = runner.run(authenticator.principal(given, event))
    except Unauthenticated:
        return True
    return PRINCIPAL.fullmatch(principal) is not None and principal != ANONYMOUS


def bearer(token: str) -> Headers:
    return [(b"authorization", b"Bearer " + token.encode())]


@given(headers=headers)
def test_any_headers(runner: asyncio.Runner, tokens: Tokens, headers: Headers) -> None:
    for each in (ApiKeys(parse(pair("alice", KEY))), Proxy("X-User", [SECRET]), tokens, FrontDoor()):
        assert names_or_refuses(runner, each, headers, None)


@given(name=st.binary(max_size=40))
def test_any_name_that_a_proxy_sends(runner: asyncio.Runner, name: bytes) -> None:
    given = [(b"x-proxy-secret", SECRET.encode()), (b"x-user", name)]
    assert names_or_refuses(runner, Proxy("X-User", [SECRET]), given, None)


@given(data=st.data())
def test_any_event(runner: asyncio.Runner, data: st.DataObject) -> None:
    """Half of them are an authorizer's whose way to the principal ends early or in something else."""
    place = data.draw(st.sampled_from(PAYLOAD_1 + PAYLOAD_2))
    found = data.draw(documents)
    for step in reversed(place[: data.draw(st.integers(0, len(place)))]):
        found = {step: found}
    context = found if not isinstance(found, dict) else found | data.draw(st.sampled_from([{}, {"http": {}}]))
    for event in (found, {"requestContext": context}):
        assert names_or_refuses(runner, FrontDoor(), [], event)


def encoded(document: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()


@given(header=documents, members=st.dictionaries(st.sampled_from(["alg", "kid", "crit", "b64", "typ"]), documents))
def test_any_header_of_a_token(
    runner: asyncio.Runner, tokens: Tokens, header: object, members: dict[str, object]
) -> None:
    whole = {"alg": "RS256", "kid": "rsa"} | members
    for each in (header, whole):
        assert names_or_refuses(runner, tokens, bearer(f"{encoded(each)}.{encoded({})}.{encoded('x')}"), None)


@settings(deadline=None)  # each is signed
@given(claims=st.dictionaries(st.sampled_from(["exp", "nbf", "iat", "sub", "aud", "iss", "jti"]), documents))
def test_any_claims_that_the_issuer_has_signed(runner: asyncio.Runner, tokens: Tokens, claims: dict[str, Any]) -> None:
    whole = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": int(time.time()) + 300} | claims
    signed = jwt.PyJWS().encode(json.dumps(whole).encode(), RSA_KEY, "RS256", {"kid": "rsa"})
    assert names_or_refuses(runner, tokens, bearer(signed), None)
