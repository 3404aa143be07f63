"""`kling-receiver doctor` names the extras that are missing, and a collector of traces that cannot be reached."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from harness.clock import FakeClock
from harness.doctor import run_doctor
from harness.http_peers import http_peer, response
from harness.ports import free_port

from receiver.domain.redaction import Redactor
from receiver.service.doctor import extras
from receiver.service.doctor.check import Finding, RunningService, Status, Subject
from receiver.service.tracing import collector
from receiver.settings import ArchiveSettings, Settings, StoreSettings

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


def a_subject(folder: Path, *, archive: bool = False, **diagnostics: Any) -> Subject:
    settings = Settings(
        store=StoreSettings(url=f"sqlite:{folder / 'receiver.db'}"),
        archive=ArchiveSettings(dir=folder if archive else None),
    )
    return Subject(
        settings=settings,
        service=RunningService(diagnostics=diagnostics),
        redactor=Redactor(),
        clock=FakeClock(),
    )


async def examine_tracing(folder: Path, url: str | None, *installed: str) -> Finding:
    """Examine a running service that sends traces to *url*."""
    return await extras.tracing(a_subject(folder, extras=installed, traces_to=url))


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({ENDPOINT: "http://collector:4318"}, "http://collector:4318"),
        ({ENDPOINT: "http://one", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://two/v1"}, "https://two"),
        ({ENDPOINT: "https://user:hidden@collector/v1?key=hidden"}, "https://collector"),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "http://localhost:4318"),
        ({ENDPOINT: "http://collector:4318", "OTEL_SDK_DISABLED": "true"}, None),
    ],
)
def test_the_collector_is_the_one_of_the_standard_variables(environ: dict[str, str], expected: str | None) -> None:
    assert collector(environ) == expected


async def test_tracing_without_the_extra_fails_the_check(tmp_path: Path) -> None:
    found = await examine_tracing(tmp_path, "http://127.0.0.1:4318", "previews")

    assert found.status is Status.FAILED
    assert "`otel` is not installed" in found.message
    assert "kling-receiver[otel]" in found.remedy


async def test_a_collector_passes_only_if_it_accepts_connections(tmp_path: Path) -> None:
    async with http_peer(response(200, b"")) as peer:
        sound = await examine_tracing(tmp_path, peer.url, "otel")
    gone = await examine_tracing(tmp_path, f"http://127.0.0.1:{free_port()}", "otel")
    odd = await examine_tracing(tmp_path, "grpc://collector:4317", "otel")
    off = await examine_tracing(tmp_path, None)

    assert (sound.status, off.status) == (Status.OK, Status.OK)
    assert (gone.status, odd.status) == (Status.FAILED, Status.FAILED)
    assert "refused" in gone.message
    assert ENDPOINT in gone.remedy


def test_an_archive_without_the_extra_for_thumbnails_is_a_warning(tmp_path: Path) -> None:
    missing = extras.previews(a_subject(tmp_path, archive=True, extras=["otel"]))
    there = extras.previews(a_subject(tmp_path, archive=True, extras=["previews"]))
    off = extras.previews(a_subject(tmp_path, extras=[]))

    assert (missing.status, there.status, off.status) == (Status.WARNING, Status.OK, Status.OK)
    assert "kling-receiver[previews]" in missing.remedy


async def test_before_the_start_the_variables_of_the_shell_count(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[store]\nurl = "sqlite:receiver.db"\n[kling]\nbase_url = "http://127.0.0.1:9"\napi_key = "k"\n')
    url = f"http://127.0.0.1:{free_port()}"

    report = await asyncio.to_thread(run_doctor, config, environ={ENDPOINT: f"{url}/?token=hidden-token"})

    status, message, remedy = report.says("tracing")
    assert (status, "refused" in message, ENDPOINT in remedy) == ("failed", True, True)
    assert "hidden-token" not in report.text
