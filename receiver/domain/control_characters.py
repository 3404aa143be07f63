"""Characters that steer a terminal, or that hide or reorder the text around them. Pure.

Text from outside may contain them. People must see such characters instead of their effect.
"""

import re

CONTROL_CHARACTERS = re.compile(
    "["
    "\x00-\x1f\x7f-\x9f"  # C0 with escape, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f"  # direction: "gnp.exe" may look like "exe.png"
    "\u2028\u2029"  # line and paragraph separator
    "\u00ad\u180e\u200b\u2060-\u2065\ufeff\ufff9-\uffff\U000e0000-\U000e0fff"  # invisible; not the joiners of scripts
    "\ud800-\udfff"  # lone surrogates, which cannot be written
    "]"
)


def is_surrogate(character: str) -> bool:
    """Return whether a character is a lone surrogate, which no text in UTF-8 contains."""
    return "\ud800" <= character <= "\udfff"


def escape(character: str) -> str:
    r"""Return how Python writes a character: ``\x1b``, ``\u202e``, ``\U000e0001``."""
    return character.encode("unicode_escape").decode()


def escape_text(text: str, *, keep: str = "") -> str:
    """Return *text* with its control characters escaped, except those in *keep*."""
    return CONTROL_CHARACTERS.sub(lambda found: found[0] if found[0] in keep else escape(found[0]), text)


def escape_json(text: str) -> str:
    r"""Return a JSON text with its control characters as ``\u``: an equal JSON text, if it has no raw line breaks."""
    return CONTROL_CHARACTERS.sub(lambda found: found[0] if found[0] == "\n" else _json_escape(found[0]), text)


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
