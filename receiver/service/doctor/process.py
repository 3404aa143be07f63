"""The process: whether the service runs, its versions, its limits and its fast parts.

While the service runs, its own limits count. Otherwise they are those of this command.
"""

import asyncio
import platform
import resource
from collections.abc import Sequence
from importlib.util import find_spec

from receiver import __version__
from receiver.domain.errors import ServiceUnreachable
from receiver.service.diagnostics import soft_limit
from receiver.service.doctor.check import Finding, Subject, failed, ok, warning
from receiver.settings import Address
from receiver.store.sqlite.examination import sqlite_version
from receiver.web.server.connections import ConnectionLimits
from receiver.web.server.file_limit import fit_limits

_ENOUGH_FILES, _FEW_FILES = 1024, 256
_ENOUGH_PROCESSES = 256
_LOOPBACK_OF = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 -- compared with the configuration, not bound
_FAST = {"event_loop": "uvloop", "http_parser": "httptools"}


def service(subject: Subject) -> Finding:
    """Check that the service runs, is ready, and is the installed version."""
    problem, known = subject.service.problem, subject.service.diagnostics
    if isinstance(problem, ServiceUnreachable):
        return warning(problem.message, problem.remedy)
    if problem is not None:
        return failed(
            f"The service does not answer this command: {problem.message}",
            problem.remedy or "Check [admin] listen and [admin] token: another program may listen there.",
        )
    details = {"version": known["version"], "started_at": known["started_at"]}
    if unmet := [check for check in known["checks"] if not check["ok"]]:
        reasons = "; ".join(f"{check['name']}: {check['reason']}" for check in unmet)
        return failed(f"The service runs and is not ready: {reasons}", "Look at its log.", **details)
    if known["version"] != __version__:
        return warning(
            f"The service still runs version {known['version']}; version {__version__} is installed.",
            "Restart the service.",
            **details,
        )
    return ok(f"The service runs since {known['started_at']} and is ready.", **details)


async def listeners(subject: Subject) -> Finding | Sequence[Finding]:
    """Check that no other program listens where the service will."""
    if subject.service.is_running:
        return ok("The service listens at both of its addresses.")
    settings = subject.settings
    addresses = {"public": settings.public.listen, "admin": settings.admin.listen}
    taken = [
        warning(
            f"Another program listens at {address}, the address in [{name}] listen. The service cannot start, "
            "unless that program is systemd with the service's own socket.",
            f"`ss -ltnp sport = :{address.port}` shows the program. Stop it, or set another address.",
            listener=name,
        )
        for name, address in addresses.items()
        if address.port and await _is_taken(address)
    ]
    return taken or ok("Both addresses of the service are free.")


async def _is_taken(address: Address) -> bool:
    host = _LOOPBACK_OF.get(address.host, address.host)
    try:
        async with asyncio.timeout(1):
            _, writer = await asyncio.open_connection(host, address.port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


def versions(subject: Subject) -> Finding:
    """Report the versions in use."""
    known = subject.service.diagnostics
    found = {
        "package": known.get("version", __version__),
        "python": known.get("python", platform.python_version()),
        "sqlite": known.get("sqlite", sqlite_version()),
    }
    return ok(
        f"kling-receiver {found['package']}, Python {found['python']}, SQLite {found['sqlite']}.",
        **found,
    )


def open_files(subject: Subject) -> Finding:
    """Check how many files may be open: every connection is one."""
    known = subject.service.diagnostics
    limit = known["open_files_limit"] if known else soft_limit(resource.RLIMIT_NOFILE)
    details = {"limit": limit, "open": known.get("open_files"), "of": _whose(subject)}
    if limit is None or limit >= _ENOUGH_FILES:
        return ok(f"{_whose(subject)} may have {_count(limit)} files open.", **details)
    connections = fit_limits(ConnectionLimits(), files=limit).connections
    judge = failed if limit < _FEW_FILES else warning
    return judge(
        f"{_whose(subject)} may have only {limit} files open. Each listener then accepts {connections} connections, "
        "and deliveries wait or fail.",
        "Raise the limit: `LimitNOFILE=65536` in the unit, `ulimit -n 65536` in a shell, `--ulimit nofile=65536` "
        "in Docker. Then restart the service.",
        **details,
    )


def processes(subject: Subject) -> Finding:
    """Check how many processes may run: each attempt of a script is at least one."""
    known = subject.service.diagnostics
    limit = known["processes_limit"] if known else soft_limit(resource.RLIMIT_NPROC)
    scripts = sum(route.concurrency for route in subject.settings.routes if route.script or route.notify)
    details = {"limit": limit, "scripts_at_once": scripts, "of": _whose(subject)}
    if limit is not None and limit < max(_ENOUGH_PROCESSES, 4 * scripts):
        return warning(
            f"{_whose(subject)} may have only {limit} processes, and up to {scripts} scripts run at once.",
            "Raise the limit: `LimitNPROC=` in the unit, `ulimit -u` in a shell. Or lower the routes' `concurrency`.",
            **details,
        )
    return ok(f"{_whose(subject)} may have {_count(limit)} processes.", **details)


def runtime(subject: Subject) -> Finding:
    """Check that the fast event loop and the fast HTTP parser are in use."""
    known = subject.service.diagnostics
    if not known:
        missing = [name for name in _FAST.values() if find_spec(name) is None]
        if missing:
            return failed(f"{' and '.join(missing)} is not installed.", "Install the package again: `make setup`.")
        return ok("uvloop and httptools are installed.")
    found = {name: known[name] for name in _FAST}
    if slow := [f"{found[name]} instead of {fast}" for name, fast in _FAST.items() if found[name] != fast]:
        return warning(f"The service uses {' and '.join(slow)}.", "Install the package again: `make setup`.", **found)
    return ok("The service uses uvloop and httptools.", **found)


def _whose(subject: Subject) -> str:
    return "The service" if subject.service.is_running else "This shell"


def _count(limit: int | None) -> str:
    return "any number of" if limit is None else str(limit)
