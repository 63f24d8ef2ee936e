"""The settings of authentication: how it is found out who calls."""

import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr

from app.auth import api_keys
from app.setting import SettingsPart, lower, setting, strip

REQUIRED = {
    "jwt": ("auth_jwt_issuer", "auth_jwt_audience", "auth_jwt_jwks_url"),
    "platform": ("auth_platform_header", "auth_platform_secret"),
}
OF_A_WAY = {
    "api-key": ("auth_api_keys", "auth_api_keys_file"),
    "jwt": (*REQUIRED["jwt"], "auth_jwt_algorithms", "auth_jwt_principal_claim"),
    "platform": REQUIRED["platform"],
}
LOOPBACK = ("localhost", "127.0.0.1", "::1")
ALGORITHM = r"((RS|PS|ES)(256|384|512)|EdDSA)"
OTHERS_HEADERS = (
    *("authorization", "x-api-key", "x-proxy-secret", "x-request-id", "x-request-timeout", "idempotency-key"),
    *("accept", "content-length", "content-type", "cookie", "host", "origin", "prefer", "traceparent"),
)
SECRET = re.compile(r"[!-+\--~]{24,}")  # visible ASCII without a comma


def secure(url: str | None) -> str | None:
    """Return the URL.

    Raises:
        ValueError: it is not https, nor http on this machine; or it has a password in it.
    """
    if url is not None:
        parts = urlsplit(url)
        there = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
        if not there or not parts.hostname or parts.port == 0 or "@" in parts.netloc or not url.isprintable():
            raise ValueError
    return url


def strong(secret: SecretStr | None) -> SecretStr | None:
    """Return the secret, or several with commas between them.

    Raises:
        ValueError: one of them is too short to be a secret, or fits into no header.
    """
    if secret is not None and not all(SECRET.fullmatch(each) for each in secret.get_secret_value().split(",")):
        raise ValueError
    return secret


def free(header: str | None) -> str | None:
    """Return the name of a header, or raise ValueError where that header means something else."""
    if header is not None and header.lower() in OTHERS_HEADERS:
        raise ValueError
    return header


class AuthSettings(SettingsPart):
    """The part of the settings that says who may call."""

    auth: Annotated[Literal["none", "api-key", "jwt", "platform"], BeforeValidator(lower)] = setting(
        "AUTH",
        "none",
        "none, api-key, jwt or platform",
        "how callers prove who they are; with none, all of them are one principal",
    )
    auth_api_keys: Annotated[str | None, AfterValidator(api_keys.checked)] = setting(
        "AUTH_API_KEYS",
        None,
        "principal:digest pairs with commas between them, of `python -m app new-key`",
        "SHA-256 digests of the API keys, and whose they are",
        repr=False,
    )
    auth_api_keys_file: Path | None = setting(
        "AUTH_API_KEYS_FILE", None, "a path", "file of such pairs, read again when it changes"
    )
    auth_jwt_issuer: str | None = setting(
        "AUTH_JWT_ISSUER", None, "a text without blanks", "`iss` of the tokens", pattern=r"^\S+$"
    )
    auth_jwt_audience: str | None = setting(
        "AUTH_JWT_AUDIENCE",
        None,
        "a text without blanks",
        "`aud` of the tokens: what the issuer calls this service",
        pattern=r"^\S+$",
    )
    auth_jwt_jwks_url: Annotated[str | None, AfterValidator(secure)] = setting(
        "AUTH_JWT_JWKS_URL", None, "an https URL, or http on this machine", "where the issuer publishes its keys"
    )
    auth_jwt_algorithms: str = setting(
        "AUTH_JWT_ALGORITHMS",
        "RS256,ES256,EdDSA",
        "of RS256, RS384, RS512, PS256 … ES512 and EdDSA, with commas between them",
        "signatures that are accepted",
        pattern=rf"^{ALGORITHM}(,{ALGORITHM})*$",
    )
    auth_jwt_principal_claim: str = setting(
        "AUTH_JWT_PRINCIPAL_CLAIM", "sub", "a text without blanks", "claim that names the principal", pattern=r"^\S+$"
    )
    auth_platform_header: Annotated[str | None, AfterValidator(free)] = setting(
        "AUTH_PLATFORM_HEADER",
        None,
        "the name of a header",
        "off Lambda: header in which a proxy names the principal",
        pattern=r"^[A-Za-z0-9-]{1,64}$",
    )
    auth_platform_secret: Annotated[SecretStr | None, BeforeValidator(strip), AfterValidator(strong)] = setting(
        "AUTH_PLATFORM_SECRET",
        None,
        "24 or more characters of visible ASCII, or several such with commas between them",
        "what that proxy sends in X-Proxy-Secret",
    )

    def validate_auth(self, *, in_production: bool, has_events: bool) -> list[str]:
        """Return what is wrong with them as a whole, one text each.

        has_events: whether requests come as Lambda events, which say who was authenticated before
        """
        problems = []
        if in_production and "auth" not in self.model_fields_set:
            problems.append("AUTH is required in production: api-key, jwt, platform, or none if that is meant")
        if self.auth == "api-key" and not self.names_set(OF_A_WAY["api-key"]):
            problems.append("AUTH_API_KEYS or AUTH_API_KEYS_FILE is required with AUTH=api-key")
        needed = () if self.auth == "platform" and has_events else REQUIRED.get(self.auth, ())
        where = " off Lambda" if self.auth == "platform" else ""
        missing = set(needed) - {name for name in needed if self.is_set(name)}
        problems += [f"{self.name_of(each)} is required with AUTH={self.auth}{where}" for each in sorted(missing)]
        for way, fields in OF_A_WAY.items():
            if way != self.auth or (way == "platform" and has_events):
                where = " on Lambda" if way == self.auth else ""
                problems += [f"{each} has no effect with AUTH={self.auth}{where}" for each in self.names_set(fields)]
        return problems
