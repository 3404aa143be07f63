"""`kling-receiver config`: whether the configuration holds, and what it comes to."""

import re

from cyclopts import App

from receiver.cli import CONFIGURATION, OK, render
from receiver.cli.options import OUTPUT, OutputOptions
from receiver.domain.errors import ConfigurationError
from receiver.domain.model import Json

config = App(name="config", help="Check and show the configuration.")

_FAULT_PATTERN = re.compile(
    r"(?:(?P<file>.+?):(?P<line>[0-9]+): |(?P<variable>[A-Z_]\w*): |(?P<whole_file>[^\"]+?): )?"
    r"(?:(?P<key>[a-z]\w*(?:\.[\w-]+)*): )?"
    r'(?P<message>(?:"[^"]*"|.)+?)(?:; (?P<fix>.+))?',
    re.DOTALL,
)
"""How a fault is written: where it is, which key, what is wrong, and after a semicolon how to mend it."""


@config.command
def check(*, output: OutputOptions = OUTPUT) -> int:
    """Check the configuration; every fault is named at once, by file, line and key."""
    from receiver.settings import load

    try:
        loaded = load(output.config)
    except ConfigurationError as error:
        if not output.json:
            raise
        render.print_json({"ok": False, "faults": [_parse_fault(text) for text in error.faults]})
        return CONFIGURATION
    where = str(loaded.path) if loaded.path else "the defaults"
    if output.json:
        render.print_json({"ok": True, "path": where, "warnings": list(loaded.warnings)})
        return OK
    for warning in loaded.warnings:
        render.notice(f"{warning}")
    names = [route.name for route in loaded.settings.routes]
    routes = f"routes: {', '.join(names)}" if names else "no routes"
    render.print_line(f"{where}: good ({routes})")
    return OK


@config.command
def show(*, output: OutputOptions = OUTPUT) -> int:
    """Show every setting, and whether it is from the file, the environment or a default. Secrets stay hidden."""
    from receiver.settings import effective_settings, load

    found = [each._asdict() for each in effective_settings(load(output.config))]
    if output.json:
        render.print_json(found)
        return OK
    columns = (render.id_column("key", "key"), render.column("value"), render.column("origin", "from", rank=2))
    render.table(columns, found, empty="Nothing is set.")
    return OK


@config.command
def schema() -> int:
    """Print the configuration's JSON schema, for an editor to check against."""
    from receiver.settings import schema as settings_schema

    render.print_json(settings_schema())
    return OK


def _parse_fault(text: str) -> Json:
    """Take a fault apart for a program, as far as it is told."""
    found = _FAULT_PATTERN.fullmatch(text)
    told = {} if found is None else found.groupdict()
    line = told.get("line")
    return {
        "file": told.get("file") or told.get("whole_file"),
        "line": None if line is None else int(line),
        "variable": told.get("variable"),
        "key": told.get("key"),
        "message": told.get("message") or text,
        "fix": told.get("fix"),
    }
