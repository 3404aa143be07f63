"""What a check is: one function with a name, which looks at an installation and returns its findings."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from inspect import iscoroutinefunction

from receiver.client import Client
from receiver.domain.clock import Clock
from receiver.domain.daemon_thread import run_in_daemon_thread
from receiver.domain.errors import ReceiverError
from receiver.domain.model import Json
from receiver.domain.redaction import Redactor
from receiver.settings import Settings

TIME_LIMIT = timedelta(seconds=5)
"""The longest a check may take."""

CALL_LIMIT = TIME_LIMIT - timedelta(milliseconds=500)
"""The longest a check may wait for another program, so that it can still say which one did not answer."""


class Status(StrEnum):
    """How serious a finding is."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a check found: what it means, and what to do. An empty *name* is the name of the check."""

    status: Status
    message: str
    remedy: str = ""
    details: Mapping[str, object] = field(default_factory=dict)
    name: str = ""


def ok(message: str, **details: object) -> Finding:
    """Return a finding that needs no action."""
    return Finding(status=Status.OK, message=message, details=details)


def warning(message: str, remedy: str, **details: object) -> Finding:
    """Return a finding that may cause trouble, or a check that could not be made."""
    return Finding(status=Status.WARNING, message=message, remedy=remedy, details=details)


def failed(message: str, remedy: str, **details: object) -> Finding:
    """Return a finding that stops something from working."""
    return Finding(status=Status.FAILED, message=message, remedy=remedy, details=details)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningService:
    """The running service, as far as it answers: its diagnostics, or why there are none."""

    client: Client | None = None
    diagnostics: Json = field(default_factory=dict)
    problem: ReceiverError | None = None

    @property
    def is_running(self) -> bool:
        """Whether the service has answered."""
        return bool(self.diagnostics)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The installation that is examined."""

    settings: Settings
    service: RunningService
    redactor: Redactor
    clock: Clock


Findings = Finding | Sequence[Finding]


@dataclass(frozen=True, slots=True)
class Check:
    """A named check. A plain function runs in a thread, because a dead network file system may block it."""

    name: str
    look: Callable[[Subject], Findings | Awaitable[Findings]]

    async def run(self, subject: Subject) -> Sequence[Finding]:
        """Return the findings. A check that takes too long is a warning, an unexpected error a failure."""
        try:
            async with asyncio.timeout(TIME_LIMIT.total_seconds()):
                found = await self._look(subject)
        except TimeoutError:
            found = warning(
                f"Not known: this check took longer than {TIME_LIMIT.total_seconds():g} s.",
                "Run `kling-receiver doctor` again. If it repeats, the network, the disk or the machine is too slow.",
            )
        except ReceiverError as exc:
            found = failed(exc.message, exc.remedy)
        except OSError as exc:
            found = failed(f"{exc.filename or 'A file'} cannot be read: {exc.strerror or exc}.", "Check its owner.")
        except Exception as exc:  # noqa: BLE001 -- the boundary of a check: the others must still report
            found = failed(f"This check ended with an error: {exc!r}.", "This is a fault of the program: report it.")
        found = (found,) if isinstance(found, Finding) else found
        return [replace(each, name=each.name or self.name) for each in found]

    async def _look(self, subject: Subject) -> Findings:
        if iscoroutinefunction(self.look):
            answer: Findings = await self.look(subject)
            return answer
        return await run_in_daemon_thread(lambda: self.look(subject), name=self.name)  # type: ignore[arg-type, return-value]  # a plain function
