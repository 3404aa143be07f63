"""A collector of traces over OTLP on this machine, in threads of its own."""

from dataclasses import dataclass
from typing import Any

from harness.chat_service import ChatService
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Span:
    """A span as it was exported."""

    name: str
    trace: str
    id: str
    parent: str
    attributes: dict[str, Any]
    links: list[str]
    failed: bool
    service: str


class OtlpCollector(ChatService):
    """Receives spans; ``spans`` are those so far."""

    def environ(self, **more: str) -> dict[str, str]:
        """Return the standard variables that export to this collector at once."""
        endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{self.address}", "OTEL_BSP_SCHEDULE_DELAY": "100"}
        return endpoint | more

    @property
    def spans(self) -> list[Span]:
        return [span for body in list(self.bodies) for span in _spans(body)]

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]


def _spans(body: bytes) -> list[Span]:
    request = ExportTraceServiceRequest()
    request.ParseFromString(body)
    return [
        Span(
            name=span.name,
            trace=span.trace_id.hex(),
            id=span.span_id.hex(),
            parent=span.parent_span_id.hex(),
            attributes={each.key: each.value.string_value or each.value.int_value for each in span.attributes},
            links=[link.trace_id.hex() for link in span.links],
            failed=span.status.code == 2,
            service=next(each.value.string_value for each in group.resource.attributes if each.key == "service.name"),
        )
        for group in request.resource_spans
        for scope in group.scope_spans
        for span in scope.spans
    ]
