"""`kling-receiver config`: checks the configuration and shows the effective settings."""

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
"""The form of a fault: its place, the key, what is wrong, and after a semicolon the fix."""


@config.command
def check(*, output: OutputOptions = OUTPUT) -> int:
    """Check the configuration; list every fault with its file, line and key."""
    from receiver.settings import load

    try:
        loaded = load(output.config)
    except ConfigurationError as error:
        if not output.json:
            raise
        render.print_json({"ok": False, "faults": [_parse_fault(text) for text in error.faults]})
        return CONFIGURATION
    source = str(loaded.path) if loaded.path else "the defaults"
    if output.json:
        render.print_json({"ok": True, "path": source, "warnings": list(loaded.warnings)})
        return OK
    for warning in loaded.warnings:
        render.notice(f"{warning}")
    names = [route.name for route in loaded.settings.routes]
    routes = f"routes: {', '.join(names)}" if names else "no routes"
    render.print_line(f"{source}: good ({routes})")
    return OK


@config.command
def show(*, output: OutputOptions = OUTPUT) -> int:
    """Show every setting and its origin: file, environment or default. Secrets are hidden."""
    from receiver.settings import effective_settings, load

    settings = [each._asdict() for each in effective_settings(load(output.config))]
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


def _parse_fault(text: str) -> Json:
    """Split the text of a fault into its parts; parts that it does not state are None."""
    match = _FAULT_PATTERN.fullmatch(text)
    parts = {} if match is None else match.groupdict()
    line = parts.get("line")
    return {
        "file": parts.get("file") or parts.get("whole_file"),
        "line": None if line is None else int(line),
        "variable": parts.get("variable"),
        "key": parts.get("key"),
        "message": parts.get("message") or text,
        "fix": parts.get("fix"),
    }
