"""The members of a create's body that are strings, even if their value looks like a number. Pure.

Kling refuses a number there. A prompt may be ``2024``. Kling's own documentation writes a video's duration as
``"5"``, and a voice's id as digits.
"""

import re
from typing import Final

from receiver.domain.model import Generation
from receiver.kling.endpoints import Endpoint

_TEXT: Final = re.compile(
    r"(?:.+_)?(?:prompt|text|description|name|title|url|image|mask)"
    r"|(?:session|task|video|audio|voice|external_task)_id"
    r"|image_tail|image_reference|aspect_ratio|resolution|mode|style|sound|type|.+_type|.+_language"
    r"|effect_scene|keep_original_sound|character_orientation"
)
"""Members that are text at every endpoint."""


def is_text(endpoint: Endpoint, path: str) -> bool:
    """Return whether the member at a dotted path, such as ``input.duration``, is text."""
    name = path.rpartition(".")[2]
    if name == "duration":  # seconds as text in the legacy generation's videos, a number elsewhere
        return endpoint.generation is Generation.LEGACY and endpoint.path.startswith("videos/")
    return _TEXT.fullmatch(name) is not None
