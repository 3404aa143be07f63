"""Kling's model versions: the ones known by name, and the one that a create requests."""

import re
from typing import Final

from receiver.domain.model import Generation, Json
from receiver.domain.slot_keys import OTHER_MODELS
from receiver.kling.endpoints import Endpoint

KNOWN_MODELS: Final = frozenset(
    {
        *("kling-v1", "kling-v1-5", "kling-v1-6", "kling-v2", "kling-v2-new", "kling-v2-master"),
        *("kling-v2-1", "kling-v2-1-master", "kling-v2-5-turbo", "kling-v2-6", "kling-v3", "kling-v3-omni"),
        *("kling-video-o1", "kling-image-o1", "kolors-virtual-try-on-v1", "kolors-virtual-try-on-v1-5"),
        *("kling-2.5-turbo", "kling-2.6", "kling-3.0", "kling-3.0-turbo", "kling-3.0-omni"),
    }
)
"""Models known by name. Any other name is accepted too."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def requested_model(endpoint: Endpoint, body: Json) -> str:
    """Return the model that a create requests, or the endpoint's default, or "" if neither is known.

    The new generation has it in the path, the legacy one in the body; gateways may call it ``model``. A name that no
    model can have is ``other``.
    """
    if endpoint.generation is Generation.NEW:
        named: object = endpoint.path.partition("/")[2]
    else:
        named = body.get("model_name") or body.get("model")
    if not named:
        return endpoint.default_model
    name = named.strip().lower() if isinstance(named, str) else ""
    return name if _NAME.fullmatch(name) else OTHER_MODELS


def is_model_name(name: str) -> bool:
    """Return whether a model can have this name."""
    return _NAME.fullmatch(name) is not None
