"""The admin face: everything people and programs of the operator's may do, behind one token."""

import traceback
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from receiver.domain.clock import Clock, Ids
from receiver.domain.errors import ReceiverError
from receiver.domain.model import Secret
from receiver.domain.notifier import Bell
from receiver.settings import Address, RouteSettings
from receiver.store.interfaces import Catalog
from receiver.tasks.explain import Explainer
from receiver.web import gateway, serializers
from receiver.web.auth import Access
from receiver.web.gateway import Gateway, Kling
from receiver.web.openapi.document import DESCRIPTION
from receiver.web.resources import tasks
from receiver.web.resources.batches import BatchApi, Gatherer
from receiver.web.resources.costs import CostApi, Costs
from receiver.web.resources.deliveries import DeliveryApi, EventApi
from receiver.web.resources.explain import ExplainApi
from receiver.web.resources.health import Health, Ready
from receiver.web.resources.replays import ReplayApi, Replayer
from receiver.web.resources.routes import FindSender, Holds, RouteApi, RouteStates
from receiver.web.resources.stream import Stream
from receiver.web.resources.tasks import TaskApi
from receiver.web.server import problems
from receiver.web.server.body import ClientGone, Room
from receiver.web.server.problems import Problem

log = structlog.get_logger()

Endpoint = Callable[[Request], Awaitable[Response]]


class Submitter(tasks.Submitter, gateway.Submitter, Protocol):
    """Makes tasks, whichever way they are asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the admin listener shows and sets going. ``events`` rings when events were committed."""

    submitter: Submitter
    kling: Kling
    catalog: Catalog
    routes: Sequence[RouteSettings]
    states: RouteStates
    holds: Holds
    replayer: Replayer
    batches: Gatherer
    costs: Costs
    explainer: Explainer
    senders: FindSender
    events: Bell
    ready: Ready
    clock: Clock
    ids: Ids


def admin_app(
    parts: Parts, *, token: Secret, listen: Address, hosts: Collection[str] = (), more: Sequence[BaseRoute] = ()
) -> Starlette:
    """Make the app of the admin listener.

    *hosts* are names that it answers to beside its own and this machine's; *more* are further pages, which want the
    token as well.
    """
    app = Starlette(
        routes=[*_pages(parts), *more],
        middleware=[Middleware(_Boundary), Middleware(Access, token=token, listen=listen, hosts=hosts)],
        exception_handlers=dict.fromkeys((Problem, ReceiverError, HTTPException), problems.answer_problem),
    )
    # A redirect to the address without a slash at its end would be built from the Host header.
    app.router.redirect_slashes = False
    return app


def _pages(parts: Parts) -> Sequence[Route]:
    health, room = Health(parts.ready), Room()
    return [
        *_about_tasks(parts, room),
        *_about_what_happened(parts),
        *_about_routes(parts),
        _page("/openapi.json", GET=_describe),
        _page("/healthz", GET=health.alive),
        _page("/readyz", GET=health.ready),
        Route("/kling/{path:path}", Gateway(parts.submitter, parts.kling, room)),
    ]


def _about_tasks(parts: Parts, room: Room) -> Sequence[Route]:
    task = TaskApi(parts.submitter, parts.catalog, parts.costs, room)
    batch = BatchApi(parts.batches)
    return [
        _page("/api/tasks", GET=task.list, POST=task.create),
        _page("/api/tasks/counts", GET=task.counts),
        _page("/api/tasks/{ref:path}/explain", GET=ExplainApi(parts.explainer, clock=parts.clock).show),
        _page("/api/tasks/{ref:path}/cancel", POST=task.cancel),
        _page("/api/tasks/{ref:path}", GET=task.show),
        _page("/api/endpoints", GET=task.endpoints),
        _page("/api/callback-urls", POST=task.mint),
        _page("/api/callback-urls/{ref:path}/revoke", POST=task.revoke),
        _page("/api/batches", GET=batch.list),
        _page("/api/batches/{name}", GET=batch.show),
        _page("/api/batches/{name}/close", POST=batch.close),
        _page("/api/costs", GET=CostApi(parts.costs).sums),
    ]


def _about_what_happened(parts: Parts) -> Sequence[Route]:
    event = EventApi(parts.catalog)
    delivery = DeliveryApi(parts.catalog, parts.replayer, clock=parts.clock)
    replay = ReplayApi(parts.replayer, parts.catalog)
    return [
        _page("/api/events", GET=event.list),
        _page("/api/events/{id}", GET=event.show),
        _page("/api/stream", GET=Stream(parts.catalog, bell=parts.events, clock=parts.clock).listen),
        _page("/api/deliveries", GET=delivery.list),
        _page("/api/deliveries/{id}", GET=delivery.show),
        _page("/api/deliveries/{id}/retry", POST=delivery.retry),
        _page("/api/replays", GET=replay.list, POST=replay.create),
        _page("/api/replays/{id}", GET=replay.show),
        _page("/api/replays/{id}/cancel", POST=replay.cancel),
    ]


def _about_routes(parts: Parts) -> Sequence[Route]:
    route = RouteApi(
        parts.routes,
        states=parts.states,
        holds=parts.holds,
        senders=parts.senders,
        catalog=parts.catalog,
        clock=parts.clock,
        ids=parts.ids,
    )
    return [
        _page("/api/routes", GET=route.list),
        _page("/api/routes/{name}/hold", POST=route.hold),
        _page("/api/routes/{name}/release", POST=route.release),
        _page("/api/routes/{name}/test", POST=route.test),
    ]


def _page(path: str, **by_method: Endpoint) -> Route:
    """Put all methods of an address into one route, so that a wrong one is told all the right ones."""

    async def answer(request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        return await by_method[method](request)

    return Route(path, answer, methods=list(by_method))


async def _describe(_request: Request) -> Response:
    return serializers.answer(DESCRIPTION)


class _Boundary:
    """Ends what no one else has ended: a client that left, and faults of our own, which are logged and owned up to."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on, and answer it if nobody could."""
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except ClientGone:
            log.info("request.abandoned", method=scope["method"], path=scope["path"])
        except Exception:
            # The text alone: a renderer that shows the frames' variables would show the token among them.
            fault = traceback.format_exc()
            log.error("request.failed", method=scope["method"], path=scope["path"], exception=fault)  # noqa: TRY400 - as said above
            if started:
                raise
            await _own_up(scope)(scope, receive, send)


def _own_up(scope: Scope) -> Response:
    problem = problems.internal()
    return gateway.as_kling_says(problem) if gateway.is_for_kling(scope["path"]) else problem.response()
