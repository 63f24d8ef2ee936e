"""What the caller has used today, over HTTP."""

from datetime import UTC, datetime, timedelta

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from app.budgets import Budgets
from app.caller import Caller, principal_of
from app.problems import documented


class Running(BaseModel):
    """What is set aside for turns that run; for one whose process died, until the day ends."""

    tokens: int
    cost_usd: float


class DayLimits(BaseModel):
    """What the principal may use in a day; null for no limit."""

    tokens: int | None
    cost_usd: float | None


class DayUsageBody(BaseModel):
    """What the principal has used in this day of UTC."""

    day: str
    resets_at: datetime
    turns: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cost_usd: float
    running: Running
    limits: DayLimits


class UsageRoutes:
    """`/usage`, bound to what answers it."""

    def __init__(self, budgets: Budgets, caller: Caller) -> None:
        self._budgets = budgets
        self._caller = caller

    def add_to(self, router: APIRouter) -> None:
        """Add the path."""
        router.add_api_route(
            "/usage",
            self.usage,
            methods=["GET"],
            dependencies=self._caller.dependencies,
            response_model=DayUsageBody,
            responses=documented(401, 404, 500, 503),
        )

    async def usage(self, request: Request) -> Response:
        """Return what the caller has used in this day of UTC, and what it may use. 404 where nothing limits the day."""
        found = await self._budgets.used_today(principal_of(request))
        resets_at = datetime.fromtimestamp(found.ends, UTC)
        body = DayUsageBody(
            day=(resets_at - timedelta(days=1)).date().isoformat(),
            resets_at=resets_at,
            turns=found.turns,
            input_tokens=found.input_tokens,
            output_tokens=found.output_tokens,
            cached_tokens=found.cached_tokens,
            cost_usd=found.usd,
            running=Running(tokens=found.running_tokens, cost_usd=found.running_usd),
            limits=DayLimits(tokens=found.limit.tokens, cost_usd=found.limit.usd),
        )
        return Response(body.model_dump_json(), media_type="application/json")
