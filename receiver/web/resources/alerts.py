"""Alerts over HTTP: list, show and acknowledge."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response

from receiver.domain.tracked_alerts import AlertState, TrackedAlert
from receiver.store.interfaces import Page
from receiver.web import serializers
from receiver.web.api_requests import AcknowledgeRequest, AlertQuery, NoQuery
from receiver.web.params import actor, read_json_body, read_query


class AlertService(Protocol):
    """Lists and acknowledges alerts."""

    async def list(
        self,
        *,
        states: Sequence[AlertState] = (),
        types: Sequence[str] = (),
        subject: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[TrackedAlert]:
        """List alerts, newest first."""
        ...

    async def find(self, alert_id: str) -> TrackedAlert:
        """Return an alert; raise NotFound if there is none."""
        ...

    async def acknowledge(self, alert_id: str, *, note: str, actor: str) -> TrackedAlert:
        """Acknowledge an alert, so that it stays quiet until it changes."""
        ...


class AlertApi:
    """Answers ``/api/alerts``."""

    def __init__(self, alerts: AlertService) -> None:
        self._alerts = alerts

    async def list(self, request: Request) -> Response:
        """List alerts, newest first."""
        query = read_query(request, AlertQuery)
        found = await self._alerts.list(
            states=query.state,
            types=query.type,
            subject=query.subject,
            since=query.from_,
            until=query.to,
            limit=query.limit,
            cursor=query.cursor,
        )
        return serializers.page_response(found, serializers.alert_json)

    async def show(self, request: Request) -> Response:
        """Return one alert."""
        read_query(request, NoQuery)
        return serializers.json_response(serializers.alert_json(await self._alerts.find(request.path_params["id"])))

    async def acknowledge(self, request: Request) -> Response:
        """Acknowledge an alert. Idempotent."""
        read_query(request, NoQuery)
        body = await read_json_body(request, AcknowledgeRequest)
        alert = await self._alerts.acknowledge(request.path_params["id"], note=body.note, actor=actor(request))
        return serializers.json_response(serializers.alert_json(alert))
