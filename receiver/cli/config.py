"""`kling-receiver config`: whether the configuration holds, and what it comes to."""

from cyclopts import App

from receiver.cli import OK, render
from receiver.cli.options import READING, Reading

config = App(name="config", help="Check and show the configuration.")


@config.command
def check(*, reading: Reading = READING) -> int:
    """Check the configuration; every fault is named at once, by file, line and key."""
    from receiver.settings import load

    loaded = load(reading.config)
    where = str(loaded.path) if loaded.path else "the defaults"
    if reading.json:
        render.as_json({"ok": True, "path": where, "warnings": list(loaded.warnings)})
        return OK
    for warning in loaded.warnings:
        render.note(f"{warning}")
    names = [route.name for route in loaded.settings.routes]
    routes = f"routes: {', '.join(names)}" if names else "no routes"
    render.line(f"{where}: good ({routes})")
    return OK


@config.command
def show(*, reading: Reading = READING) -> int:
    """Show every setting, and whether it is from the file, the environment or a default. Secrets stay hidden."""
    from receiver.settings import load, shown

    found = [each._asdict() for each in shown(load(reading.config))]
    if reading.json:
        render.as_json(found)
        return OK
    columns = (render.key("key"), render.key("value"), render.key("origin", "from"))
    render.table(columns, found, empty="Nothing is set.")
    return OK


@config.command
def schema() -> int:
    """Print the configuration's JSON schema, for an editor to check against."""
    from receiver.settings import schema as settings_schema

    render.as_json(settings_schema())
    return OK
