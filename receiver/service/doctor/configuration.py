"""The configuration: every error and every warning, by file, line and key."""

from collections.abc import Sequence
from dataclasses import replace

from receiver.domain.errors import ConfigurationError
from receiver.domain.model import Json
from receiver.service.doctor.check import Finding, failed, ok, warning
from receiver.settings import Loaded
from receiver.settings.diagnostics import parse_fault

NAME = "configuration"


def errors(error: ConfigurationError) -> Sequence[Finding]:
    """Return each error of a configuration that cannot be used."""
    return _findings(error, "Then run `kling-receiver doctor` again, for the other checks.")


def missing_secrets(error: ConfigurationError) -> Sequence[Finding]:
    """Return each secret that a configuration refers to and that cannot be looked up here."""
    return _findings(error, "If only the service has it, run `kling-receiver doctor` in the service's environment.")


def _findings(error: ConfigurationError, next_step: str) -> Sequence[Finding]:
    found = []
    for text in error.faults:
        fault = parse_fault(text)
        fix = fault["fix"] or "correct it"
        message = text.removesuffix(f"; {fault['fix']}")
        remedy = f"{fix[:1].upper()}{fix[1:]}. {next_step}"
        found.append(replace(failed(f"{message}.", remedy, **_place(fault)), name=NAME))
    return found


def warnings(loaded: Loaded) -> Sequence[Finding]:
    """Return each setting that is valid and probably a mistake."""
    path = str(loaded.path) if loaded.path else None
    if not loaded.warnings:
        return [replace(ok(f"{path or 'The defaults'}: valid, without warnings.", file=path), name=NAME)]
    remedy = "Correct this setting. `kling-receiver docs configuration` explains each key."
    return [replace(warning(f"{text}.", remedy, **_place(parse_fault(text))), name=NAME) for text in loaded.warnings]


def _place(fault: Json) -> Json:
    return {name: fault[name] for name in ("file", "line", "variable", "key")}
