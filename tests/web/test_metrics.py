"""What `/metrics` answers."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Mapping
from datetime import timedelta

import pytest
from harness.factories import a_delivery, a_task, an_event
from harness.web_app import WebApp
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open_metrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from receiver.store.interfaces import StoreSnapshot, Total
from receiver.web.resources.metrics import PREFIX, SnapshotCache

OPEN_METRICS = "application/openmetrics-text; version=1.0.0, text/plain; version=0.0.4; q=0.5"
Samples = Mapping[tuple[str, str], float]


async def scrape(web: WebApp) -> Samples:
    """Return each sample by its name without prefix and its labels' values, in the order of the labels' names."""
    answer = await web.client.get("/metrics")
    assert answer.status_code == 200, answer.text
    return {
        (sample.name.removeprefix(PREFIX), ",".join(sample.labels.values())): sample.value
        for family in parse_text(answer.text)
        for sample in family.samples
    }


async def callback_url(web: WebApp) -> str:
    made = await web.client.post("/api/callback-urls", json={"endpoint": "images/generations"})
    return str(made.json()["callback_url"]).replace("https://hooks.example.com", f"http://{web.public}")


async def test_the_plain_text_format_is_the_default(web: WebApp) -> None:
    answer = await web.client.get("/metrics")

    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert answer.headers["cache-control"] == "no-store"
    assert "# TYPE kling_receiver_tasks gauge" in answer.text


async def test_a_client_that_prefers_openmetrics_gets_openmetrics(web: WebApp) -> None:
    answer = await web.client.get("/metrics", headers={"accept": OPEN_METRICS})

    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.text.endswith("# EOF\n")
    parsed = parse_open_metrics(answer.text)  # type: ignore[no-untyped-call]  # the library leaves it untyped
    assert "kling_receiver_tasks" in {family.name for family in parsed}


@pytest.mark.parametrize("accept", ["", "*/*", "application/openmetrics-text;version=x\x0by", "text/plain;version=9"])
async def test_any_accept_header_is_answered(web: WebApp, accept: str) -> None:
    answer = await web.client.get("/metrics", headers={"accept": accept.replace("\x0b", "")})

    assert answer.status_code == 200


async def test_an_unmeasured_metric_is_missing(web: WebApp) -> None:
    names = {name for name, _ in await scrape(web)}

    assert "build_info" in names
    assert {each for each in names if "callback" in each or "asset" in each or "attempt" in each} == set()
    assert {"spent_total", "deliveries_oldest_pending_seconds"} & names == set()


async def test_the_state_of_the_store_is_measured_even_if_it_is_empty(web: WebApp) -> None:
    seen = await scrape(web)

    assert seen["tasks", "queued"] == 0
    assert seen["deliveries_pending", "publish"] == 0
    assert seen["route_held", "publish"] == 0
    assert seen["store_bytes", ""] > 0
    assert seen["store_wal_bytes", ""] >= 0
    assert seen["disk_free_bytes", ""] > 0


async def test_callbacks_are_counted_by_what_became_of_them(web: WebApp) -> None:
    url = await callback_url(web)
    body = json.dumps({"task_id": "8672", "task_status": "processing", "updated_at": 1785901861504}).encode()

    for posted in (body, body, b"[]"):
        await web.client.post(url, content=posted)
    await web.client.post(f"http://{web.public}/callbacks/guessed", content=body)
    seen = await scrape(web)

    assert {labels: value for (name, labels), value in seen.items() if name == "callbacks_total"} == {
        "pending": 2,
        "unreadable": 1,
        "not_found": 1,
    }
    assert seen["callback_seconds_count", ""] == 2
    assert seen["callback_seconds_bucket", "+Inf"] == 2
    assert seen["push_lag_seconds_count", ""] == 2
    assert seen["store_commit_seconds_count", ""] == seen["store_group_size_count", ""] >= 3


async def test_no_metric_shows_an_id_a_token_or_a_url(web: WebApp) -> None:
    url = await callback_url(web)
    await web.client.post(url, content=b'{"task_id": "id-of-the-task", "task_status": "processing"}')

    text = (await web.client.get("/metrics")).text

    assert url.rpartition("/")[2] not in text
    assert "id-of-the-task" not in text
    assert "://" not in text


async def test_a_call_to_kling_is_counted_by_its_operation_and_code(web: WebApp) -> None:
    job = {"endpoint": "images/generations", "body": {"prompt": "a bench"}}

    submitted = await web.client.post("/api/tasks", json=job)
    seen = await scrape(web)

    assert submitted.json()["state"] == "submitted"
    assert seen["kling_requests_total", "ok,create"] == 1
    assert seen["kling_request_seconds_count", ""] == 1
    assert seen["slots", "used,kling-v1,image"] == 1


async def test_pending_deliveries_and_held_routes_are_gauges(web: WebApp) -> None:
    hour_ago = web.clock.now() - timedelta(hours=1)
    events = [an_event(web.ids.new("evt"), type="task.processing") for _ in range(4)]
    routes = ["publish", "publish", "reply:a.example.com", "removed-long-ago"]
    await web.store.tasks.add(a_task(), b"", events=events)
    await web.store.tasks.add_events(
        [],
        [
            a_delivery(web.ids.new("dlv"), event_id=event.id, route=route, created_at=hour_ago)
            for event, route in zip(events, routes, strict=True)
        ],
    )
    await web.client.post("/api/routes/publish/hold", json={"why": "a test"})

    seen = await scrape(web)

    pending = {labels: value for (name, labels), value in seen.items() if name == "deliveries_pending"}
    assert pending == {"publish": 2, "reply": 1, "other": 1}
    assert seen["deliveries_oldest_pending_seconds", "publish"] == 3600
    assert seen["route_held", "publish"] == 1
    assert "a.example.com" not in (await web.client.get("/metrics")).text


async def test_the_dead_deliveries_of_a_route_begin_at_0(web: WebApp) -> None:
    seen = await scrape(web)

    assert {labels: value for (name, labels), value in seen.items() if name == "deliveries_total"} == {
        "dead,publish": 0
    }


async def test_a_total_of_the_store_survives_and_never_falls(web: WebApp) -> None:
    await web.store.totals.raise_to(Total.CALLBACKS_MISSED, 5)
    await web.store.totals.raise_to(Total.CALLBACKS_MISSED, 3)

    assert (await scrape(web))["callbacks_missed_total", ""] == 5


def test_the_metrics_library_is_imported_by_the_first_scrape() -> None:
    code = "import sys, receiver.service.bootstrap; print('prometheus_client' in sys.modules)"

    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ran.stdout == "False\n"


class SlowTotals:
    """Counts its reads, and answers each when ``gate`` is open."""

    def __init__(self) -> None:
        self.reads = 0
        self.gate = asyncio.Event()

    async def raise_to(self, total: Total, amount: float) -> None:
        raise NotImplementedError

    async def read(self) -> Mapping[Total, Mapping[str, float]]:
        raise NotImplementedError

    async def snapshot(self) -> StoreSnapshot:
        self.reads += 1
        await self.gate.wait()
        return StoreSnapshot(tasks={"queued": self.reads})


async def test_values_of_an_unresponsive_store_are_left_out_and_read_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("receiver.web.resources.metrics._MAX_WAIT_SECONDS", 0.01)
    totals = SlowTotals()
    cache = SnapshotCache(totals)

    found = await asyncio.gather(*(cache.get() for _ in range(5)), return_exceptions=True)
    totals.gate.set()
    late = await cache.get()

    assert found == [StoreSnapshot()] * 5
    assert late == await cache.get() == StoreSnapshot(tasks={"queued": 1})
    assert totals.reads == 1
