"""AUTH=platform: the principal that somebody before the service has authenticated, on Lambda and off it."""

import hashlib
import hmac
from collections.abc import Sequence

from app.auth import Headers, checked, only
from app.errors import Unauthenticated

SECRET_HEADER = "X-Proxy-Secret"  # noqa: S105 its name

# Where events say who was authenticated. A user of a Cognito identity pool calls with a role that all of them share, so
# it is told by its identity and not by the ARN of the role.
PAYLOAD_2 = (
    ("authorizer", "jwt", "claims", "sub"),
    ("authorizer", "lambda", "principalId"),
    ("authorizer", "iam", "cognitoIdentity", "identityId"),
    ("authorizer", "iam", "userArn"),
)
PAYLOAD_1 = (
    ("authorizer", "principalId"),
    ("authorizer", "claims", "sub"),
    ("identity", "cognitoIdentityId"),
    ("identity", "userArn"),
)


class FrontDoor:
    """On Lambda: what the authorizer of an HTTP API, a REST API or a function URL found. No header is ever read."""

    async def principal(self, headers: Headers, event: object) -> str:  # noqa: ARG002 anybody can send any header
        """Return whom the event's authorizer names; see the port."""
        context = _at(event, "requestContext")
        places = PAYLOAD_2 if _at(context, "http") is not None else PAYLOAD_1
        named = [found for found in (_at(context, *place) for place in places) if found is not None]
        if not named:
            raise Unauthenticated("no authorizer")
        return checked(named[0])


class Proxy:
    """Off Lambda: what a proxy says in `header`, believed only with one of `secrets` in SECRET_HEADER."""

    def __init__(self, header: str, secrets: Sequence[str]) -> None:
        self._header = header.lower().encode()
        self._digests = [hashlib.sha256(secret.encode()).digest() for secret in secrets]

    async def principal(self, headers: Headers, event: object) -> str:  # noqa: ARG002 there is none
        """Return whom the proxy names; see the port."""
        secret = only(headers, SECRET_HEADER.lower().encode())
        digest = hashlib.sha256(secret or b"").digest()
        known = [hmac.compare_digest(each, digest) for each in self._digests]
        if secret is None or not any(known):
            raise Unauthenticated("not the proxy")
        named = only(headers, self._header)
        if named is None or b"," in named:  # two values, joined by something on the way
            raise Unauthenticated("not one principal")
        return checked(named.decode("latin-1"))


def _at(document: object, *path: str) -> object:
    for step in path:
        document = document.get(step) if isinstance(document, dict) else None
    return document
