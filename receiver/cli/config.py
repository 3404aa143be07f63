"""`kling-receiver config`: checks, shows and reloads the configuration."""

import os
import signal
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from cyclopts import App

from receiver.cli import CONFIGURATION, OK, render
from receiver.cli.options import CLIENT, OUTPUT, ClientOptions, OutputOptions
from receiver.domain.errors import ConfigurationError, RequestFailed

config = App(name="config", help="Check, show and reload the configuration.")

_PID_VARIABLE = "MAINPID"
_SIGNAL_SECONDS = 15


@config.command
def check(*, output: OutputOptions = OUTPUT) -> int:
    """Check the configuration; list every fault with its file, line and key."""
    from receiver.settings import load
    from receiver.settings.diagnostics import parse_fault

    try:
        loaded = load(output.config, needs_secrets=False)
    except ConfigurationError as error:
        if not output.json:
            raise
        render.print_json({"ok": False, "faults": [parse_fault(text) for text in error.faults]})
        return CONFIGURATION
    from receiver.kling.route_globs import unmatched_globs

    warnings = [*loaded.warnings, *unmatched_globs(loaded)]
    source = str(loaded.path) if loaded.path else "the defaults"
    if output.json:
        unavailable = {"unavailable": list(loaded.unavailable)}
        render.print_json({"ok": True, "path": source, "warnings": warnings, **unavailable})
        return OK
    for warning in warnings:
        render.notice(f"{warning}")
    if loaded.unavailable:
        secrets = ", ".join(loaded.unavailable)
        render.notice(f"Could not be looked up here: {secrets}. The service must find these secrets at its start.")
    names = [route.name for route in loaded.settings.routes]
    routes = f"routes: {', '.join(names)}" if names else "no routes"
    render.print_line(f"{source}: good ({routes})")
    return OK


@config.command
def show(*, output: OutputOptions = OUTPUT) -> int:
    """Show every setting and its origin: file, environment or default. Secrets are hidden."""
    from receiver.settings import effective_settings, load

    settings = [each._asdict() for each in effective_settings(load(output.config, needs_secrets=False))]
    if output.json:
        render.print_json(settings)
        return OK
    columns = (render.id_column("key", "key"), render.column("value"), render.column("origin", "from", rank=2))
    render.table(columns, settings, empty="Nothing is set.")
    return OK


@config.command
def schema() -> int:
    """Print the configuration's JSON schema, for editors."""
    from receiver.settings import schema as settings_schema

    render.print_json(settings_schema())
    return OK


@config.command
def diff(*, output: ClientOptions = CLIENT) -> int:
    """Show what a reload would change in the running service, and what needs a restart."""
    _print_changes(_with_faults(lambda: _call(output, "diff")), output, would=True)
    return OK


@config.command
def reload(*, output: ClientOptions = CLIENT) -> int:
    """Let the running service read its configuration again; a fault changes nothing."""
    try:
        answer = _with_faults(lambda: _call(output, "reload"))
    except RequestFailed as error:
        if error.status != HTTPStatus.UNAUTHORIZED:
            raise
        refusal = error
        answer = _with_faults(lambda: _reload_by_signal(output, refusal))
    _print_changes(answer, output, would=False)
    return OK


def _call(output: ClientOptions, action: str) -> Mapping[str, Any]:
    with output.connect() as client:
        path = f"/api/config/{action}"
        return client.get(path) if action == "diff" else client.post(path, {})


def _with_faults(call: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    """Turn the answer about an invalid file into a ConfigurationError."""
    try:
        return call()
    except RequestFailed as error:
        if error.status != HTTPStatus.UNPROCESSABLE_ENTITY:
            raise
        render.notice("The service continues with its former configuration.")
        raise ConfigurationError(error.message.splitlines()) from error


def _reload_by_signal(output: ClientOptions, refusal: RequestFailed) -> Mapping[str, Any]:
    """Reload under systemd after the admin token was changed: the service does not know the new one yet."""
    pid = os.environ.get(_PID_VARIABLE, "")
    if not pid.isdigit():
        remedy = "If you changed [admin] token, reload with `systemctl reload kling-receiver`, or send SIGHUP."
        raise RequestFailed(refusal.message, remedy=remedy, status=refusal.status) from refusal
    os.kill(int(pid), signal.SIGHUP)
    ends_at = time.monotonic() + _SIGNAL_SECONDS
    while True:
        try:
            return _call(output, "reload")
        except RequestFailed as error:
            if error.status != HTTPStatus.UNAUTHORIZED or time.monotonic() > ends_at:
                raise
        time.sleep(0.1)


def _print_changes(answer: Mapping[str, Any], output: ClientOptions, *, would: bool) -> None:
    if output.json:
        render.print_json(answer)
        return
    for warning in answer["warnings"]:
        render.notice(warning)
    lines = [*_route_lines(answer), *(_setting_line(each) for each in answer["changed"])]
    for line in lines:
        render.print_line(line)
    if not lines:
        render.print_line("A reload would change nothing." if would else "Reloaded. Nothing has changed.")
    if answer["needs_restart"]:
        render.print_line("Not changed by a reload; restart the service for these:")
        for each in answer["needs_restart"]:
            render.print_line(f"  {_setting_line(each)}")


def _route_lines(answer: Mapping[str, Any]) -> list[str]:
    removed = [
        f"route {each['name']}: removed"
        + (
            f"; its {each['pending']} pending deliveries are kept, until a route has this name again"
            * bool(each["pending"])
        )
        for each in answer["routes_removed"]
    ]
    return [*(f"route {name}: added" for name in answer["routes_added"]), *removed]


def _setting_line(change: Mapping[str, Any]) -> str:
    if change["before"] is None and change["after"] is None:
        return f"{change['key']}: changed"
    return f"{change['key']}: {_text(change['before'])} -> {_text(change['after'])}"


def _text(value: object) -> str:
    return '""' if value in ("", None) else str(value)
