"""`kling-receiver config`: checks the configuration and shows the effective settings."""

from cyclopts import App

from receiver.cli import CONFIGURATION, OK, render
from receiver.cli.options import OUTPUT, OutputOptions
from receiver.domain.errors import ConfigurationError

config = App(name="config", help="Check and show the configuration.")


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
