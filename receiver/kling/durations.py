"""How long Kling works on a task: what tasks of equal duration have in common, and a guess for each endpoint."""

from datetime import timedelta
from typing import Final

from receiver.domain.model import Json
from receiver.kling.endpoints import Endpoint

_MEMBERS: Final = ("model_name", "mode", "duration", "resolution")
_MAX_VALUE = 40
_VIDEO, _IMAGE, _OTHER = timedelta(seconds=90), timedelta(seconds=25), timedelta(seconds=10)


def duration_kind(body: Json) -> str:
    """Return what the body of a create says about how long its task takes: the model, and the members that matter."""
    settings = body.get("settings")  # of the new generation
    fields = body | settings if isinstance(settings, dict) else body
    values = [fields.get(member) for member in _MEMBERS]
    return " ".join(str(value)[:_MAX_VALUE] for value in values if isinstance(value, str | int | float))


def typical_duration(endpoint: Endpoint | None) -> timedelta:
    """Return a guess of how long a task takes at an endpoint that no task is known of."""
    if endpoint is None:
        return _OTHER
    return {"video": _VIDEO, "image": _IMAGE}.get(endpoint.pack or "", _OTHER)
