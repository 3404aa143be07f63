"""The metrics of a running service, and everything that names one."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from harness.http_client import plain_http
from harness.running_service import (
    Receiver,
    a_config,
    a_kling,
    a_receiver,
    a_script_route,
    a_sink,
    a_webhook_route,
    submit_task,
    wait_for_state,
)
from harness.waiting import wait_until
from prometheus_client.parser import text_string_to_metric_families as parse

PREFIX = "kling_receiver_"
DOCS = Path(__file__).parents[2] / "receiver" / "docs"
RULES = DOCS / "monitoring" / "rules.yml"
DASHBOARD = DOCS / "monitoring" / "dashboard.json"
RULE_CASES = Path(__file__).parents[1] / "data" / "alert_rules_test.yml"
PROMTOOL = shutil.which("promtool") or ""
READ_TOKEN = "made-up-read-token"
JOB = {"model_name": "kling-v1", "prompt": "a bench"}

Samples = Mapping[str, list[tuple[Mapping[str, str], float]]]

CONFIG = """
[archive]
dir = "results"
[network]
allow = ["127.0.0.0/8"]
[poll]
after = "500ms"
"""


def a_readable_config(kling: str, **more: str) -> str:
    """Return a configuration with a read token."""
    return a_config(kling, **more).replace("[admin]\n", f'[admin]\nread_token = "{READ_TOKEN}"\n')


async def scrape(receiver: Receiver) -> Samples:
    """Return the samples of each name, without the prefix."""
    headers = {"authorization": f"Bearer {READ_TOKEN}"}
    async with plain_http(base_url=receiver.admin, headers=headers, timeout=30) as client:
        answer = await client.get("/metrics")
    assert answer.status_code == 200, answer.text
    found: dict[str, list[tuple[Mapping[str, str], float]]] = {}
    for family in parse(answer.text):
        for sample in family.samples:
            found.setdefault(sample.name.removeprefix(PREFIX), []).append((sample.labels, sample.value))
    return found


def total(samples: Samples, name: str, **labels: str) -> float:
    """Sum the samples of a name that have these labels."""
    return sum(value for found, value in samples.get(name, []) if labels.items() <= found.items())


def documented() -> dict[str, tuple[str, set[str]]]:
    """Return each metric of the manual with its type and its labels."""
    text = (DOCS / "monitoring.md").read_text().partition("## Every metric")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|([^|]*)\|", text, re.MULTILINE)
    return {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def family_name(name: str) -> str:
    """Return the documented name of a sample or of a series in a query."""
    return re.sub(r"_(bucket|sum|count)$", "", name)


def queried(text: str) -> set[str]:
    """Return the metrics that queries name."""
    return {family_name(name) for name in re.findall(rf"\b{PREFIX}(\w+)", text)}


def dashboard_queries() -> Iterator[str]:
    """Yield each query of the dashboard."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]


async def test_each_documented_metric_is_measured_in_a_real_flow(tmp_path: Path) -> None:
    async with a_kling() as kling, a_sink() as sink, a_sink() as broken:
        broken.answer = lambda: 500
        routes = (
            a_webhook_route(sink)
            + a_script_route(tmp_path)
            + a_webhook_route(broken, name="broken", extra='retry = ["1h"]')
        )
        config = a_readable_config(kling.url, more=CONFIG + routes, kling_more="slots = { image = 9 }")
        async with a_receiver(tmp_path, config) as receiver, receiver.client() as client:
            task = await submit_task(client)
            await wait_for_state(client, task["id"], "succeed")
            await client.post("/kling/v1/images/generations", json=JOB)

            async def is_complete() -> bool:
                seen = await scrape(receiver)
                missing = documented().keys() - {family_name(name) for name in seen}
                return not missing and total(seen, "tasks", state="succeed") == 2

            await wait_until(is_complete, interval=0.5)
            seen = await scrape(receiver)

            assert {family_name(name) for name in seen} == documented().keys()
            for name, samples in seen.items():
                labels = {label for found, _ in samples for label in found} - {"le"}
                assert labels == documented()[family_name(name)][1], name
            assert total(seen, "attempts_total", route="hook", outcome="success") == 2
            assert total(seen, "attempts_total", route="script", outcome="success") == 2
            assert total(seen, "attempts_total", route="broken", outcome="http_5xx") >= 1
            assert total(seen, "kling_requests_total", operation="create", code="ok") == 2
            assert total(seen, "task_seconds_count", outcome="succeed") == 2
            assert total(seen, "callbacks_missed_total") == 0
            assert total(seen, "asset_bytes_total") > 0
            assert total(seen, "slots", kind="limit", pack="image", model="any") == 9
            assert total(seen, "spent_total") > 0


async def test_the_promised_counters_survive_a_restart(tmp_path: Path) -> None:
    async with a_kling(drop=1.0) as kling, a_sink() as sink:
        sink.answer = lambda: 410
        config = a_readable_config(kling.url, more='[poll]\nafter = "200ms"\nevery = "1s"\n' + a_webhook_route(sink))
        async with a_receiver(tmp_path, config) as receiver:
            async with receiver.client() as client:
                task = await submit_task(client)
                await wait_for_state(client, task["id"], "succeed")

            async def is_counted() -> bool:
                seen = await scrape(receiver)
                return total(seen, "callbacks_missed_total") == 1 and total(seen, "deliveries_total") == 1

            await wait_until(is_counted, interval=0.5)
            before = await scrape(receiver)
            await receiver.restart()
            after = await scrape(receiver)

    assert total(after, "callbacks_missed_total") == 1
    assert total(after, "deliveries_total", route="hook", outcome="dead") == 1
    assert total(after, "spent_total", unit="units") == total(before, "spent_total", unit="units") > 0
    assert "callback_seconds_count" not in after


async def test_without_a_public_url_missed_callbacks_are_not_measured(tmp_path: Path) -> None:
    async with a_kling() as kling:
        config = a_readable_config(kling.url, public_url="")
        async with a_receiver(tmp_path, config) as receiver:
            seen = await scrape(receiver)

    assert "build_info" in seen
    assert "callbacks_missed_total" not in seen


def test_the_rules_and_the_dashboard_name_only_documented_metrics() -> None:
    in_rules, in_dashboard = queried(RULES.read_text()), queried("\n".join(dashboard_queries()))

    assert len(in_rules) > 5
    assert in_rules - documented().keys() == set()
    assert in_dashboard == documented().keys()


def test_each_query_uses_a_series_of_the_metrics_type() -> None:
    texts = [RULES.read_text(), *dashboard_queries()]

    for name in {name for text in texts for name in re.findall(rf"\b{PREFIX}(\w+)", text)}:
        kind, _ = documented()[family_name(name)]
        assert name.endswith("_bucket") == (kind == "histogram"), name
        assert name.endswith("_total") == (kind == "counter"), name


@pytest.mark.skipif(not PROMTOOL, reason="needs promtool, of the package prometheus")
def test_prometheus_accepts_the_rules() -> None:
    checked = subprocess.run([PROMTOOL, "check", "rules", RULES], capture_output=True, text=True, check=False)

    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.skipif(not PROMTOOL, reason="needs promtool, of the package prometheus")
def test_each_rule_raises_its_alert_and_a_healthy_service_raises_none(tmp_path: Path) -> None:
    cases = shutil.copy(RULE_CASES, tmp_path)
    shutil.copy(RULES, tmp_path)

    tested = subprocess.run([PROMTOOL, "test", "rules", cases], capture_output=True, text=True, check=False)

    assert tested.returncode == 0, tested.stdout + tested.stderr
    rules = set(re.findall(r"- alert: (\w+)", RULES.read_text()))
    assert {name for name in rules if name not in RULE_CASES.read_text()} == set()
