"""When traces are made, and what a missing extra or a broken context does."""

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path

import pytest
from harness.factories import a_task
from harness.fake_inbox import TOKEN, FakeInbox
from harness.logs import capture_logs
from harness.sqlite_template import open_store
from opentelemetry.sdk.trace import TracerProvider

from receiver.domain.clock import token_hash
from receiver.domain.request_id import begin_request, current_request
from receiver.domain.tracing import NO_TRACER, current_traceparent, trace_headers
from receiver.service.open_telemetry import OpenTelemetryTracing, open_tracing
from receiver.service.tracing import NO_TRACING, is_requested
from receiver.store.sqlite.store import SqliteStore
from receiver.tracking.parsed_push import Callback

FIRST = f"00-{'a' * 32}-{'b' * 16}-01"


class Absent:
    """A finder that knows a package not to be installed."""

    def __init__(self, name: str) -> None:
        self._name = name

    def find_spec(self, name: str, *_: object) -> None:
        if f"{name}.".startswith(f"{self._name}."):
            raise ModuleNotFoundError(name)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = await open_store(tmp_path / "receiver.db")
    async with aclosing(store):
        yield store


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "console, OTLP"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, False),
        ({"OTEL_SDK_DISABLED": "TRUE", "OTEL_TRACES_EXPORTER": "otlp"}, False),
        ({"OTEL_SERVICE_NAME": "kling"}, False),
    ],
)
def test_the_standard_variables_decide(environ: dict[str, str], expected: bool) -> None:
    assert is_requested(environ) is expected


@pytest.mark.parametrize("missing", ["opentelemetry", "opentelemetry.sdk", "opentelemetry.exporter"])
async def test_without_the_extra_a_warning_says_how_to_install_it(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    for name in [name for name in sys.modules if f"{name}.".startswith(f"{missing}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Absent(missing), *sys.meta_path])

    with capture_logs() as logs:
        async with open_tracing(store.traces, {"OTEL_TRACES_EXPORTER": "otlp"}) as tracing:
            assert tracing is NO_TRACING

    (line,) = logs
    assert (line["event"], line["log_level"]) == ("tracing.off", "warning")
    assert "make otel" in line["remedy"]


async def test_a_variable_that_is_not_valid_turns_tracing_off(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = {"OTEL_TRACES_EXPORTER": "otlp"}
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "0")

    with capture_logs() as logs:
        async with open_tracing(store.traces, environ) as tracing:
            assert tracing is NO_TRACING

    assert [line["event"] for line in logs] == ["tracing.off"]


async def test_without_tracing_a_span_does_nothing(store: SqliteStore) -> None:
    async with open_tracing(store.traces, {}) as tracing, tracing.tracer.span("download", "tsk_1", number=1):
        assert tracing.tracer is NO_TRACER
        assert trace_headers() == {}
        assert tracing.submit_store(store.tasks) is store.tasks


def test_the_current_trace_is_a_header() -> None:
    token = current_traceparent.set(FIRST)
    try:
        assert trace_headers() == {"traceparent": FIRST}
    finally:
        current_traceparent.reset(token)


async def test_the_first_trace_of_a_task_is_kept_as_long_as_the_task(store: SqliteStore) -> None:
    await store.tasks.add(a_task(), b"{}")

    await store.traces.save("tsk_1", FIRST)
    await store.traces.save("tsk_1", FIRST.replace("a", "c"))

    assert await store.traces.find("tsk_1") == FIRST
    assert await store.traces.find("tsk_2") is None


class RequestInbox(FakeInbox):
    """Records the number of each callback's request."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[int] = []

    async def accept_callback(self, token: str, headers: Sequence[tuple[str, str]], body: bytes) -> bool:
        self.requests.append(current_request())
        return await super().accept_callback(token, headers, body)


async def test_traced_callbacks_of_one_moment_keep_their_request_ids(store: SqliteStore) -> None:
    inbox = RequestInbox()
    traced = OpenTelemetryTracing(TracerProvider(), store.traces).callbacks(inbox)
    callbacks = [
        Callback(token=TOKEN, token_hash=token_hash(TOKEN), headers=(), body=b"{}", request=begin_request())
        for _ in range(3)
    ]

    assert list(await traced.accept_callbacks(callbacks)) == [True] * 3
    assert inbox.requests == [each.request for each in callbacks]
