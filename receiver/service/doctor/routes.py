"""The destinations of routes: a webhook's host can be reached, a script can be started. Nothing is sent or run."""

import asyncio
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from receiver.delivery.senders.notify import call_apprise
from receiver.delivery.senders.script import start_failure
from receiver.domain.errors import AddressBlocked, RequestNotSent
from receiver.domain.redaction import Redactor
from receiver.domain.secret import Secret
from receiver.net.reachability import reach
from receiver.net.ssrf_guard import OperatorGuard
from receiver.service.doctor.check import CALL_LIMIT, Finding, Subject, failed, ok, warning
from receiver.settings import NotifySettings, RouteSettings, ScriptSettings, WebhookSettings
from receiver.settings.notify import secret_parts, service_of
from receiver.settings.secrets import is_stand_in

_TRY = "Send a test event: `kling-receiver routes test {name}`."
_TEST = f"Then {_TRY[:1].lower()}{_TRY[1:]}"


async def destinations(subject: Subject) -> Sequence[Finding]:
    """Check that each route's destination could take an event now."""
    if not subject.settings.routes:
        return [
            warning(
                "No route is configured: results are stored and delivered nowhere.",
                "Add a [[routes]] table to the configuration, or read events with `kling-receiver events list`.",
            )
        ]
    return await asyncio.gather(*(_destination(route) for route in subject.settings.routes))


async def _destination(route: RouteSettings) -> Finding:
    if route.webhook:
        found = await _webhook(route.webhook, route.name)
    elif route.script:
        found = _script(route.script, route.name)
    elif route.notify:
        found = await _notify(route.notify, route.name)
    else:
        found = ok("This kind of destination is not checked.")
    return replace(found, name=f"routes.{route.name}")


async def _webhook(webhook: WebhookSettings, name: str) -> Finding:
    """Resolve the webhook's name, connect to it, and check its certificate."""
    if is_stand_in(webhook.url):
        return warning("Its URL could not be looked up here, so it was not tried.", _TRY.format(name=name))
    host = urlsplit(webhook.url).hostname or ""
    try:
        async with asyncio.timeout(CALL_LIMIT.total_seconds()):
            await reach(webhook.url, guard=OperatorGuard())
    except TimeoutError:
        return failed(
            f"{host} accepts no connection within {CALL_LIMIT.total_seconds():g} s.",
            f"Check that it runs, and the firewall in between. {_TEST.format(name=name)}",
            host=host,
        )
    except (RequestNotSent, AddressBlocked) as exc:
        return failed(
            exc.message,
            exc.remedy or f"Correct the route's `url`, or repair its server. {_TEST.format(name=name)}",
            host=host,
        )
    how = ", and its certificate is valid" if webhook.url.startswith("https:") else ""
    return ok(f"{host} accepts connections{how}.", host=host)


async def _notify(notify: NotifySettings, name: str) -> Finding:
    """Check that Apprise understands each URL. Nothing is sent."""
    services = ", ".join(notify.services)
    try:
        results = await call_apprise(notify.urls, time_limit=CALL_LIMIT, environ=os.environ, notification=None)
    except OSError as exc:
        return failed(f"Python could not be started: {exc.strerror}.", "Repair the installation.", services=services)
    for number, (url, result) in enumerate(zip(notify.urls, results, strict=True)):
        if result is None or not result.ok:
            why = "Apprise did not answer in time." if result is None else _without_parts(" ".join(result.log), notify)
            return failed(
                f"URL {number + 1} ({service_of(url)}) is not usable. {why}",
                f"Correct the route's `notify.urls`. {_TEST.format(name=name)}",
                services=services,
            )
    return ok(f"Apprise understands each URL: {services}. Nothing was sent.", services=services)


def _without_parts(text: str, notify: NotifySettings) -> str:
    return Redactor(part for url in notify.urls for part in secret_parts(url)).text(text)


def _script(script: ScriptSettings, name: str) -> Finding:
    """Check that the program, its folder and its interpreter exist and may be run."""
    program, path = script.command[0], _search_path(script)
    error = _start_error(script, path)
    if error is None:
        missing = _program_of_env(_program_file(script, path), path)
        if missing:
            return failed(
                f"{program} cannot be started: its first line runs `env {missing}`, and {missing} is not in {path}.",
                f"Install it, or write its absolute path into the first line. {_TEST.format(name=name)}",
                program=program,
            )
        return ok(f"{program} can be run.", program=program)
    # The first sentence says what is wrong, the others what to do.
    problem, _, remedy = start_failure(script, error, path=path).partition(". ")
    message = problem.replace(" was not started: ", " cannot be started: ", 1).removesuffix(".")
    return failed(f"{message}.", f"{remedy} {_TEST.format(name=name)}".lstrip(), program=program)


def _start_error(script: ScriptSettings, path: str) -> OSError | None:
    """Return the error with which the system would refuse to start the program; None if it would start it."""
    if script.cwd is not None and not (script.cwd.is_dir() and os.access(script.cwd, os.X_OK)):
        return FileNotFoundError()
    file = _program_file(script, path)
    if file is None or not os.access(file, os.F_OK):
        return FileNotFoundError()
    if not file.is_file() or not os.access(file, os.X_OK):
        return PermissionError()
    interpreter = next(iter(_first_words(file)), None)
    if interpreter is not None and not Path(interpreter).exists():
        return FileNotFoundError()
    return None if interpreter is None or os.access(interpreter, os.X_OK) else PermissionError()


def _program_file(script: ScriptSettings, path: str) -> Path | None:
    """Return the file of the program: as configured, or the first in the search path, executable ones first."""
    program = script.command[0]
    if "/" in program:
        return (script.cwd or Path()) / program
    if found := shutil.which(program, path=path):
        return Path(found)
    files = (Path(folder) / program for folder in path.split(os.pathsep))
    return next((file for file in files if file.exists()), None)


def _program_of_env(file: Path | None, path: str) -> str:
    """Return the program that a first line such as ``#!/usr/bin/env node`` does not find; else nothing."""
    words = _first_words(file) if file else []
    if not words or Path(words[0]).name != "env":
        return ""
    named = next((word for word in words[1:] if not word.startswith("-") and "=" not in word), "")
    return named if named and not shutil.which(named, path=path) else ""


def _first_words(file: Path) -> Sequence[str]:
    """Return the interpreter in a script's first line and its arguments; empty for another program or unreadable."""
    try:
        with file.open("rb") as opened:
            first = opened.readline(256)
    except OSError:
        return []
    # A carriage return stays: for the system it is part of the interpreter's name.
    line = first.removeprefix(b"#!").strip(b" \t\n") if first.startswith(b"#!") else b""
    return os.fsdecode(line).replace("\t", " ").split(" ") if line else []


def _search_path(script: ScriptSettings) -> str:
    """Return the PATH of the script, as far as it is known here: the service may have another one."""
    own = script.env.get("PATH")
    own = own.reveal() if isinstance(own, Secret) else own
    return own or os.environ.get("PATH") or os.defpath
