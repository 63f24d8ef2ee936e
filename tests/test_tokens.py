"""AUTH=jwt: which tokens are let in, and how the issuer's keys are kept."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from jwt.algorithms import RSAAlgorithm

from app.auth.jwks import FETCH_S, FRESH_S, JWKS, MAX_BYTES, REFETCH_S, RETRY_S
from app.auth.tokens import LEEWAY_S, Tokens
from app.errors import AuthUnavailable, Unauthenticated
from tests.conformance.stores.rig import Clock
from tests.issuer import (
    AUDIENCE,
    EC_KEY,
    ED_KEY,
    ISSUER,
    KEYS,
    OTHER_RSA_KEY,
    RSA_KEY,
    RSA_PEM,
    WEAK_RSA_KEY,
    Issuer,
    issuer,
    published,
    token,
)
from tests.machine import wait_until

pytestmark = pytest.mark.anyio
ALGORITHMS = ["RS256", "ES256", "EdDSA"]


@pytest.fixture(name="at")
def _at() -> Iterator[Issuer]:
    with issuer() as at:
        yield at


@asynccontextmanager
async def trusting(at: Issuer, claim: str = "sub", clock: Clock | None = None) -> AsyncIterator[Tokens]:
    keys = JWKS(at.url, ALGORITHMS, clock or time.time)
    async with Tokens(keys, issuer=ISSUER, audience=AUDIENCE, algorithms=ALGORITHMS, claim=claim) as tokens:
        yield tokens


async def let_in(tokens: Tokens, presented: str | bytes) -> str:
    raw = presented if isinstance(presented, bytes) else presented.encode()
    return await tokens.principal([(b"authorization", b"Bearer " + raw)], None)


async def outcome(tokens: Tokens, presented: str | bytes) -> str:
    try:
        return await let_in(tokens, presented)
    except (Unauthenticated, AuthUnavailable) as exc:
        return type(exc).__name__


def part(document: object) -> str:
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def forged(header: dict[str, Any], key: bytes | None = None) -> str:
    """Return a token of alice's with any header, signed with an HMAC or not at all."""
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": int(time.time()) + 300}
    signed = f"{part(header)}.{part(claims)}"
    return f"{signed}.{part(hmac.digest(key, signed.encode(), hashlib.sha256)) if key else ''}"


def signed(header: dict[str, Any]) -> str:
    """Return a token of alice's with any header, signed with the issuer's own key."""
    unsigned = forged(header).rstrip(".")
    return f"{unsigned}.{part(RSAAlgorithm(RSAAlgorithm.SHA256).sign(unsigned.encode(), RSA_KEY))}"


GOOD: dict[str, Callable[[], str]] = {
    "RSA": token,
    "signed by hand": lambda: signed({"alg": "RS256", "kid": "rsa"}),
    "a key that does not say its use": lambda: token(kid="bare"),
    "EC": lambda: token("ES256", EC_KEY, "ec"),
    "Ed25519": lambda: token("EdDSA", ED_KEY, "ed"),
    "one of several audiences": lambda: token(aud=["other", AUDIENCE]),
    "expired, within the leeway": lambda: token(exp=int(time.time()) - LEEWAY_S + 10),
    "not before, within the leeway": lambda: token(nbf=int(time.time()) + LEEWAY_S - 10),
}


@pytest.mark.parametrize("name", GOOD)
async def test_a_good_token_names_the_principal(at: Issuer, name: str) -> None:
    async with trusting(at) as tokens:
        assert await let_in(tokens, GOOD[name]()) == "alice"


def now() -> int:
    return int(time.time())


BAD: dict[str, Callable[[], str | bytes]] = {
    "no signature": lambda: forged({"alg": "none", "kid": "rsa"}),
    "alg None": lambda: forged({"alg": "None", "kid": "rsa"}),
    "HMAC with the public key": lambda: forged({"alg": "HS256", "kid": "rsa"}, RSA_PEM),
    "HMAC with a published secret": lambda: forged(
        {"alg": "HS256", "kid": "oct"}, b"secret-secret-secret-secret-secret"
    ),
    "another algorithm than the key's": lambda: token("PS256"),
    "an algorithm of another type": lambda: forged({"alg": "ES256", "kid": "rsa"}, b"x"),
    "another key": lambda: token(key=OTHER_RSA_KEY),
    "a weak key": lambda: token(key=WEAK_RSA_KEY, kid="weak"),
    "a key for encryption": lambda: token(kid="enc"),
    "a broken key": lambda: token(kid="broken"),
    "an unknown key": lambda: token(kid="nobody's"),
    "no key id": lambda: token(kid=None),
    "crit that the library knows": lambda: signed({"alg": "RS256", "kid": "rsa", "crit": ["b64"], "b64": True}),
    "crit without its member": lambda: token(headers={"crit": ["b64"]}),
    "crit": lambda: token(headers={"crit": ["x"], "x": 1}),
    "crit of another type": lambda: token(headers={"crit": 7}),
    "expired": lambda: token(exp=now() - LEEWAY_S - 5),
    "no exp": lambda: token(exp=None),
    "exp of another type": lambda: token(exp=[]),
    "exp beyond numbers": lambda: token(exp=float("inf")),
    "not before": lambda: token(nbf=now() + LEEWAY_S + 60),
    "issued in the future": lambda: token(iat=now() + LEEWAY_S + 60),
    "other audience": lambda: token(aud="other"),
    "no audience": lambda: token(aud=None),
    "audience in part": lambda: token(aud=AUDIENCE[:-1]),
    "other issuer": lambda: token(iss="https://elsewhere.example.com/"),
    "issuer without its slash": lambda: token(iss=ISSUER.rstrip("/")),
    "no issuer": lambda: token(iss=None),
    "no subject": lambda: token(sub=None),
    "a subject with a blank": lambda: token(sub="a b"),
    "a subject with a letter beyond ASCII": lambda: token(sub="é"),
    "an endless subject": lambda: token(sub="a" * 1025),
    "nobody's name": lambda: token(sub="anonymous"),
    "changed": lambda: token()[:-4] + "AAAA",
    "cut off": lambda: token().rpartition(".")[0],
    "with more": lambda: token() + ".x",
    "claims that are no object": lambda: ".".join([token().split(".")[0], part([1]), token().split(".")[2]]),
    "a header that is no object": lambda: f"{part([])}.{part({})}.x",
    "a deep header": lambda: f"{part(b'[' * 5000)}.e30.x",
    "too long": lambda: token(more="x" * 8192),
    "in another case": lambda: token().swapcase(),
    "no token": lambda: "x",
    "bytes": lambda: b"\xff\x00\xfe",
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_token_is_refused(at: Issuer, name: str) -> None:
    async with trusting(at) as tokens:
        assert await outcome(tokens, BAD[name]()) == "Unauthenticated"
        assert await let_in(tokens, token()) == "alice"


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (list, "no token"),
        (lambda: ["x"], "no token that can be read"),
        (lambda: [token("PS256")], "token refused"),
        (lambda: [token(exp=1)], "token refused"),
        (lambda: [token(kid="nobody's")], "unknown key"),
        (lambda: [token(sub="a b")], "no usable principal"),
    ],
    ids=["absent", "unreadable", "another algorithm", "expired", "unknown key", "no principal"],
)
async def test_the_log_is_told_why_a_token_is_refused(at: Issuer, sent: Callable[[], list[str]], reason: str) -> None:
    headers = [(b"authorization", f"Bearer {each}".encode()) for each in sent()]  # made now: tokens end
    async with trusting(at) as tokens:
        with pytest.raises(Unauthenticated) as caught:
            await tokens.principal(headers, None)
    assert str(caught.value) == reason


async def test_another_claim_can_name_the_principal(at: Issuer) -> None:
    async with trusting(at, claim="email") as tokens:
        assert await let_in(tokens, token(email="a@example.com")) == "a@example.com"
        assert await outcome(tokens, token()) == "Unauthenticated"
        assert await outcome(tokens, token(email=["a@example.com"])) == "Unauthenticated"


async def test_without_a_token_the_issuer_is_not_asked(at: Issuer) -> None:
    async with trusting(at) as tokens:
        for headers in ([], [(b"authorization", b"Basic YTpi")], [(b"x-api-key", token().encode())]):
            with pytest.raises(Unauthenticated):
                await tokens.principal(headers, None)
    assert at.asked == 0


@pytest.mark.parametrize("bad", ["no signature", "no key id", "crit", "no token", "too long"])
async def test_for_what_cannot_be_good_the_issuer_is_not_asked(at: Issuer, bad: str) -> None:
    async with trusting(at) as tokens:
        assert await outcome(tokens, BAD[bad]()) == "Unauthenticated"
    assert at.asked == 0


async def test_unknown_keys_fetch_at_most_once_a_minute(at: Issuer) -> None:
    clock = Clock()
    async with trusting(at, clock=clock) as tokens:
        for number in range(200):
            assert await outcome(tokens, token(kid=f"unknown{number}")) == "Unauthenticated"
            clock.advance(REFETCH_S / 201)
        assert at.asked == 1
        clock.advance(REFETCH_S / 100)
        found = await asyncio.gather(*[outcome(tokens, token(kid=f"unknown{number}")) for number in range(50)])
    assert (set(found), at.asked) == ({"Unauthenticated"}, 2)


async def test_a_key_that_the_issuer_has_added_is_found_after_a_minute(at: Issuer) -> None:
    clock = Clock()
    async with trusting(at, clock=clock) as tokens:
        assert await let_in(tokens, token()) == "alice"
        at.publish(published("new", OTHER_RSA_KEY))
        assert await outcome(tokens, token(key=OTHER_RSA_KEY, kid="new")) == "Unauthenticated"
        clock.advance(REFETCH_S)
        assert await let_in(tokens, token(key=OTHER_RSA_KEY, kid="new")) == "alice"
        assert await outcome(tokens, token()) == "Unauthenticated"
    assert at.asked == 2


async def test_a_key_that_the_issuer_has_withdrawn_is_good_no_longer_than_ten_minutes(at: Issuer) -> None:
    clock = Clock()
    async with trusting(at, clock=clock) as tokens:
        assert await let_in(tokens, token()) == "alice"
        at.publish(published("new", OTHER_RSA_KEY))
        clock.advance(FRESH_S - 1)
        assert await let_in(tokens, token()) == "alice"
        clock.advance(1)
        assert await outcome(tokens, token()) == "Unauthenticated"


async def test_a_clock_that_is_set_back_fetches_rather_than_trusting_for_ever(at: Issuer) -> None:
    clock = Clock()
    async with trusting(at, clock=clock) as tokens:
        assert await let_in(tokens, token()) == "alice"
        clock.advance(-3600)
        assert await let_in(tokens, token()) == "alice"
    assert at.asked == 2


async def test_many_first_requests_make_one_fetch(at: Issuer) -> None:
    at.open.clear()
    async with trusting(at) as tokens:
        requests = [asyncio.create_task(let_in(tokens, token())) for _ in range(100)]
        await asyncio.to_thread(wait_until, at.waiting.is_set)
        at.open.set()
        assert set(await asyncio.gather(*requests)) == {"alice"}
    assert at.asked == 1


async def test_known_keys_go_on_working_while_the_issuer_does_not_answer(at: Issuer) -> None:
    clock = Clock()
    async with trusting(at, clock=clock) as tokens:
        assert await let_in(tokens, token()) == "alice"
        at.status = 500
        clock.advance(FRESH_S)
        assert await let_in(tokens, token()) == "alice"
        assert await outcome(tokens, token(kid="new")) == "AuthUnavailable"
        at.status = 200
        clock.advance(REFETCH_S)
        assert await outcome(tokens, token(kid="new")) == "Unauthenticated"
    assert at.asked == 3


async def test_nobody_waits_with_a_known_key_while_another_fetches(at: Issuer) -> None:
    clock = Clock()
    async with trusting(at, clock=clock) as tokens:
        assert await let_in(tokens, token()) == "alice"
        clock.advance(FRESH_S)
        at.waiting.clear()
        at.open.clear()
        fetching = asyncio.create_task(let_in(tokens, token()))
        await asyncio.to_thread(wait_until, at.waiting.is_set)
        assert await let_in(tokens, token()) == "alice"
        assert not fetching.done()
        at.open.set()
        assert await fetching == "alice"


UNUSABLE: dict[str, dict[str, Any]] = {
    "an error": {"status": 500},
    "nothing": {"status": 404, "body": b""},
    "no JSON": {"body": b"<html>"},
    "deep JSON": {"body": b"[" * 100_000},
    "no set": {"body": b"[]"},
    "a set of nothing": {"body": b'{"keys": []}'},
    "no list": {"body": b'{"keys": {"kid": "rsa"}}'},
    "no key of ours": {"body": json.dumps({"keys": [{"kty": "oct", "kid": "rsa", "k": "AAAA"}]}).encode()},
    "too much": {"body": json.dumps(KEYS).encode() + b" " * MAX_BYTES},
}


@pytest.mark.parametrize("name", UNUSABLE)
async def test_without_keys_nobody_is_refused_or_let_in(
    at: Issuer, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    clock, body = Clock(), at.body
    for member, value in UNUSABLE[name].items():
        setattr(at, member, value)
    async with trusting(at, clock=clock) as tokens:
        assert [await outcome(tokens, token()) for _ in range(20)] == ["AuthUnavailable"] * 20
        assert at.asked == 1
        [record] = [each for each in caplog.records if each.name == "app.auth.jwks"]
        assert (record.levelname, record.getMessage()) == ("WARNING", "keys of the token issuer cannot be had")
        assert vars(record)["reason"] in ("ValueError", "JSONDecodeError", "RecursionError")
        at.status, at.body = 200, body
        clock.advance(RETRY_S)
        assert await let_in(tokens, token()) == "alice"


async def test_a_document_that_comes_in_pieces_is_read_whole(at: Issuer) -> None:
    at.body = at.body.ljust(MAX_BYTES)
    async with trusting(at) as tokens:
        assert await let_in(tokens, token()) == "alice"
    at.body = (b" " * MAX_BYTES + at.body.strip())[-MAX_BYTES:]
    async with trusting(at) as tokens:
        assert await let_in(tokens, token()) == "alice"


async def test_a_redirect_is_not_followed(at: Issuer) -> None:
    with issuer() as elsewhere:
        at.status, at.headers = 302, {"Location": elsewhere.url}
        async with trusting(at) as tokens:
            assert await outcome(tokens, token()) == "AuthUnavailable"
        assert elsewhere.asked == 0


async def test_an_issuer_that_is_not_there_or_never_answers_costs_a_few_seconds(at: Issuer) -> None:
    at.open.clear()
    async with trusting(at) as tokens:
        async with asyncio.timeout(FETCH_S + 5):
            assert await outcome(tokens, token()) == "AuthUnavailable"
    async with trusting(Issuer(url="http://127.0.0.1:1/keys")) as tokens:
        assert await outcome(tokens, token()) == "AuthUnavailable"


async def test_before_it_is_opened_nothing_can_be_checked(at: Issuer) -> None:
    keys = JWKS(at.url, ALGORITHMS)
    await keys.__aexit__()
    with pytest.raises(AuthUnavailable):
        await keys.key("rsa")


async def test_it_can_be_opened_again(at: Issuer) -> None:
    async with trusting(at) as tokens:
        assert await let_in(tokens, token()) == "alice"
        await tokens.__aexit__()
        await tokens.__aenter__()
        assert await let_in(tokens, token()) == "alice"
        assert await outcome(tokens, token(key=RSA_KEY, kid="x")) == "Unauthenticated"
