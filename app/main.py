"""The composition root: settings in, app out. The only module that knows every other."""

import asyncio
import gc
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from app import config, observability, problems, telemetry
from app.agents import Agent, loader
from app.auth import Authenticator
from app.auth import loader as auth_loader
from app.budgets import Budgets, Limit
from app.caller import Caller
from app.clients import Clients
from app.cors import Cors
from app.errors import ConfigurationError, ServiceError
from app.hosts import AllowedHosts
from app.lifecycle import Lifecycle
from app.limits import PrincipalLimits
from app.middleware import DOCS, Shell
from app.routes import Limits, Routes
from app.session_routes import SessionRoutes
from app.sessions import SessionStore
from app.sessions.claims import Claims
from app.signals import drain_on_signal
from app.turns import TurnService
from app.usage_routes import UsageRoutes

log = logging.getLogger(__name__)

VERSION = "0.1.0"
BODY_S = 10.0  # a body is a few kilobytes; who takes longer to send it holds a connection for nothing
HEARTBEAT_S = 15.0  # proxies and load balancers cut a silent stream after 60 s or less
DEFAULT_MODEL = "claude-sonnet-5-5"
DAY_S = 86_400
WARM_IN_CALL_S = 2.0  # how long one Lambda invocation may wait for a warm-up that did not finish at init


def build(store: SessionStore | None = None, agent: Agent | None = None) -> FastAPI:
    """Return the app that the environment describes, for a process that has no other, with logging set up.

    `store` and `agent` replace what the environment names.

    Raises:
        ConfigurationError: it names every bad setting and no value.
    """
    telemetry.configure("INFO")  # until the settings are read: no exception's text may reach the log
    try:
        settings, named, problems = load()
        if problems:
            raise ConfigurationError(problems)  # noqa: TRY301 one place logs them all
    except ConfigurationError as exc:
        log.critical("the settings are wrong", extra={"problems": exc.problems})
        raise
    telemetry.configure(settings.log_level)
    app = create_app(settings, store=store, agent=agent or named)
    gc.freeze()  # what is loaded by now stays, and looking at it again and again was a quarter of an echo's CPU
    return app


def load() -> tuple[config.Settings, Agent | None, list[str]]:
    """Return the settings in the environment, the agent that they name, and everything that is wrong with both.

    Raises:
        ConfigurationError: variables cannot be read.
    """
    settings = config.load()
    problems, agent = settings.validate(), None
    try:
        agent = _agent(settings)
    except ConfigurationError as exc:
        problems += exc.problems
    try:
        _authenticator(settings)
    except ConfigurationError as exc:
        problems += exc.problems
    return settings, agent, problems


def create_app(
    settings: config.Settings,
    *,
    store: SessionStore | None = None,
    agent: Agent | None = None,
    clock: Callable[[], float] = time.time,
    body_s: float = BODY_S,
    heartbeat_s: float = HEARTBEAT_S,
) -> FastAPI:
    """Return an app of its own: nothing is shared with another one but what is passed in. Opens nothing yet.

    `clock` gives epoch seconds; a body must arrive within `body_s`; a stream that is silent for `heartbeat_s` gets a
    comment. Entry points find the Lifecycle, the Settings, the Clients and what observes on `app.state`.

    Raises:
        ConfigurationError: the agent or the authenticator cannot be loaded.
    """
    store = store or _store(settings)
    agent = agent or _agent(settings)
    lifecycle = _lifecycle(settings)
    claims = Claims(store, settings.sessions_window, settings.sessions_keep_days * DAY_S, clock)
    admission = PrincipalLimits(claims, settings.rate_limit_per_minute, settings.max_turns_per_principal)
    budgets = _budgets(settings, claims)
    observed = observability.load(settings, lifecycle, settings.service, frozen=settings.frozen)
    traced = observed.traced(agent, settings.agent_name, _model(settings))
    turns = TurnService(claims, traced, settings.max_steps, observed.report, admission, budgets)
    authenticator = _authenticator(settings)
    caller = Caller(authenticator, settings.auth)
    clients = Clients(store, agent, authenticator)
    limits = _request_limits(settings, body_s, heartbeat_s)
    production = settings.environment == "production"
    app = FastAPI(
        title="agent-service",
        version=VERSION,
        lifespan=_lifespan(lifecycle, clients, store.ping, observed.end, in_background=not settings.frozen),
        telemetry=observed.http,
        docs_url=None if production else DOCS,
        swagger_ui_oauth2_redirect_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirect would repeat the caller's Host
        openapi_url=None if production else "/openapi.json",
    )
    app.state.lifecycle, app.state.settings, app.state.clients = lifecycle, settings, clients
    app.state.observed = observed
    Routes(lifecycle, turns, caller, limits).add_to(app.router)
    SessionRoutes(turns, store, caller, clock).add_to(app.router)
    UsageRoutes(budgets, caller).add_to(app.router)
    observed.add_to(app.router)
    if settings.allowed_hosts:
        app.add_middleware(AllowedHosts, names=settings.allowed_hosts)
    app.add_middleware(Shell, lifecycle=lifecycle, cors=Cors(settings.cors_origins) if settings.cors_origins else None)
    app.add_exception_handler(ServiceError, problems.on_service_error)
    app.add_exception_handler(HTTPException, problems.http_error_handler(app.routes))
    app.add_exception_handler(RequestValidationError, problems.on_invalid_parameter)
    return app


def _request_limits(settings: config.Settings, body_s: float, heartbeat_s: float) -> Limits:
    return Limits(
        settings.timeout_s,
        settings.max_message_bytes,
        body_s,
        heartbeat_s,
        stop_on_disconnect=settings.on_disconnect == "stop" and not settings.frozen,
    )


def _lifecycle(settings: config.Settings) -> Lifecycle:
    return Lifecycle(
        max_turns=settings.max_concurrent_turns,
        drain_delay_s=settings.drain_delay_s,
        grace_s=settings.grace_s,
        warm_in_call_s=WARM_IN_CALL_S if settings.frozen else 0.0,
        store_fails_s=settings.readyz_store_fail_after_s,
    )


def _budgets(settings: config.Settings, claims: Claims) -> Budgets:
    return Budgets(
        claims,
        turn=Limit(settings.max_tokens, settings.max_cost_usd),
        session=Limit(settings.session_max_tokens, settings.session_max_cost_usd),
        day=Limit(settings.daily_max_tokens, settings.daily_max_cost_usd),
    )


def _store(settings: config.Settings) -> SessionStore:
    """Return the store that the settings name. Each is imported only where it is used: both cost a cold start."""
    if settings.sessions_table and settings.aws_region:
        from app.sessions.credentials import credentials  # noqa: PLC0415
        from app.sessions.dynamodb import DynamoDBStore  # noqa: PLC0415

        endpoint = settings.aws_endpoint_url_dynamodb
        return DynamoDBStore(
            settings.sessions_table,
            settings.aws_region,
            credentials(),
            str(endpoint) if endpoint else None,
        )
    from app.sessions.sqlite import SQLiteStore  # noqa: PLC0415

    log.info("sessions are kept in an SQLite file; set SESSIONS_TABLE to share them between machines")
    return SQLiteStore(settings.sessions_file)


def _authenticator(settings: config.Settings) -> Authenticator:
    return auth_loader.load(settings, has_events=settings.frozen)


def _agent(settings: config.Settings) -> Agent:
    """Return the agent that the settings name. What it needs is imported here, and so before the first turn."""
    name = settings.agent_name
    if name == "claude":
        return _claude(settings)
    if name == "pydantic-ai":
        from app.agents import from_pydantic_ai  # noqa: PLC0415 an extra

        return from_pydantic_ai.built_in(
            settings.agent_model or "",
            _instructions(settings),
            settings.tools,
            output_tokens=settings.max_output_tokens,
            priced=settings.max_cost_usd is not None,
        )
    return loader.load(name)


def _claude(settings: config.Settings) -> Agent:
    from app.agents import claude, messages_api, prices, tools  # noqa: PLC0415 what the cold start of echo need not pay

    model = _model(settings) or DEFAULT_MODEL
    price = prices.Price.usual(*settings.prices) if settings.prices else prices.price_of(model)
    if settings.max_cost_usd is not None and price is None:
        raise ConfigurationError(
            ["AGENT_PRICES is required with AGENT_MAX_COST_USD: no list price of AGENT_MODEL is known"]
        )
    key = settings.api_key.get_secret_value() if settings.api_key else ""
    return claude.Claude(
        messages_api.MessagesAPI(str(settings.base_url), key),
        model,
        instructions=_instructions(settings),
        toolbox=tools.load(settings.tools),
        limits=claude.Limits(settings.max_output_tokens),
        price=price,
    )


def _model(settings: config.Settings) -> str | None:
    """Return the model that the agent calls, where the settings know it."""
    return settings.agent_model or (DEFAULT_MODEL if settings.agent_name == "claude" else None)


def _instructions(settings: config.Settings) -> str | None:
    if settings.instructions_file is None:
        return settings.instructions
    try:
        return settings.instructions_file.read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        raise ConfigurationError(["AGENT_INSTRUCTIONS_FILE must be a readable text file in UTF-8"]) from None


def _lifespan(
    lifecycle: Lifecycle,
    clients: Clients,
    probe: Callable[[], Awaitable[None]],
    end: Callable[[float], Awaitable[None]],
    *,
    in_background: bool,
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Return the app's lifespan: open the clients, warm up, serve, let the turns finish, close.

    end:           is told when all turns have ended, and how many seconds of the grace are left
    in_background: warm up while the server already answers probes. Where the process is frozen between calls, the
    entry point warms up instead.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        asyncio.get_running_loop().set_exception_handler(telemetry.on_loop_error)
        async with clients:
            lifecycle.begin(probe)
            running = asyncio.create_task(lifecycle.run()) if in_background else None
            with drain_on_signal(lifecycle):
                yield
            if running:
                running.cancel()
            await lifecycle.finish()
            await end(lifecycle.left_s)
        lifecycle.stopped()

    return lifespan
