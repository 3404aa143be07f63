"""A create's body as it is kept once Kling has it: all that a person may want to see, and no megabytes of pictures."""

import hashlib
import json

from receiver.kling.ballast import Lightened, lighten

LONGEST = 1024


def shortened(body: bytes) -> bytes:
    """Replace strings longer than LONGEST characters in a JSON object by their size and the start of their digest."""
    if len(body) <= LONGEST:
        return body
    light = lighten(body)
    return json.dumps(_short(json.loads(light.text), light), separators=(",", ":")).encode()


def _short(value: object, light: Lightened) -> object:
    match value:
        case dict():
            return {key: _short(inner, light) for key, inner in value.items()}
        case list():
            return [_short(inner, light) for inner in value]
        case str() if len(value) > LONGEST:
            whole = light.restored(value.encode("utf-8", "surrogatepass"))
            size = len(whole) if whole.isascii() else len(whole.decode("utf-8", "surrogatepass"))
            return f"({size} characters, sha256 {hashlib.sha256(whole).hexdigest()[:16]})"
    return value
