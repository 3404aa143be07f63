"""Compares a store with the acknowledged writes after a kill, a power cut or a copy."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chaos import store_process

from receiver.domain.errors import ReceiverError
from receiver.domain.model import DeliveryStatus
from receiver.store.interfaces import ById
from receiver.store.sqlite import maintenance
from receiver.store.sqlite.store import SqliteStore

ALL = 1_000_000


@dataclass(slots=True)
class Findings:
    """Acknowledged writes that are missing, and other faults of the store."""

    lost: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.lost or self.faults)

    def __str__(self) -> str:
        return f"{len(self.lost)} lost {self.lost[:5]}, {len(self.faults)} faults {self.faults[:5]}"


def complete_lines(output: bytes) -> list[str]:
    """Split the workload's output into lines, without a truncated last one."""
    return [line.decode() for line in output.split(b"\n")[:-1]]


async def compare(path: Path, acknowledged: Sequence[str]) -> Findings:
    """Open the surviving store and look for every acknowledged write. The store must also accept new work."""
    findings = Findings()
    if not path.exists():  # noqa: ASYNC240  # the folder is in memory
        findings.lost += acknowledged
        return findings
    try:
        store = await SqliteStore.open(path, reserve=0)
    except ReceiverError as exc:
        findings.faults.append(f"does not open: {exc}")
        return findings
    try:
        findings.faults += maintenance.check(path) + _backup_faults(store_process.backup_path(path), acknowledged)
        findings.lost += await _lost(store, acknowledged)
        findings.faults += await _partial_writes(store)
        await store_process.add_tasks(store)
        await store.tasks.apply(ById(id="tsk_0"), store_process.decision_for(ALL))
        if await store.catalog.event(f"evt_{ALL:06}") is None:
            findings.faults.append("takes nothing new")
    finally:
        await store.aclose()
    return findings


def _backup_faults(copy: Path, acknowledged: Sequence[str]) -> list[str]:
    """Return the faults of the backup. A backup has its name only if it is complete, and a reported one must exist."""
    if copy.exists():
        return [f"the backup: {fault}" for fault in maintenance.check(copy)]
    return ["the backup is gone"] if "backed up" in acknowledged else []


async def _lost(store: SqliteStore, acknowledged: Sequence[str]) -> list[str]:
    """Return the acknowledged writes that are missing or differ."""
    events = {event.id: event for event in (await store.catalog.events(limit=ALL)).items}
    statuses = {
        view.delivery.id: (view.delivery.status, view.delivery.attempts)
        for view in (await store.catalog.deliveries(limit=ALL)).items
    }
    pushes = {
        push.id: push for number in range(store_process.TASKS) for push in await store.catalog.pushes(f"tsk_{number}")
    }
    lost = []
    for line in acknowledged:
        what, _, which = line.partition(" ")
        if what == "accepted":
            number = int(which)
            body = store_process.body_of(number)
            push, event = pushes.get(f"psh_{number:06}"), events.get(f"evt_{number:06}")
            kept = push is not None and push.body == body and event is not None and event.body == body
            if not kept or f"dlv_{number:06}" not in statuses:
                lost.append(line)
        elif what == "delivered" and statuses.get(which) != (DeliveryStatus.DELIVERED, 1):
            lost.append(line)
    return lost


async def _partial_writes(store: SqliteStore) -> list[str]:
    """Return partial writes: each counted push must have its row, its event and its delivery, and nothing else may
    exist."""
    faults, delivered = [], 0
    for number in range(store_process.TASKS):
        task = await store.catalog.task(f"tsk_{number}")
        if task is None:
            continue
        pushes = {push.id[-6:] for push in await store.catalog.pushes(task.id)}
        events = {event.id[-6:] for event in (await store.catalog.events(task_id=task.id, limit=ALL)).items}
        views = (await store.catalog.deliveries(task_id=task.id, limit=ALL)).items
        if not pushes == events == {view.delivery.id[-6:] for view in views} or len(pushes) != task.polling.count:
            faults.append(f"{task.id} has halves: {task.polling.count} {len(pushes)} {len(events)} {len(views)}")
        delivered += sum(view.delivery.status is DeliveryStatus.DELIVERED for view in views)
    attempts = (await store.stats())["attempts"]
    if attempts != delivered:
        faults.append(f"{delivered} are delivered, by {attempts} attempts")
    return faults
