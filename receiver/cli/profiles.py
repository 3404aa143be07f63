"""`kling-receiver profiles`: the services that have a name in the user's own configuration."""

import os

from cyclopts import App

from receiver.cli import OK, render
from receiver.cli.options import OUTPUT, OutputOptions
from receiver.domain.model import Json
from receiver.settings.profiles import PROFILE_VARIABLE, Profile, load_profiles, profiles_file
from receiver.settings.secrets import is_reference

profiles = App(name="profiles", help="List the services that have a name: --profile NAME.")

_COLUMNS = (
    render.id_column("name", "name"),
    render.id_column("url", "url", rank=1),
    render.column("token", rank=2),
    render.column("dialect", rank=3),
    render.Column(title="used", value=lambda each: "yes" if each["used"] else "", rank=2),
)
_HIDDEN = "***"
_OTHERS_MAY_READ = 0o044


@profiles.command(name="list")
def list_(*, output: OutputOptions = OUTPUT) -> int:
    """List the profiles of profiles.toml. Tokens are not shown, only where they are."""
    found = load_profiles(os.environ)
    path = profiles_file(os.environ)
    used = os.environ.get(PROFILE_VARIABLE)
    items = [_as_json(each, used=each.name == used) for each in found.values()]
    if any(each["token"] == _HIDDEN for each in items) and path and path.stat().st_mode & _OTHERS_MAY_READ:
        render.notice(f"Other users can read the tokens in {path}. To prevent it: chmod 600 {path}")
    if output.json:
        render.print_json({"file": str(path), "items": items})
    else:
        render.table(_COLUMNS, items, empty=f"No profiles. Add a table [NAME] with url and token to {path}.")
    return OK


def _as_json(profile: Profile, *, used: bool) -> Json:
    token = profile.token if not profile.token or is_reference(profile.token) else _HIDDEN
    return {
        "name": profile.name,
        "url": profile.url,
        "token": token,
        "dialect": profile.dialect.value,
        "used": used,
    }
