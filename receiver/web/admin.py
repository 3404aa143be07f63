"""The admin app: the API and Kling's gateway behind a token, and the console behind a session."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from types import MappingProxyType

import msgspec
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from receiver.domain.api_schema.resources import OpenApiDocument
from receiver.domain.clock import Clock, Ids
from receiver.domain.errors import ReceiverError
from receiver.domain.notifier import Notifier
from receiver.domain.secret import Secret
from receiver.settings import Address, RouteSettings
from receiver.store.interfaces import Catalog
from receiver.tasks.explain import Explainer
from receiver.web import gateway, serializers
from receiver.web.auth import TokenAuth
from receiver.web.console.app import Console
from receiver.web.console.credentials import Credentials
from receiver.web.console.gate import SessionAuth, is_visit
from receiver.web.console.services import ConsoleSources
from receiver.web.gateway import ForwardApi, Gateway, GatewayCreates
from receiver.web.key_pair_tokens import KeyPairTokens
from receiver.web.named_tokens import NamedTokens
from receiver.web.probes import ProbeRegistry
from receiver.web.resources.alerts import AlertApi, AlertService
from receiver.web.resources.batches import BatchApi, BatchService
from receiver.web.resources.bills import BillApi, BillService
from receiver.web.resources.config import ConfigApi, Reloads
from receiver.web.resources.console import ConsoleApi
from receiver.web.resources.costs import CostApi, CostStore
from receiver.web.resources.deliveries import DeliveryApi
from receiver.web.resources.diagnostics import Diagnose, DiagnosticsApi
from receiver.web.resources.events import EventApi
from receiver.web.resources.explain import ExplainApi
from receiver.web.resources.health import HealthApi, ReadinessCheck
from receiver.web.resources.metrics import MetricsApi
from receiver.web.resources.nodes import ListNodes, NodeApi
from receiver.web.resources.replays import ReplayApi, ReplayService
from receiver.web.resources.results import ResultApi
from receiver.web.resources.route_tests import RouteTestApi
from receiver.web.resources.routes import RouteApi, RouteStates, RouteStateStore
from receiver.web.resources.stream import EventStream
from receiver.web.resources.tasks import Deleter, Submitter, TaskApi
from receiver.web.resources.trigger import TriggerApi, TriggerService
from receiver.web.server import problems
from receiver.web.server.body import BodyMemoryBudget
from receiver.web.server.error_boundary import ErrorBoundary
from receiver.web.server.problems import Problem

Handler = Callable[[Request], Awaitable[Response]]


class AdminServices(msgspec.Struct, frozen=True, kw_only=True):
    """The services that the admin app calls. ``event_notifier`` notifies after events were committed."""

    submitter: Submitter
    deleter: Deleter
    gateway_creates: GatewayCreates
    kling: ForwardApi
    catalog: Catalog
    routes: Sequence[RouteSettings]
    route_state_store: RouteStateStore
    route_states: RouteStates
    replays: ReplayService
    batches: BatchService
    alerts: AlertService
    costs: CostStore
    bill: BillService
    console: ConsoleSources
    explainer: Explainer
    route_tests: RouteTestApi
    trigger: TriggerService
    event_notifier: Notifier
    readiness: ReadinessCheck
    diagnose: Diagnose
    probes: ProbeRegistry
    reloads: Reloads
    nodes: ListNodes
    metrics: MetricsApi
    results: ResultApi
    clock: Clock
    ids: Ids


def admin_app(
    services: AdminServices,
    *,
    token: Secret,
    read_token: Secret | None = None,
    listen: Address,
    hosts: Collection[str] = (),
    named_tokens: Mapping[str, Secret] = MappingProxyType({}),
    revoked: asyncio.Event | None = None,
    extra_routes: Sequence[BaseRoute] = (),
) -> Starlette:
    """Create the app of the admin listener.

    *hosts* are allowed host names in addition to its own address and this machine's names.
    *named_tokens* are valid too, each under its name in the audit log. *revoked* ends open
    streams when it is set. *extra_routes* are further pages; they need the token too.
    """
    credentials = Credentials(token=token, read_token=read_token, named_tokens=named_tokens)
    console = Console(services, _route_api(services), credentials)
    app = Starlette(
        routes=[*_routes(services, console), *console.routes, *extra_routes],
        middleware=[
            Middleware(ErrorBoundary, render=partial(_render_error, console)),
            Middleware(KeyPairTokens, tokens=[token, *named_tokens.values(), *([read_token] if read_token else [])]),
            Middleware(NamedTokens, tokens=named_tokens, token=token),
            Middleware(TokenAuth, token=token, read_token=read_token, listen=listen, hosts=hosts, revoked=revoked),
            Middleware(SessionAuth, gate=console.gate),
        ],
        exception_handlers={HTTPException: partial(_http_error, console)},
    )
    # A redirect to the address without a slash at its end would be built from the Host header.
    app.router.redirect_slashes = False
    return app


def _routes(services: AdminServices, console: Console) -> Sequence[Route]:
    health, body_memory = HealthApi(services.readiness), BodyMemoryBudget()
    diagnostics, config = DiagnosticsApi(services.diagnose, services.probes), ConfigApi(services.reloads)
    return [
        *_task_routes(services, body_memory),
        *_history_routes(services),
        *_route_routes(services),
        _route("/api/diagnostics", GET=diagnostics.show),
        _route("/api/nodes", GET=NodeApi(services.nodes).list),
        _route("/api/probes", POST=diagnostics.register_probe),
        _route("/api/console/links", POST=ConsoleApi(console.links, load_pages=console.load).create_link),
        _route("/results/{task}/{file}", GET=services.results.show),
        _route("/api/config/diff", GET=config.diff),
        _route("/api/config/reload", POST=config.reload),
        _route("/openapi.json", GET=_openapi),
        _route("/metrics", GET=services.metrics.show),
        _route("/healthz", GET=health.liveness),
        _route("/readyz", GET=health.readiness),
        Route("/kling/{path:path}", Gateway(services.gateway_creates, services.kling, body_memory)),
    ]


def _task_routes(services: AdminServices, body_memory: BodyMemoryBudget) -> Sequence[Route]:
    task = TaskApi(services.submitter, services.deleter, services.catalog, services.costs, body_memory)
    batch = BatchApi(services.batches)
    return [
        _route("/api/tasks", GET=task.list, POST=task.create),
        _route("/api/tasks/counts", GET=task.counts),
        _route("/api/tasks/{ref:path}/explain", GET=ExplainApi(services.explainer, clock=services.clock).show),
        _route("/api/tasks/{ref:path}/cancel", POST=task.cancel),
        _route("/api/tasks/{ref:path}/retry", POST=task.retry),
        _route("/api/tasks/{ref:path}", GET=task.show, DELETE=task.delete),
        _route("/api/endpoints", GET=task.endpoints),
        _route("/api/callback-urls", POST=task.create_callback_url),
        _route("/api/callback-urls/{ref:path}/revoke", POST=task.revoke_callback_url),
        _route("/api/batches", GET=batch.list),
        _route("/api/batches/{name}", GET=batch.show),
        _route("/api/batches/{name}/close", POST=batch.close),
        _route("/api/costs/check", POST=BillApi(services.bill, clock=services.clock).check),
        _route("/api/costs/estimate", POST=CostApi(services.costs).estimate),
        _route("/api/costs", GET=CostApi(services.costs).totals),
    ]


def _history_routes(services: AdminServices) -> Sequence[Route]:
    event = EventApi(services.catalog)
    delivery = DeliveryApi(services.catalog, services.replays, clock=services.clock)
    replay = ReplayApi(services.replays, services.catalog)
    alert = AlertApi(services.alerts)
    return [
        _route("/api/events", GET=event.list),
        _route("/api/events/{id}", GET=event.show),
        _route(
            "/api/stream",
            GET=EventStream(services.catalog, notifier=services.event_notifier, clock=services.clock).subscribe,
        ),
        _route("/api/deliveries", GET=delivery.list),
        _route("/api/deliveries/{id}", GET=delivery.show),
        _route("/api/deliveries/{id}/retry", POST=delivery.retry),
        _route("/api/alerts", GET=alert.list),
        _route("/api/alerts/{id}", GET=alert.show),
        _route("/api/alerts/{id}/ack", POST=alert.acknowledge),
        _route("/api/replays", GET=replay.list, POST=replay.create),
        _route("/api/replays/{id}", GET=replay.show),
        _route("/api/replays/{id}/cancel", POST=replay.cancel),
    ]


def _route_api(services: AdminServices) -> RouteApi:
    return RouteApi(
        services.routes,
        route_state_store=services.route_state_store,
        route_states=services.route_states,
        catalog=services.catalog,
    )


def _route_routes(services: AdminServices) -> Sequence[Route]:
    route, test = _route_api(services), services.route_tests
    return [
        _route("/api/routes", GET=route.list),
        _route("/api/routes/{name}/hold", POST=route.hold),
        _route("/api/routes/{name}/release", POST=route.release),
        _route("/api/routes/{name}/test", POST=test.test),
        _route("/api/routes/{name}/backtest", POST=test.backtest),
        _route("/api/trigger", POST=TriggerApi(services.trigger).create),
    ]


class _Methods:
    """The methods of one path. Any other method gets a 405 that lists all of them.

    It is an app of its own, because Starlette would try further routes for another method: a task's ID may contain
    slashes, so ``GET /api/tasks/x/cancel`` would look for a task named ``x/cancel``.
    """

    def __init__(self, by_method: Mapping[str, Handler]) -> None:
        self._by_method = by_method

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        handler = self._by_method.get("GET" if scope["method"] == "HEAD" else scope["method"])
        if handler is None:
            raise problems.method_not_allowed(", ".join([*self._by_method, *(["HEAD"] * ("GET" in self._by_method))]))
        response = await handler(Request(scope, receive, send))
        await response(scope, receive, send)


def _route(path: str, **by_method: Handler) -> Route:
    return Route(path, _Methods(by_method))


async def _openapi(_request: Request) -> Response:
    return serializers.json_response(await asyncio.to_thread(_describe_api))


def _describe_api() -> OpenApiDocument:
    from receiver.web.openapi.document import openapi_document  # noqa: PLC0415 -- takes longer to load than the service

    return openapi_document()


async def _http_error(console: Console, request: Request, error: Exception) -> Response:
    """Return the router's error. A client that forgot the gateway's prefix learns the right path."""
    path = request.url.path
    if isinstance(error, HTTPException) and _is_for_browser(request.scope):
        return console.error_response(request.scope, problems.from_http_exception(error))
    if path.startswith("/v1/"):
        return problems.not_found(f"Kling's API is under {gateway.PREFIX}: {gateway.PREFIX}{path[1:256]}.").response()
    return await problems.http_exception_response(request, error)


def _is_for_browser(scope: Scope) -> bool:
    """Return whether a person reads the response."""
    return is_visit(scope["path"], Headers(scope=scope))


def _render_error(console: Console, scope: Scope, error: Problem | ReceiverError) -> Response:
    if _is_for_browser(scope):
        return console.error_response(scope, problems.from_error(error))
    if gateway.is_gateway_path(scope["path"]):
        return gateway.error_response(error)
    return problems.from_error(error).response()
