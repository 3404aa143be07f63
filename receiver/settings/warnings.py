"""What the configuration allows and its author has probably not meant: warnings, not faults."""

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from receiver.domain import signing
from receiver.domain.model import Secret
from receiver.settings.addresses import is_loopback
from receiver.settings.conditions import compares_with_quoted_key
from receiver.settings.paths import probe
from receiver.settings.routes import RouteSettings, ScriptSettings
from receiver.settings.secrets import STANDARD_PREFIX, unset_variable
from receiver.settings.sections import KlingSettings, Settings
from receiver.settings.toml_document import Location

SettingWarning: TypeAlias = tuple[Location, str]

_UNSAFE_CHARACTER = re.compile(r"[^A-Za-z0-9_./:-]")
_MIN_TOKEN = 16
_MIN_STANDARD_KEY = 24


def find_warnings(
    settings: Settings, values: Mapping[str, Any], environ: Mapping[str, str]
) -> Iterator[SettingWarning]:
    """Look over a configuration that holds; *values* are what it was read from."""
    yield from _missing_key_warning(settings.kling, values.get("kling", {}).get("api_key"), environ)
    if _is_unencrypted(settings.kling.base_url):
        yield ("kling", "base_url"), "is plain http beyond this machine; the key travels in the clear, so use https"
    if _is_unencrypted(settings.public.url):
        yield ("public", "url"), "is plain http; callbacks travel in the clear, so let a proxy or tunnel give it https"
    if not is_loopback(settings.admin.listen.host):
        yield (
            ("admin", "listen"),
            "is open to other machines; the token travels in the clear, so put a proxy with https before it",
        )
    if settings.admin.token and len(settings.admin.token.reveal()) < _MIN_TOKEN:
        yield ("admin", "token"), f"is easy to guess; give {_MIN_TOKEN} characters or more, or leave it empty"
    for number, secret in enumerate(settings.callbacks.signing_secrets):
        yield from _short_key_warning(secret, ("callbacks", "signing_secrets", number))
    if settings.archive.dir:
        yield from _folder_warnings(settings.archive.dir)
    if _is_unencrypted(settings.archive.storage.endpoint):
        yield ("archive", "storage", "endpoint"), "is plain http beyond this machine; results travel in the clear"
    if settings.gateway.secret:
        yield from _short_key_warning(settings.gateway.secret, ("gateway", "secret"))
    for number, route in enumerate(settings.routes):
        yield from _route_warnings(route, ("routes", number), environ)


def _missing_key_warning(kling: KlingSettings, raw: object, environ: Mapping[str, str]) -> Iterator[SettingWarning]:
    if kling.api_key or kling.access_key:
        return
    variable = unset_variable(raw, environ)
    why = f"the environment variable {variable} is not set" if variable else "there is no key"
    yield (
        ("kling", "api_key"),
        f"{why}, so nothing can be submitted, confirmed or polled with a key of ours; callbacks are taken all the same",
    )


def _is_unencrypted(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")


def _short_key_warning(secret: Secret, at: Location) -> Iterator[SettingWarning]:
    if secret.reveal().startswith(STANDARD_PREFIX) and len(signing.decode_key(secret)) < _MIN_STANDARD_KEY:
        yield at, f"is a short key; Standard Webhooks wants {_MIN_STANDARD_KEY} bytes and more after whsec_"


def _folder_warnings(folder: Path) -> Iterator[SettingWarning]:
    if strange := "".join(
        dict.fromkeys(_UNSAFE_CHARACTER.findall(str(folder)))
    ):  # what no variable of a script carries
        yield ("archive", "dir"), f"has {strange!r}, so KLING_ASSET_DIR stays empty"
    if hidden := probe(folder).problem:
        yield ("archive", "dir"), hidden


def _route_warnings(route: RouteSettings, at: Location, environ: Mapping[str, str]) -> Iterator[SettingWarning]:
    if route.where and compares_with_quoted_key(route.where):
        yield (*at, "where"), "compares with a \"word\" in double quotes, which is a key to JMESPath; text is 'so'"
    if "batch" in route.on and route.endpoints:
        yield (*at, "endpoints"), "keeps batches out, which are of no one endpoint; give them a route without endpoints"
    if route.webhook:
        for number, secret in enumerate(route.webhook.secret):
            yield from _short_key_warning(secret, (*at, "webhook", "secret", number))
        if _is_unencrypted(route.webhook.url) and route.webhook.headers:
            yield (*at, "webhook", "url"), "is plain http beyond this machine; its headers travel in the clear"
    if route.script:
        yield from _script_warnings(route.script, (*at, "script"), environ)


def _script_warnings(script: ScriptSettings, at: Location, environ: Mapping[str, str]) -> Iterator[SettingWarning]:
    program = script.command[0]
    path = script.env.get("PATH", environ.get("PATH", os.defpath))
    if "/" in program and not (place := probe(Path(program))).is_file:
        yield (*at, "command"), place.problem or f"{program} is no file; every attempt would fail"
    elif not shutil.which(program, path=path.reveal() if isinstance(path, Secret) else path):
        remedy = "make it executable (chmod +x)" if "/" in program else "give its whole path"
        yield (*at, "command"), f"{program} cannot be run; {remedy}"
    if script.cwd and not (place := probe(script.cwd)).is_folder:
        yield (*at, "cwd"), place.problem or f"{script.cwd} is no folder; every attempt would fail"
