"""Alerts and spans of time in both clients, against the real admin listener."""

import asyncio
from datetime import timedelta

import pytest
from harness.web_app import TOKEN, WebApp

from receiver import Client, SyncClient
from receiver.domain.errors import Conflict, NotFound

NOTE = "on it"


async def test_alerts_are_listed_and_acknowledged(web: WebApp) -> None:
    async with Client(f"http://{web.admin}", TOKEN) as client:
        await client.post("/api/routes/publish/hold", {"why": "maintenance"})
        (alert,) = (await client.alerts(state="open", types="alert.route_held", subject="publish")).items

        acknowledged = await client.acknowledge_alert(alert["id"], note=NOTE)

        assert (acknowledged["state"], acknowledged["acknowledged"]["note"]) == ("acknowledged", NOTE)
        assert await client.alert(alert["id"]) == acknowledged
        assert (await client.alerts(state=("open",))).items == []
        assert (await client.alerts(until=web.clock.now() - timedelta(hours=1))).items == []
        assert len((await client.alerts(since=web.clock.now() - timedelta(hours=1), limit=1)).items) == 1
        await client.post("/api/routes/publish/release", {})
        assert (await client.alert(alert["id"]))["state"] == "closed"
        with pytest.raises(NotFound):
            await client.acknowledge_alert("alr_none")


async def test_a_closed_alert_cannot_be_acknowledged(web: WebApp) -> None:
    async with Client(f"http://{web.admin}", TOKEN) as client:
        await client.post("/api/routes/publish/hold", {})
        await client.post("/api/routes/publish/release", {})
        (alert,) = (await client.alerts()).items

        with pytest.raises(Conflict, match="closed"):
            await client.acknowledge_alert(alert["id"])


async def test_the_blocking_client_has_the_same_methods(web: WebApp) -> None:
    await web.client.post("/api/routes/publish/hold", json={})

    def acknowledge() -> str:
        with SyncClient(f"http://{web.admin}", TOKEN) as client:
            (alert,) = client.alerts(state="open").items
            assert client.alert(alert["id"]) == alert
            return str(client.acknowledge_alert(alert["id"], note=NOTE)["state"])

    assert await asyncio.to_thread(acknowledge) == "acknowledged"


async def test_lists_are_limited_to_a_span(web: WebApp) -> None:
    now = web.clock.now()
    async with Client(f"http://{web.admin}", TOKEN) as client:
        await client.post("/api/trigger", {"state": "succeed"})

        for list_ in (client.tasks, client.list_events, client.deliveries):
            assert (await list_(since=now - timedelta(hours=1), until=now + timedelta(hours=1))).items, list_
            assert (await list_(until=now)).items == [], list_
