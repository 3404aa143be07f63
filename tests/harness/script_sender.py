"""Run scripts through the sender, and look at the processes they leave."""

import json
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from harness.clock import START
from harness.factories import an_event
from msgspec.structs import replace

from receiver.delivery.senders.script import ScriptSender
from receiver.delivery.senders.sender import DeliveryRequest
from receiver.domain.model import Event, Failed, Outcome, Refused
from receiver.settings import ScriptSettings

SHORT_TIMEOUT = timedelta(milliseconds=300)
ENVELOPE = {
    "type": "task.succeed",
    "timestamp": "2026-11-22T10:00:00.000Z",
    "data": {
        "event_id": "evt_1",
        "status": "succeed",
        "task": {
            "id": "tsk_1",
            "kling_id": "867283741759111202",
            "external_task_id": "$(reboot); order #7/a",
            "endpoint": "images/multi-image2image",
        },
        "assets": [{"path": "/var/lib/archive/evt_1/0.png"}],
    },
}


def a_full_event(**changes: Any) -> Event:
    return an_event(envelope=json.dumps(ENVELOPE).encode(), **changes)


def a_delivery_request(**changes: Any) -> DeliveryRequest:
    return replace(DeliveryRequest(delivery_id="dlv_1", event=a_full_event(), attempt=1, at=START), **changes)


async def send_to_script(*command: str, request: DeliveryRequest | None = None, **settings: Any) -> Outcome:
    return await ScriptSender(ScriptSettings(command=command, **settings)).send(request or a_delivery_request())


async def run_shell(text: str, **settings: Any) -> Outcome:
    return await send_to_script("/bin/sh", "-c", text, **settings)


def expect_failed(outcome: Outcome) -> Failed:
    assert isinstance(outcome, Failed)
    return outcome


def expect_refused(outcome: Outcome) -> Refused:
    assert isinstance(outcome, Refused)
    return outcome


def is_gone(pid_file: Path) -> Callable[[], bool]:
    """Return whether the process that wrote its id there has ended; a zombie counts as ended."""

    def check() -> bool:
        try:
            stat = Path(f"/proc/{pid_file.read_text().strip()}/stat").read_text()
        except OSError:
            return pid_file.exists()
        return stat.rpartition(") ")[2].startswith("Z")

    return check


def children() -> set[str]:
    """The processes, also unburied ones, whose parent this process is."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(") ")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            found.add(stat.parent.name)
    return found
