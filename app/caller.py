"""Who calls, for the routes; and what the API's description says of how to prove it."""

import logging

from fastapi import Depends, Request
from fastapi.params import Depends as Dependency
from fastapi.security import APIKeyHeader, HTTPBearer

from app.auth import Authenticator
from app.errors import Unauthenticated

log = logging.getLogger(__name__)


class Caller:
    """Authenticates the caller of a request.

    dependencies: what a route that is not open to everybody has; they come before its parameters are looked at
    """

    def __init__(self, authenticator: Authenticator, way: str) -> None:
        self._authenticator = authenticator
        self.dependencies = [Depends(self), *_described(way)]

    async def __call__(self, request: Request) -> None:
        """Leave the principal for `principal_of`. Raises as the authenticator does."""
        request.state.principal = await self.principal(request)

    async def principal(self, request: Request) -> str:
        """Return who makes a request. Raises as the authenticator does."""
        scope = request.scope
        try:
            return await self._authenticator.principal(scope["headers"], scope.get("aws.event"))
        except Unauthenticated as exc:
            log.debug("caller refused", extra={"reason": str(exc)})
            raise


def principal_of(request: Request) -> str:
    """Return who was found to make a request, on a route that has the dependencies of a Caller."""
    principal: str = request.state.principal
    return principal


def _described(way: str) -> list[Dependency]:
    """Return dependencies that do nothing but stand in the description: any one of them is enough."""
    bearer = HTTPBearer(auto_error=False, bearerFormat="JWT" if way == "jwt" else None)
    header = APIKeyHeader(name="X-API-Key", auto_error=False)
    return {"api-key": [Depends(bearer), Depends(header)], "jwt": [Depends(bearer)]}.get(way, [])
