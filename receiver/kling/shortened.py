"""A create's body as it is kept once Kling has it: all that a person may want to see, and no megabytes of pictures."""

import hashlib
import json

from receiver.kling.ballast import ExtractedBlobs, extract_blobs

MAX_STRING = 1024


def truncate_strings(body: bytes) -> bytes:
    """Replace strings longer than LONGEST characters in a JSON object by their size and the start of their digest."""
    if len(body) <= MAX_STRING:
        return body
    light = extract_blobs(body)
    return json.dumps(_truncate(json.loads(light.text), light), separators=(",", ":")).encode()


def _truncate(value: object, extracted: ExtractedBlobs) -> object:
    match value:
        case dict():
            return {key: _truncate(inner, extracted) for key, inner in value.items()}
        case list():
            return [_truncate(inner, extracted) for inner in value]
        case str() if len(value) > MAX_STRING:
            whole = extracted.restore(value.encode("utf-8", "surrogatepass"))
            size = len(whole) if whole.isascii() else len(whole.decode("utf-8", "surrogatepass"))
            return f"({size} characters, sha256 {hashlib.sha256(whole).hexdigest()[:16]})"
    return value
