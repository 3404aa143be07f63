"""The body of a create: our callback URL and task id put into what the client sent. Pure.

The client's text is edited, not written anew, so every other member reaches Kling unchanged.
"""

import json
from collections.abc import Container, Iterable, Mapping
from urllib.parse import urlsplit

import msgspec

from receiver.domain.errors import InvalidRequest, MalformedBody
from receiver.domain.model import Generation, Json
from receiver.kling import raw_json
from receiver.kling.protocol import MAX_ID, parse_object, storable
from receiver.kling.strict_json import strip_mark

_OPTIONS = "options"


class CreateBody(msgspec.Struct, frozen=True, kw_only=True):
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
    One generation has these two members at the top, the other one in ``options``. A client that changed generations may
    write them in the wrong place. They are found there too, and moved.
    Raises InvalidRequest, or MalformedBody if the body is not a JSON object.
    """
    body = strip_mark(body)
    extracted = raw_json.extract_blobs(body)
    document = _parse_extracted(extracted, body)
    is_new = generation is Generation.NEW
    options = _options(document, is_required=is_new)
    places = (options, document) if is_new else (document, options)
    reply_to = _first(_parse_callback_url(place.get("callback_url")) for place in places)
    own_id = _first(_parse_external_task_id(place.get("external_task_id")) for place in places)
    own_id = own_id or external_task_id or ""
    replacements = {"callback_url": callback_url, "external_task_id": own_id}
    edited = _replace_members(extracted.text.decode(), replacements, in_options=is_new)
    content = extracted.restore(edited.encode())
    return CreateBody(content=content, parsed=document, reply_to=reply_to, external_task_id=own_id)


def _parse_extracted(extracted: raw_json.ExtractedBlobs, body: bytes) -> Json:
    try:
        return parse_object(extracted.text)
    except MalformedBody:
        return parse_object(body)  # its error names the position in the original text


def _replace_members(text: str, replacements: Mapping[str, str | None], *, in_options: bool) -> str:
    """Remove the members at the top and in ``options``, and add those with a value at the one or the other place."""
    whole = [member for member in raw_json.members(text) if member.key not in replacements]
    added = _member_texts(replacements)
    if not in_options:
        others = [_without(text, member, replacements) if member.key == _OPTIONS else member.text for member in whole]
        return raw_json.join_members(others + added)
    kept = [member.text for member in whole if member.key != _OPTIONS]
    options = [member for member in whole if member.key == _OPTIONS]
    inner: list[str] = []
    if options and text[options[-1].value_at] == "{":
        members = raw_json.members(text, options[-1].value_at)
        inner = [member.text for member in members if member.key not in replacements]
    if inner := inner + added:
        kept.append(f"{json.dumps(_OPTIONS)}:{raw_json.join_members(inner)}")
    return raw_json.join_members(kept)


def _without(text: str, member: raw_json.RawMember, keys: Container[str]) -> str:
    """Return a member without the *keys* in its object, or as it is if it has none of them."""
    if text[member.value_at] != "{":
        return member.text
    inner = list(raw_json.members(text, member.value_at))
    kept = [each.text for each in inner if each.key not in keys]
    return member.text if len(kept) == len(inner) else f"{json.dumps(member.key)}:{raw_json.join_members(kept)}"


def _member_texts(values: Mapping[str, str | None]) -> list[str]:
    return [f"{json.dumps(key)}:{json.dumps(value)}" for key, value in values.items() if value]


def _first(values: Iterable[str | None]) -> str | None:
    """Return the first value that is given. Those after it are not even checked."""
    return next((value for value in values if value), None)


def _options(document: Json, *, is_required: bool) -> Json:
    options = document.get(_OPTIONS)
    if isinstance(options, dict):
        return options
    if options is not None and is_required:
        raise InvalidRequest("`options` must be an object.", remedy='Write it as {"callback_url": "https://..."}.')
    return {}


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
