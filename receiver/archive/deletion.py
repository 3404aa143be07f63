"""Deletes ended tasks on request, and then the files and objects of their results if that is wanted.

The store deletes a task in one transaction, which also plans the removals. So a crash in between leaves the whole task,
or none of it and removals that the next start completes.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec
import structlog

from receiver.archive.partial_file import remove_empty_folder
from receiver.domain.audit import AuditEntry
from receiver.domain.clock import Clock
from receiver.domain.daemon_thread import run_in_daemon_thread
from receiver.domain.errors import Conflict, FileNotStored, NotFound, StoreUnavailable
from receiver.domain.model import TaskState
from receiver.store.interfaces import DeletionStore, StoredTask

log = structlog.get_logger()

RETRY_EVERY = timedelta(minutes=10)
"""How often removals that failed are tried again."""

_ENDED = (TaskState.SUCCEED, TaskState.FAILED, TaskState.REJECTED, TaskState.EXPIRED)
_REMEDIES = {
    TaskState.QUEUED: "Cancel it first: `kling-receiver tasks cancel {id}`.",
    TaskState.AWAITING: "It is deleted by itself after its callback URL has expired; see [retention] events.",
}
_WAIT = "Wait for its end: `kling-receiver tasks wait {id}`."
_OBJECT, _THUMBNAILS = "s3://", "thumbnails:"


class PreviewRemover(Protocol):
    """Removes thumbnails."""

    async def remove(self, task_id: str) -> None:
        """Remove the thumbnails of a task."""
        ...


class ObjectRemover(Protocol):
    """Removes archived objects."""

    async def remove(self, url: str) -> None:
        """Remove an object. Raises FileNotStored."""
        ...


class Deletion(msgspec.Struct, frozen=True, kw_only=True):
    """A deleted task, or one that would be deleted: what was stored about it, and the archived results that remain."""

    stored: StoredTask
    removed: Sequence[str] = ()
    left: Sequence[str] = ()


class TaskDeleter:
    """Deletes ended tasks. Without *objects*, results in the object store remain."""

    def __init__(
        self, store: DeletionStore, *, objects: ObjectRemover | None, previews: PreviewRemover, clock: Clock
    ) -> None:
        self._store = store
        self._objects = objects
        self._previews = previews
        self._clock = clock

    async def preview(self, task_id: str, *, results: bool) -> Deletion:
        """Return what would be deleted. Raises NotFound, and Conflict if the task must not be deleted."""
        stored = await self._store.stored(task_id)
        if stored is None:
            raise _not_found(task_id)
        check_deletable(stored)
        return self._deletion(stored, results=results)

    async def delete(self, task_id: str, *, results: bool, actor: str, reason: str) -> Deletion:
        """Delete a task, and with *results* its archived files and objects. Raises NotFound and Conflict."""
        now = self._clock.now()
        action = AuditEntry(at=now, actor=actor, verb="task.deleted", subject=task_id, reason=reason)
        thumbnails = _THUMBNAILS + task_id

        def places(found: StoredTask) -> Sequence[str]:
            return [thumbnails, *self._removable(found, results=results)]

        stored = await self._store.delete(task_id, check=check_deletable, places=places, action=action)
        if stored is None:
            raise _not_found(task_id)
        log.warning("task.deleted", task=task_id, actor=actor, why=reason, results=results)
        planned = self._deletion(stored, results=results)
        failed = await self._remove([thumbnails, *planned.removed])
        removed = [place for place in planned.removed if place not in failed]
        return Deletion(stored=stored, removed=removed, left=[*planned.left, *failed])

    async def run(self, stop: asyncio.Event) -> None:
        """Complete the removals that an earlier process or an error left, until *stop*."""
        while not stop.is_set():
            try:
                await self._remove(list(await self._store.removals()))
            except StoreUnavailable as exc:
                log.warning("removals.delayed", reason=exc.message)
            await self._clock.wait(stop, until=self._clock.now() + RETRY_EVERY)

    def _removable(self, stored: StoredTask, *, results: bool) -> Sequence[str]:
        if not results:
            return ()
        return (*stored.files, *stored.objects) if self._objects is not None else stored.files

    def _deletion(self, stored: StoredTask, *, results: bool) -> Deletion:
        removed = self._removable(stored, results=results)
        left = [place for place in (*stored.files, *stored.objects) if place not in removed]
        return Deletion(stored=stored, removed=removed, left=left)

    async def _remove(self, places: Sequence[str]) -> Sequence[str]:
        """Remove files and objects. Return those that could not be removed."""
        done = []
        for place in places:
            try:
                await self._remove_one(place)
            except (FileNotStored, OSError) as exc:
                log.warning("result.not_removed", place=place, reason=str(exc))
                continue
            done.append(place)
        if done:
            await self._store.removed(done)
        return [place for place in places if place not in done]

    async def _remove_one(self, place: str) -> None:
        if place.startswith(_THUMBNAILS):
            await self._previews.remove(place.removeprefix(_THUMBNAILS))
        elif not place.startswith(_OBJECT):
            await run_in_daemon_thread(partial(_unlink, Path(place)), name="removal")
        elif self._objects is None:
            raise FileNotStored("No object store is configured.", remedy="Set [archive.storage].")
        else:
            await self._objects.remove(place)


def check_deletable(stored: StoredTask) -> None:
    """Raise Conflict if a task must not be deleted, with what to do first."""
    task = stored.task
    if task.state not in _ENDED:
        remedy = _REMEDIES.get(task.state, _WAIT).format(id=task.id)
        raise Conflict(f"Task {task.id} is {task.state}. Only a task that has ended can be deleted.", remedy=remedy)
    if stored.is_batch_unfinished:
        wait = f"`kling-receiver batches wait {task.batch}`"
        close = f"Close it, and wait for its end: `kling-receiver batches close {task.batch}`, then {wait}."
        remedy = close if stored.is_batch_open else f"Wait for its end: {wait}."
        raise Conflict(f"Task {task.id} is in batch {task.batch}, which has not finished.", remedy=remedy)
    if stored.archiving:
        remedy = f"Wait until they are: `kling-receiver tasks wait {task.id}`."
        raise Conflict(f"The results of task {task.id} are not all archived yet.", remedy=remedy)


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)
    remove_empty_folder(path.parent)


def _not_found(task_id: str) -> NotFound:
    return NotFound(f"There is no task {task_id[:64]!r}.")
