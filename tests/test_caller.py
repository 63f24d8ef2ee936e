"""Who is found to make a request, by each authenticator that the settings choose."""

import contextlib
import logging
from pathlib import Path
from typing import Any

import pytest
from fastapi import Request
from pydantic import SecretStr

from app.auth.api_keys import pair
from app.auth.loader import load
from app.caller import Caller, principal_of
from app.config import Settings
from app.errors import Unauthenticated
from app.main import create_app
from tests.in_process import warm
from tests.issuer import AUDIENCE, EC_KEY, ISSUER, issuer, token

pytestmark = pytest.mark.anyio

KEY, OTHER = "agentkey_of-alice-0123456789", "agentkey_of-bob-0123456789"
SECRET, NEXT = "first-secret-of-the-proxy", "next-secret-of-the-proxy-"


async def found(settings: Settings, event: object = None, **headers: str) -> str:
    """Return who makes a request with these headers; in their names `_` stands for `-`."""
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    request = Request({"type": "http", "headers": raw, "aws.event": event})
    async with contextlib.AsyncExitStack() as opened:
        authenticator = load(settings, has_events=event is not None)
        if isinstance(authenticator, contextlib.AbstractAsyncContextManager):
            await opened.enter_async_context(authenticator)
        await Caller(authenticator, settings.auth)(request)
    return principal_of(request)


def chosen(settings: Settings, way: str, **changes: Any) -> Settings:
    return settings.model_copy(update={"auth": way, **{f"auth_{name}": value for name, value in changes.items()}})


async def test_where_nobody_is_asked_everybody_is_the_same(settings: Settings) -> None:
    assert await found(settings, x_api_key=KEY) == "anonymous"


async def test_a_key_of_the_setting_or_of_the_file_names_its_principal(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(pair("bob", OTHER))
    assert await found(chosen(settings, "api-key", api_keys=pair("alice", KEY)), x_api_key=KEY) == "alice"
    assert await found(chosen(settings, "api-key", api_keys_file=file), x_api_key=OTHER) == "bob"
    both = chosen(settings, "api-key", api_keys=pair("alice", KEY), api_keys_file=file)
    assert [await found(both, authorization=f"Bearer {key}") for key in (KEY, OTHER)] == ["alice", "bob"]


async def test_a_token_is_checked_as_the_settings_say(settings: Settings) -> None:
    with issuer() as at:
        named = {"issuer": ISSUER, "audience": AUDIENCE, "jwks_url": at.url, "algorithms": "RS256,ES256"}
        jwt = chosen(settings, "jwt", **{f"jwt_{name}": value for name, value in named.items()})
        by_mail = chosen(jwt, "jwt", jwt_principal_claim="email")
        elsewhere = [chosen(jwt, "jwt", **{f"jwt_{name}": "other"}) for name in ("issuer", "audience")]
        assert await found(jwt, authorization=f"Bearer {token()}") == "alice"
        assert await found(jwt, authorization=f"Bearer {token('ES256', EC_KEY, 'ec')}") == "alice"
        assert await found(by_mail, authorization=f"Bearer {token(email='a@example.com')}") == "a@example.com"
        for each in (*elsewhere, chosen(jwt, "jwt", jwt_algorithms="ES256,PS256")):
            with pytest.raises(Unauthenticated):
                await found(each, authorization=f"Bearer {token()}")


async def test_a_proxy_may_have_any_of_its_secrets(settings: Settings) -> None:
    proxy = chosen(settings, "platform", platform_header="X-User", platform_secret=SecretStr(f"{SECRET},{NEXT}"))
    assert [await found(proxy, x_user="alice", x_proxy_secret=each) for each in (SECRET, NEXT)] == ["alice", "alice"]
    with pytest.raises(Unauthenticated):
        await found(proxy, x_user="alice", x_proxy_secret=f"{SECRET},{NEXT}")


async def test_on_lambda_the_event_names_the_principal(settings: Settings) -> None:
    event = {"requestContext": {"http": {}, "authorizer": {"lambda": {"principalId": "alice"}}}}
    assert await found(chosen(settings, "platform"), event, x_user="mallory") == "alice"


async def test_why_a_caller_is_refused_is_known_to_the_log_only(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "app.caller"), pytest.raises(Unauthenticated):
        await found(chosen(settings, "api-key", api_keys=pair("alice", KEY)))
    [record] = [each for each in caplog.records if each.name == "app.caller"]
    assert (record.levelname, record.getMessage()) == ("DEBUG", "caller refused")
    assert vars(record)["reason"] == "no key"


async def test_either_place_of_a_key_is_enough(settings: Settings) -> None:
    """The description names both; what stands there only describes must refuse nobody."""
    async with warm(chosen(settings, "api-key", api_keys=pair("alice", KEY))) as app:
        for headers in ({"X-API-Key": KEY}, {"Authorization": f"Bearer {KEY}"}):
            assert (await app.request("GET", "/sessions", headers=headers)).status == 200


def test_the_description_says_what_a_credential_is(settings: Settings) -> None:
    bearer = {"type": "http", "scheme": "bearer"}
    header = {"type": "apiKey", "in": "header", "name": "X-API-Key"}
    described = {way: create_app(chosen(settings, way)).openapi()["components"] for way in ("api-key", "jwt")}
    assert described["jwt"]["securitySchemes"] == {"HTTPBearer": bearer | {"bearerFormat": "JWT"}}
    assert described["api-key"]["securitySchemes"] == {"HTTPBearer": bearer, "APIKeyHeader": header}
