"""Tests of a route over HTTP: one sample delivery, and what the route would do with stored events."""

import asyncio
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from struct import pack
from time import perf_counter

from starlette.requests import Request
from starlette.responses import Response

from receiver.delivery.senders.sender import DeliveryRequest, Sender
from receiver.domain.api_schema import resources
from receiver.domain.api_schema.backtests import Backtest, BacktestItem
from receiver.domain.clock import Clock, Ids, iso
from receiver.domain.errors import InvalidRequest, NotFound, ReceiverError
from receiver.domain.model import Asset, Event, Json, Verification
from receiver.events.payload import serialize
from receiver.events.routing import Candidate, Route, compile_route
from receiver.events.samples import DEFAULT_ENDPOINT, UnknownType, sample_event
from receiver.settings import RouteSettings, Verify
from receiver.store.disk import make_folder
from receiver.store.interfaces import Catalog
from receiver.web import serializers
from receiver.web.api_requests import BacktestRequest, NoQuery, RouteTestRequest
from receiver.web.params import read_json_body, read_query
from receiver.web.resources.routes import FindSender, no_route

_PAGE = 100
_SIZE = 64  # pixels of the sample picture's sides
_MAX_PREVIEW = 64 * 1024
_FILE_MODE, _FOLDER_MODE = 0o640, 0o750


class RouteTestApi:
    """Answers ``/api/routes/{name}/test`` and ``/api/routes/{name}/backtest``. Nothing is stored."""

    def __init__(
        self,
        routes: Sequence[RouteSettings],
        *,
        find_sender: FindSender,
        catalog: Catalog,
        verify: Verify,
        samples_folder: Path,
        clock: Clock,
        ids: Ids,
    ) -> None:
        """*samples_folder* keeps the sample picture that a script finds in ``KLING_ASSET_DIR``."""
        self._routes = {route.name: route for route in routes}
        self._find_sender = find_sender
        self._catalog = catalog
        self._verify = verify
        self._samples_folder = samples_folder
        self._clock = clock
        self._ids = ids

    async def test(self, request: Request) -> Response:
        """Send a sample event to a route once and return the outcome."""
        read_query(request, NoQuery)
        body = await read_json_body(request, RouteTestRequest)
        return serializers.json_response(
            await self.send_sample(request.path_params["name"], type_=body.type, endpoint=body.endpoint)
        )

    async def send_sample(
        self, name: str, *, type_: str = "succeed", endpoint: str | None = None
    ) -> resources.RouteTestOutcome:
        """Send a sample event to a route once and return the outcome. Raises NotFound and InvalidRequest."""
        route, sender = self._route(name)
        event = await self._sample(type_, endpoint, with_files=route.script is not None)
        delivery = DeliveryRequest(delivery_id=self._ids.new("dlv"), event=event, attempt=1, at=self._clock.now())
        started_at = perf_counter()
        outcome = await sender.send(delivery)
        return serializers.outcome_json(outcome, duration=timedelta(seconds=perf_counter() - started_at))

    async def backtest(self, request: Request) -> Response:
        """Return what the route would do with one stored event, or with the newest ones. Nothing is sent."""
        read_query(request, NoQuery)
        body = await read_json_body(request, BacktestRequest)
        route, sender = self._route(request.path_params["name"])
        rule = compile_route(route)
        items = [await self._backtest(rule, sender, event) for event in await self._events(body)]
        wanted = sum(item.wanted for item in items)
        return serializers.json_response(Backtest(route=route.name, wanted=wanted, items=items))

    def _route(self, name: str) -> tuple[RouteSettings, Sender]:
        route, sender = self._routes.get(name), self._find_sender(name)
        if route is None or sender is None:
            raise no_route(name)
        return route, sender

    async def _sample(self, type_: str, endpoint: str | None, *, with_files: bool) -> Event:
        assets = await asyncio.to_thread(sample_files, self._samples_folder) if with_files else ()
        try:
            return sample_event(
                type_,
                ids=self._ids,
                at=self._clock.now(),
                endpoint=endpoint or DEFAULT_ENDPOINT,
                assets=assets,
            )
        except UnknownType as exc:
            raise InvalidRequest(str(exc)) from exc

    async def _events(self, body: BacktestRequest) -> Sequence[Event]:
        if body.event is not None:
            event = await self._catalog.event(body.event)
            if event is None:
                raise NotFound(
                    f"There is no event {body.event!r}.", remedy="List events with `kling-receiver events list`."
                )
            return [event]
        found: list[Event] = []
        cursor = None
        while len(found) < body.last:
            page = await self._catalog.events(limit=min(_PAGE, body.last - len(found)), cursor=cursor)
            found += page.items
            cursor = page.next
            if cursor is None:
                break
        return found

    async def _backtest(self, rule: Route, sender: Sender, event: Event) -> BacktestItem:
        whole: Json = json.loads(serialize(event))
        data: Mapping[str, object] = whole.get("data", {})
        task = data.get("task")
        endpoint = task.get("endpoint") if isinstance(task, dict) else None
        trusted = event.verified is not Verification.NONE or not _wants_proof(event, data, self._verify)
        candidate = Candidate(type=event.type, endpoint=endpoint, trusted=trusted, data=lambda: dict(data))
        decision = rule.decide(candidate)
        body, problem = "", ""
        if decision.wanted:
            try:
                body = (await sender.preview(event))[:_MAX_PREVIEW].decode(errors="replace")
            except ReceiverError as exc:
                problem = exc.message
        return BacktestItem(
            event_id=event.id,
            type=event.type,
            created_at=iso(event.created_at),
            wanted=decision.wanted,
            reason=decision.reason,
            problem=problem,
            body=body,
        )


def _wants_proof(event: Event, data: Mapping[str, object], verify: Verify) -> bool:
    """Return whether an event without proof is one that ``[callbacks] verify`` wants confirmed."""
    if data.get("source") != "callback" or data.get("test") or verify is Verify.NEVER:
        return False
    return verify is Verify.ALWAYS or event.type in ("task.succeed", "task.failed")


def sample_files(folder: Path) -> Sequence[Asset]:
    """Make the sample picture in *folder*, unless it is there, and return it as an archived file."""
    path, content = folder / "test" / "0.png", sample_png()
    if not path.is_file() or path.read_bytes() != content:
        make_folder(path.parent, mode=_FOLDER_MODE)
        partial = path.with_suffix(".part")
        partial.write_bytes(content)
        partial.chmod(_FILE_MODE)
        partial.replace(path)
    return [
        Asset(
            number=0,
            url="https://example.com/test.png",
            sha256=hashlib.sha256(content).digest(),
            size=len(content),
            content_type="image/png",
            path=str(path),
        )
    ]


def sample_png() -> bytes:
    """Return a small picture: a gradient of 64 x 64 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return pack(">I", len(content)) + kind + content + pack(">I", zlib.crc32(kind + content))

    lines = b"".join(b"\0" + bytes(v for x in range(_SIZE) for v in (4 * x, 4 * y, 160)) for y in range(_SIZE))
    header = chunk(b"IHDR", pack(">IIBBBBB", _SIZE, _SIZE, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(lines, 9)) + chunk(b"IEND", b"")
