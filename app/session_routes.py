"""Sessions over HTTP: their list, their transcripts, their end, and the end of what runs on them."""

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import AfterValidator

from app import wire
from app.caller import Caller, principal_of
from app.deadline import lambda_remaining_s, turn_deadline
from app.errors import SessionNotFound
from app.problems import documented
from app.sessions import SessionKey, SessionStore
from app.sessions.claims import CANCEL_S
from app.sessions.codec import unpack
from app.turns import TurnService

SessionId = Annotated[str, Path(pattern=wire.SESSION_ID), AfterValidator(wire.reachable)]
PageSize = Annotated[int, Query(ge=1, le=wire.MAX_PAGE)]


class SessionRoutes:
    """The paths below `/sessions`, bound to what answers them. `clock` gives epoch seconds."""

    def __init__(self, turns: TurnService, store: SessionStore, caller: Caller, clock: Callable[[], float]) -> None:
        self._turns = turns
        self._store = store
        self._caller = caller
        self._clock = clock

    def add_to(self, router: APIRouter) -> None:
        """Add every path."""
        guard = self._caller.dependencies
        router.add_api_route(
            "/sessions",
            self.list_sessions,
            methods=["GET"],
            dependencies=guard,
            response_model=wire.Sessions,
            responses=documented(401, 422, 500, 503),
        )
        one = "/sessions/{session_id}"
        router.add_api_route(
            one,
            self.transcript,
            methods=["GET"],
            dependencies=guard,
            response_model=wire.Transcript,
            responses=documented(401, 404, 422, 500, 503),
        )
        router.add_api_route(
            one,
            self.delete,
            methods=["DELETE"],
            dependencies=guard,
            status_code=204,
            responses=documented(401, 422, 500, 503),
        )
        router.add_api_route(
            f"{one}/cancel",
            self.cancel,
            methods=["POST"],
            dependencies=guard,
            response_model=wire.Cancellation,
            responses=documented(401, 404, 422, 500, 503),
        )

    async def list_sessions(
        self,
        request: Request,
        before: Annotated[str | None, Query(pattern=wire.SESSION_CURSOR)] = None,
        limit: PageSize = wire.DEFAULT_PAGE,
    ) -> Response:
        """Return a page of the caller's sessions, newest first; `before` of one page asks for the older page."""
        last = wire.parse_cursor(before) if before else None
        page = await self._store.list_sessions(principal_of(request), limit, last)
        now = self._clock()
        found = [each for each in page if each.expires > now]
        body = wire.sessions_body(found, page[-1] if len(page) == limit else None)
        return Response(body, media_type="application/json")

    async def transcript(
        self,
        request: Request,
        session_id: SessionId,
        before: Annotated[int | None, Query(ge=1, le=2**53)] = None,
        limit: PageSize = wire.DEFAULT_PAGE,
    ) -> Response:
        """Return a page of the session's done turns, oldest first; `before` of one page asks for the older page."""
        key = SessionKey(principal_of(request), session_id)
        now = self._clock()
        items = [each for each in await self._store.newest(key, limit, before) if each.expires > now]
        if not items and (before is None or not any(e.expires > now for e in await self._store.newest(key, 1))):
            raise SessionNotFound
        turns = [unpack(each.turn, each.body) for each in reversed(items) if each.body]
        oldest = items[-1].turn if items else 1
        body = wire.transcript_body(session_id, turns, oldest if oldest > 1 else None)
        return Response(body, media_type="application/json")

    async def delete(self, request: Request, session_id: SessionId) -> Response:
        """Remove everything of the session; a turn that runs on it is ended and stores nothing any more."""
        await self._store.delete(SessionKey(principal_of(request), session_id))
        return Response(status_code=204)

    async def cancel(self, request: Request, session_id: SessionId) -> Response:
        """Stop the turn that runs on the session, in whatever process, and say what is stored of it once it settled."""
        give_up = turn_deadline(CANCEL_S, lambda_remaining_s(request.scope.get("aws.context")))
        turn = await self._turns.cancel(SessionKey(principal_of(request), session_id), give_up)
        return Response(wire.cancellation_body(session_id, turn), media_type="application/json")
