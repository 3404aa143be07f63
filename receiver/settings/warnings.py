"""Finds settings that are valid but probably mistakes."""

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from receiver.domain import signing
from receiver.domain.secret import Secret
from receiver.settings.addresses import is_loopback
from receiver.settings.conditions import bare_operand, compares_with_quoted_key
from receiver.settings.paths import probe
from receiver.settings.routes import RouteSettings, ScriptSettings
from receiver.settings.secrets import STANDARD_PREFIX, unset_variable
from receiver.settings.sections import AdminSettings, KlingSettings, Settings
from receiver.settings.toml_document import Location
from receiver.settings.values import write_duration

SettingWarning: TypeAlias = tuple[Location, str]

_UNSAFE_CHARACTER = re.compile(r"[^A-Za-z0-9_./:-]")
_PLACEHOLDER = re.compile(r"\.{2,}|…|x{3,}|<.*>|(your|my)[-_ ]?(kling[-_ ]?)?(api[-_ ]?)?key|changeme", re.IGNORECASE)
_MIN_TOKEN = 16
_MIN_STANDARD_KEY = 24


def find_warnings(
    settings: Settings, values: Mapping[str, Any], environ: Mapping[str, str]
) -> Iterator[SettingWarning]:
    """Yield warnings about a valid configuration; *values* are its raw input."""
    yield from _key_warnings(settings.kling, values.get("kling", {}).get("api_key"), environ)
    if _is_unencrypted(settings.kling.base_url):
        yield ("kling", "base_url"), "is plain http to another machine, so the key is sent unencrypted; use https"
    yield from _public_url_warnings(settings.public.url)
    yield from _admin_warnings(settings.admin)
    yield from _time_warnings(settings)
    for number, secret in enumerate(settings.callbacks.signing_secrets):
        yield from _short_key_warning(secret, ("callbacks", "signing_secrets", number))
    if settings.archive.dir:
        yield from _folder_warnings(settings.archive.dir)
    if _is_unencrypted(settings.archive.storage.endpoint):
        yield (
            ("archive", "storage", "endpoint"),
            "is plain http to another machine, so results are sent unencrypted; use https",
        )
    if settings.gateway.secret:
        yield from _short_key_warning(settings.gateway.secret, ("gateway", "secret"))
    for number, route in enumerate(settings.routes):
        yield from _route_warnings(route, ("routes", number), environ)


def _key_warnings(kling: KlingSettings, raw: object, environ: Mapping[str, str]) -> Iterator[SettingWarning]:
    if kling.api_key:
        yield from _unusable_key_warning(kling.api_key)
    if kling.api_key or kling.access_key:
        return
    variable = unset_variable(raw, environ)
    why = f"the environment variable {variable} is not set" if variable else "no key is configured"
    yield (
        ("kling", "api_key"),
        f"{why}, so tasks cannot be submitted, confirmed or polled; callbacks are still accepted",
    )


def _unusable_key_warning(key: Secret) -> Iterator[SettingWarning]:
    """Warn of a key that Kling would only refuse with the first job."""
    text, at = key.reveal(), ("kling", "api_key")
    if _PLACEHOLDER.fullmatch(text):
        yield at, "is a placeholder, not a key; write the key from Kling's console"
    elif text.lower().startswith("bearer "):
        yield at, 'begins with "Bearer", which the receiver adds itself; write the key alone'


def _public_url_warnings(url: str) -> Iterator[SettingWarning]:
    if _is_unencrypted(url):
        yield ("public", "url"), "is plain http, so callbacks are sent unencrypted; use https with a proxy or tunnel"
    if urlsplit(url).path.rstrip("/").endswith("/callbacks"):
        yield (
            ("public", "url"),
            "ends in /callbacks, but the receiver adds /callbacks/{token} itself; write the part before /callbacks",
        )


def _admin_warnings(admin: AdminSettings) -> Iterator[SettingWarning]:
    if not is_loopback(admin.listen.host):
        yield (
            ("admin", "listen"),
            "is open to other machines, so the token is sent unencrypted; put an https proxy in front of it",
        )
    for name, token in (("token", admin.token), ("read_token", admin.read_token)):
        if token and len(token.reveal()) < _MIN_TOKEN:
            yield ("admin", name), f"is easy to guess; use at least {_MIN_TOKEN} characters, or leave it empty"
    for name, token in admin.tokens.items():
        if len(token.reveal()) < _MIN_TOKEN:
            yield ("admin", "tokens", name), f"is easy to guess; use at least {_MIN_TOKEN} characters"


def _time_warnings(settings: Settings) -> Iterator[SettingWarning]:
    poll, retention = settings.poll, settings.retention
    give_up, expire = write_duration(poll.give_up_after), write_duration(settings.callbacks.expire_after)
    if poll.stuck_after is not None and poll.stuck_after >= poll.give_up_after:
        length = write_duration(poll.stuck_after)
        yield (
            ("poll", "stuck_after"),
            f"({length}) is not shorter than give_up_after ({give_up}), so alert.task_stuck is never raised",
        )
    if settings.callbacks.expire_after < poll.give_up_after:
        yield (
            ("callbacks", "expire_after"),
            f"({expire}) is shorter than poll.give_up_after ({give_up}), so later callbacks are refused",
        )
    if retention.bodies > retention.events:
        bodies, events = write_duration(retention.bodies), write_duration(retention.events)
        yield ("retention", "bodies"), f"({bodies}) is longer than events ({events}); bodies are deleted with them"


def _is_unencrypted(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")


def _short_key_warning(secret: Secret, at: Location) -> Iterator[SettingWarning]:
    if secret.reveal().startswith(STANDARD_PREFIX) and len(signing.decode_key(secret)) < _MIN_STANDARD_KEY:
        yield at, f"is a short key; Standard Webhooks requires at least {_MIN_STANDARD_KEY} bytes after whsec_"


def _folder_warnings(folder: Path) -> Iterator[SettingWarning]:
    if unsafe := "".join(dict.fromkeys(_UNSAFE_CHARACTER.findall(str(folder)))):  # not allowed in a script's variable
        yield ("archive", "dir"), f"contains {unsafe!r}, so scripts get no KLING_ASSET_DIR"
    if problem := probe(folder).problem or _writing_problem(folder):
        yield ("archive", "dir"), problem


def _writing_problem(folder: Path) -> str:
    """Return why the current user cannot create files in *folder*, or folders up to it; empty if possible."""
    existing = next(each for each in (folder, *folder.parents) if probe(each).exists or each.is_symlink())
    if not existing.exists():
        return f"{folder} cannot be created: {existing} is a link to nothing; name another folder"
    if not existing.is_dir():
        return f"{folder} cannot be created: {existing} is a file; name another folder"
    if os.access(existing, os.W_OK | os.X_OK):
        return ""
    what = "cannot be written to" if existing == folder else f"cannot be created in {existing}"
    if os.statvfs(existing).f_flag & os.ST_RDONLY:
        return f"{folder} {what}: the file system is read-only; mount it writable, or name another folder"
    return f"{folder} {what} by this user; give the service's user the right to write, or name another folder"


def _route_warnings(route: RouteSettings, at: Location, environ: Mapping[str, str]) -> Iterator[SettingWarning]:
    if route.where and compares_with_quoted_key(route.where):
        yield (
            (*at, "where"),
            "compares with a \"word\" in double quotes, which JMESPath reads as a key; write text in 'single quotes'",
        )
    elif route.where and (name := bare_operand(route.where)):
        yield (*at, "where"), f"compares with {name}, which JMESPath reads as a key; write text in 'single quotes'"
    for kind, plural in (("batch", "batches"), ("report", "reports")):
        if kind in route.on and route.endpoints:
            yield (
                (*at, "endpoints"),
                f"never matches {plural}, which have no endpoint; add a separate route without `endpoints`",
            )
    yield from _retry_warnings(route, at)
    if route.webhook:
        for number, secret in enumerate(route.webhook.secret):
            yield from _short_key_warning(secret, (*at, "webhook", "secret", number))
        if _is_unencrypted(route.webhook.url) and route.webhook.headers:
            yield (
                (*at, "webhook", "url"),
                "is plain http to another machine, so its headers are sent unencrypted; use https",
            )
    if route.script:
        yield from _script_warnings(route.script, (*at, "script"), environ)


def _retry_warnings(route: RouteSettings, at: Location) -> Iterator[SettingWarning]:
    give_up, kind = write_duration(route.give_up_after), "webhook" if route.webhook else "script"
    destination = route.webhook or route.script
    if destination and destination.timeout >= route.give_up_after:
        length = write_duration(destination.timeout)
        yield (
            (*at, kind, "timeout"),
            f"({length}) is not shorter than give_up_after ({give_up}), so an attempt that times out is not retried",
        )
    if route.retry[0] >= route.give_up_after:
        first = write_duration(route.retry[0])
        yield (
            (*at, "retry"),
            f"begins with {first}, which is not shorter than give_up_after ({give_up}), so there is only one retry",
        )


def _script_warnings(script: ScriptSettings, at: Location, environ: Mapping[str, str]) -> Iterator[SettingWarning]:
    program = script.command[0]
    path = script.env.get("PATH", environ.get("PATH", os.defpath))
    if "/" in program and not (place := probe(Path(program))).is_file:
        yield (*at, "command"), place.problem or f"{program} is not a file; every attempt would fail"
    elif not shutil.which(program, path=path.reveal() if isinstance(path, Secret) else path):
        remedy = "make it executable (chmod +x)" if "/" in program else "write its absolute path"
        yield (*at, "command"), f"{program} cannot be run; {remedy}"
    if script.cwd and not (place := probe(script.cwd)).is_folder:
        yield (*at, "cwd"), place.problem or f"{script.cwd} is not a folder; every attempt would fail"
