"""The hosts that the service answers for: a list of names against the Host of every request.

Without one, a page of anybody's whose name points to this address (DNS rebinding) may talk to it as to its own origin.
Starlette's middleware for this answers in plain text, and takes several Hosts for the first of them.
"""

import re
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import MalformedRequest, MisdirectedRequest
from app.problems import response_of
from app.request_head import HOST, PORT

PROBES = ("/healthz", "/readyz")  # kubelets and balancers ask by address, and what they learn is no secret


class AllowedHosts:
    """Lets through what is for one of `names`, each exact or `*.` and what its subdomains end with, in lower case."""

    def __init__(self, app: ASGIApp, names: Sequence[str]) -> None:
        self._app = app
        patterns = "|".join(re.escape(name).replace(r"\*", r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*") for name in names)
        self._allowed = re.compile(b"(?:%b)%b" % (patterns.encode(), PORT))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 an ASGI app
        app = self._app
        if scope["type"] == "http" and scope["path"] not in PROBES:
            hosts = [bytes(value).lower() for name, value in scope["headers"] if name == b"host"]
            if len(hosts) != 1 or not HOST.fullmatch(hosts[0]):
                app = response_of(MalformedRequest())  # RFC 9112, section 3.2
            elif not self._allowed.fullmatch(hosts[0]):
                app = response_of(MisdirectedRequest())  # RFC 9110, sections 7.4 and 15.5.20
        await app(scope, receive, send)
