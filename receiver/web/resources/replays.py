"""Replays over HTTP: what would go out again, what does, how far it has come."""

from http import HTTPStatus
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response

from receiver.delivery.replay import Outline
from receiver.domain.model import DeliveryStatus
from receiver.domain.replays import Replay, Selection
from receiver.settings import Rate
from receiver.settings.values import Unfit, read_rate
from receiver.store.interfaces import Catalog, DeliveryView, Page
from receiver.web import serializers
from receiver.web.params import Fields, Query, actor, read_fields
from receiver.web.resources.stream import task_id
from receiver.web.server.problems import bad_request

_MEMBERS = ("deliveries", "events", "task", "route", "status", "from", "to", "to_route", "pace", "why", "dry_run")


class Replayer(Protocol):
    """Sees to events that are to go out again."""

    async def retry(self, delivery_id: str, *, why: str, actor: str) -> DeliveryView:
        """Have a delivery tried now; give the one that goes out."""
        ...

    async def outline(self, selection: Selection) -> Outline:
        """Tell what a replay would bring out."""
        ...

    async def start(self, selection: Selection, *, rate: Rate | None, why: str, actor: str) -> Replay:
        """Begin a replay."""
        ...

    async def cancel(self, replay_id: str, *, why: str, actor: str) -> Replay:
        """Stop a replay."""
        ...

    async def find(self, replay_id: str) -> Replay:
        """Find a replay."""
        ...

    async def list(self, *, limit: int, cursor: str | None) -> Page[Replay]:
        """List replays, newest first."""
        ...


class ReplayApi:
    """Answers ``/api/replays``."""

    def __init__(self, replayer: Replayer, catalog: Catalog) -> None:
        self._replayer = replayer
        self._catalog = catalog

    async def create(self, request: Request) -> Response:
        """Begin a replay, or with ``dry_run`` only say what it would bring out."""
        Query(request, paged=False)
        fields = await read_fields(request, known=_MEMBERS)
        selection = await self._selection(fields)
        rate = _rate(fields.text("pace"))
        if fields.flag("dry_run"):
            return serializers.answer(serializers.outline(await self._replayer.outline(selection)))
        why = fields.text("why") or ""
        replay = await self._replayer.start(selection, rate=rate, why=why, actor=actor(request))
        headers = {"location": f"/api/replays/{replay.id}"}
        return serializers.answer(serializers.replay(replay), HTTPStatus.ACCEPTED, headers)

    async def _selection(self, fields: Fields) -> Selection:
        since, until = fields.moment("from"), fields.moment("to")
        if since is not None and until is not None and since >= until:
            raise bad_request("'from' is not before 'to'.")
        return Selection(
            deliveries=tuple(fields.texts("deliveries")),
            events=tuple(fields.texts("events")),
            task_id=await task_id(self._catalog, fields.text("task")),
            route=fields.text("route"),
            statuses=tuple(fields.words("status", DeliveryStatus)),
            since=since,
            until=until,
            to_route=fields.text("to_route"),
        )

    async def list(self, request: Request) -> Response:
        """List replays, newest first."""
        query = Query(request)
        return serializers.page(await self._replayer.list(limit=query.limit, cursor=query.cursor), serializers.replay)

    async def show(self, request: Request) -> Response:
        """Show one replay and how far it has come."""
        Query(request, paged=False)
        return serializers.answer(serializers.replay(await self._replayer.find(request.path_params["id"])))

    async def cancel(self, request: Request) -> Response:
        """Stop a replay; what it has brought out already goes on."""
        Query(request, paged=False)
        fields = await read_fields(request, known=("why",))
        replay = await self._replayer.cancel(
            request.path_params["id"], why=fields.text("why") or "", actor=actor(request)
        )
        return serializers.answer(serializers.replay(replay))


def _rate(text: str | None) -> Rate | None:
    try:
        return read_rate(text or "")
    except Unfit as exc:
        raise bad_request(f"'pace': {exc}.") from None
