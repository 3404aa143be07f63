"""A create's body as it is kept once Kling has it: all that a person may want to see, and no megabytes of pictures."""

import hashlib
import json

LONGEST = 1024


def shortened(body: bytes) -> bytes:
    """Replace strings longer than LONGEST characters in a JSON object by their size and the start of their digest."""
    if len(body) <= LONGEST:
        return body
    return json.dumps(_short(json.loads(body)), separators=(",", ":")).encode()


def _short(value: object) -> object:
    match value:
        case dict():
            return {key: _short(inner) for key, inner in value.items()}
        case list():
            return [_short(inner) for inner in value]
        case str() if len(value) > LONGEST:
            digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()
            return f"({len(value)} characters, sha256 {digest[:16]})"
    return value
