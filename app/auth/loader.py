"""Finding the authenticator that AUTH names. Each is imported only where it is used."""

from app.auth import Authenticator, Nobody
from app.auth_settings import AuthSettings
from app.errors import ConfigurationError


def load(settings: AuthSettings, *, has_events: bool) -> Authenticator:
    """Return the authenticator that the settings name. With settings that `validate_auth` refuses, it lets nobody in.

    has_events: whether requests come as Lambda events, which say who was authenticated before

    Raises:
        ConfigurationError: a file cannot be used, or an extra is not installed.
    """
    if settings.auth == "api-key":
        from app.auth import api_keys  # noqa: PLC0415

        keys = api_keys.parse(settings.auth_api_keys) if settings.auth_api_keys else {}
        file = settings.auth_api_keys_file
        return api_keys.ApiKeys(keys, api_keys.KeyFile(file) if file else None)
    if settings.auth == "jwt":
        return _tokens(settings)
    if settings.auth == "platform":
        from app.auth import front_door  # noqa: PLC0415

        if has_events:
            return front_door.FrontDoor()
        secret = settings.auth_platform_secret
        secrets = secret.get_secret_value().split(",") if secret else []
        return front_door.Proxy(settings.auth_platform_header or "", secrets)
    return Nobody()


def _tokens(settings: AuthSettings) -> Authenticator:
    try:
        from app.auth import jwks, tokens  # noqa: PLC0415 an extra
    except ModuleNotFoundError:
        raise ConfigurationError(["AUTH=jwt needs PyJWT and cryptography: install both beside the service"]) from None
    algorithms = settings.auth_jwt_algorithms.split(",")
    return tokens.Tokens(
        jwks.JWKS(settings.auth_jwt_jwks_url or "", algorithms),
        issuer=settings.auth_jwt_issuer or "",
        audience=settings.auth_jwt_audience or "",
        algorithms=algorithms,
        claim=settings.auth_jwt_principal_claim,
    )
