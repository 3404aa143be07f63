"""The body of a create: our callback URL and task id put into what the client sent. Pure.

The client's text is edited, not written anew, so every other member reaches Kling unchanged.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from receiver.domain.errors import InvalidRequest, MalformedBody
from receiver.domain.model import Generation, Json
from receiver.kling import raw_json
from receiver.kling.protocol import MAX_ID, parse_object, storable


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateBody:
    """A create's body, ready to send as ``content``, and what the client asked for.

    ``reply_to`` is the client's own callback URL. ``external_task_id`` is the id of the task, or "".
    ``parsed`` is the client's body with a placeholder for each image.
    """

    content: bytes
    parsed: Json
    reply_to: str | None
    external_task_id: str


def compose(
    body: bytes, *, generation: Generation, callback_url: str | None, external_task_id: str | None
) -> CreateBody:
    """Replace the callback URL in a client's body by ours, and add *external_task_id* if the client gave none.

    All other members stay exactly as the client wrote them. Without *callback_url* the body asks for no callback.
    Raises InvalidRequest, or MalformedBody if the body is not a JSON object.
    """
    extracted = raw_json.extract_blobs(body)
    document = _parse_extracted(extracted, body)
    container = "options" if generation is Generation.NEW else None
    fields = document if container is None else _options(document)
    reply_to = _parse_callback_url(fields.get("callback_url"))
    own_id = _parse_external_task_id(fields.get("external_task_id")) or external_task_id or ""
    replacements = {"callback_url": callback_url, "external_task_id": own_id}
    content = extracted.restore(_replace_members(extracted.text.decode(), container, replacements).encode())
    return CreateBody(content=content, parsed=document, reply_to=reply_to, external_task_id=own_id)


def _parse_extracted(extracted: raw_json.ExtractedBlobs, body: bytes) -> Json:
    try:
        return parse_object(extracted.text)
    except MalformedBody:
        return parse_object(body)  # its error names the position in the original text


def _replace_members(text: str, container: str | None, replacements: Mapping[str, str | None]) -> str:
    """Replace members of the object, or of its member *container*; a value of None or "" removes the member."""
    whole = list(raw_json.members(text))
    if container is None:
        kept = [member.text for member in whole if member.key not in replacements]
        return raw_json.join_members(kept + _member_texts(replacements))
    positions = [member.value_at for member in whole if member.key == container]
    inner: list[str] = []
    if positions and text[positions[-1]] == "{":
        inner = [member.text for member in raw_json.members(text, positions[-1]) if member.key not in replacements]
    kept = [member.text for member in whole if member.key != container]
    if inner := inner + _member_texts(replacements):
        kept.append(f"{json.dumps(container)}:{raw_json.join_members(inner)}")
    return raw_json.join_members(kept)


def _member_texts(values: Mapping[str, str | None]) -> list[str]:
    return [f"{json.dumps(key)}:{json.dumps(value)}" for key, value in values.items() if value]


def _options(document: Json) -> Json:
    options = document.get("options")
    if options is None:
        return {}
    if not isinstance(options, dict):
        raise InvalidRequest("`options` must be an object.", remedy='Write it as {"callback_url": "https://..."}.')
    return options


def _parse_callback_url(value: object) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, str) and _is_http_url(value):
        return value
    raise InvalidRequest(
        "`callback_url` must be an http or https URL.", remedy="Write it as a string, or remove the key."
    )


def _is_http_url(url: str) -> bool:
    if not url.isprintable() or " " in url:
        return False
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _parse_external_task_id(value: object) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, str) and storable(value) == value and len(value) <= MAX_ID:
        return value
    raise InvalidRequest(
        "`external_task_id` must be a string that can be stored.",
        remedy=f"Use at most {MAX_ID} characters, or remove the key.",
    )
