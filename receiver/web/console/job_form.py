"""The form of a job: its fields by endpoint, and the body that they make. Pure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from receiver.domain.errors import InvalidRequest, MalformedBody
from receiver.domain.model import Generation, Json
from receiver.kling.endpoints import CATALOGUE, MAX_IMAGES, Endpoint, FieldImages, FrameImages, ObjectImages, resolve
from receiver.kling.images import base64_content, fill_images
from receiver.kling.protocol import parse_object
from receiver.kling.string_members import is_text
from receiver.settings import Dialect
from receiver.web.console.multipart import Upload

FIRST = "images/multi-image2image"
"""The endpoint whose form is shown first."""

MODEL, MORE, FILES, URLS = "model", "more", "images", "image_urls"
"""Fields that are not members of the body: the model in the path, further members as JSON, and the images."""

_RATIOS = ("16:9", "9:16", "1:1", "4:3", "3:4", "3:2", "2:3", "21:9")
_MAX_PROMPT = 2500
_MAX_SUBJECTS = 4
_PLACEHOLDER = "{model}"
_NEED_IMAGES = {
    FIRST: 1,
    "images/editing/expand": 1,
    "images/kolors-virtual-try-on": 2,
    "videos/image2video": 1,
    "videos/multi-image2video": 1,
    "videos/avatar/image2video": 1,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FormField:
    """A field: a line, an area of text, a choice or a number."""

    name: str
    label: str
    kind: Literal["line", "area", "choice", "number"] = "line"
    choices: Sequence[str] = ()
    maximum: int = 0
    hint: str = ""
    required: bool = False


@dataclass(slots=True)
class FormFaults(Exception):
    """What is wrong with a form, by the field's name."""

    by_field: dict[str, str] = field(default_factory=dict)


def form_endpoints() -> Sequence[str]:
    """Return the endpoints that have a form, the first one at the top."""
    paths = [path for path, endpoint in CATALOGUE.items() if endpoint.asynchronous]
    return [FIRST, *(path for path in paths if path != FIRST)]


def form_fields(endpoint: Endpoint) -> Sequence[FormField]:
    """Return the fields of an endpoint, without its images."""
    fields = []
    if endpoint.generation is Generation.NEW:
        model = FormField(name=MODEL, label="Model", hint="As in Kling's path, such as kling-3.0-turbo.", required=True)
        return [model, FormField(name="prompt", label="Prompt", kind="area", maximum=_MAX_PROMPT), _more()]
    if endpoint.pack is not None or endpoint.path == "audio/text-to-audio":
        fields.append(FormField(name="prompt", label="Prompt", kind="area", maximum=_MAX_PROMPT))
    if endpoint.pack is not None:
        fields.append(FormField(name="model_name", label="Model", hint="Empty: Kling's default."))
        fields.append(FormField(name="aspect_ratio", label="Aspect ratio", kind="choice", choices=_RATIOS))
    if endpoint.pack == "image":
        fields.append(FormField(name="n", label="How many pictures", kind="number", maximum=MAX_IMAGES))
    if endpoint.pack == "video":
        fields.append(FormField(name="duration", label="Seconds", kind="choice", choices=("5", "10")))
        fields.append(FormField(name="mode", label="Mode", kind="choice", choices=("std", "pro")))
    return [*fields, _more()]


def _more() -> FormField:
    return FormField(
        name=MORE, label="Further members, as JSON", kind="area", hint='Such as {"negative_prompt": "fog"}.'
    )


def image_limit(endpoint: Endpoint) -> int:
    """Return how many images an endpoint takes at most; 0 for none."""
    match endpoint.images:
        case None:
            return 0
        case FieldImages(names=names):
            return len(names)
        case FrameImages(parts=parts, may_repeat=may_repeat):
            return MAX_IMAGES if may_repeat else len(parts)
        case ObjectImages(several=None):
            return 1
    return _MAX_SUBJECTS if endpoint.path == FIRST else MAX_IMAGES


def read_job(path: str, values: Mapping[str, str], files: Sequence[Upload], dialect: Dialect) -> tuple[str, Json]:
    """Return the endpoint and the body that a form makes, as ``kling-receiver submit`` would. Raises FormFaults."""
    faults = FormFaults()
    endpoint = _endpoint(path, values.get(MODEL, "").strip(), faults)
    body = _members(endpoint, values, faults)
    images = _images(endpoint, values.get(URLS, ""), files, faults)
    if not faults.by_field:
        try:
            return endpoint.path, fill_images(endpoint, body, images, dialect)
        except InvalidRequest as exc:
            faults.by_field[FILES] = str(exc)
    raise faults


def _endpoint(path: str, model: str, faults: FormFaults) -> Endpoint:
    """Return the endpoint of a form, with its model if that is part of the path."""
    if _PLACEHOLDER not in path:
        return CATALOGUE[path]
    found = resolve(path.replace(_PLACEHOLDER, model)) if model else None
    if found is None:
        faults.by_field[MODEL] = "Write the model as it is in Kling's path, such as kling-3.0-turbo."
    return found or CATALOGUE[path]


def _members(endpoint: Endpoint, values: Mapping[str, str], faults: FormFaults) -> Json:
    body: Json = {}
    for each in form_fields(endpoint):
        text = values.get(each.name, "").strip()
        if not text or each.name == MODEL:
            continue
        if each.name == MORE:
            body = _further_members(text, faults) | body
        elif each.kind == "area" and len(text) > each.maximum:
            faults.by_field[each.name] = f"{len(text)} characters; Kling takes at most {each.maximum}."
        elif each.kind == "choice" and text not in each.choices:
            faults.by_field[each.name] = f"Choose one of: {', '.join(each.choices)}."
        elif each.kind == "number" and not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= each.maximum):
            faults.by_field[each.name] = f"Write a number from 1 to {each.maximum}."
        else:
            body[each.name] = int(text) if each.kind == "number" or not is_text(endpoint, each.name) else text
    return body


def _further_members(text: str, faults: FormFaults) -> Json:
    try:
        return parse_object(text.encode())
    except (MalformedBody, UnicodeEncodeError) as exc:
        faults.by_field[MORE] = f"This is not a JSON object: {exc}"
        return {}


def _images(endpoint: Endpoint, urls: str, files: Sequence[Upload], faults: FormFaults) -> Sequence[str]:
    images, needed = [], _NEED_IMAGES.get(endpoint.path, 0)
    try:
        images += [base64_content(file.name[-80:] or "The picture", file.content) for file in files]
    except InvalidRequest as exc:
        faults.by_field[FILES] = str(exc)
        return ()
    for line in filter(None, map(str.strip, urls.splitlines())):
        if not line.startswith(("http://", "https://")) or not line.isprintable() or " " in line:
            faults.by_field[URLS] = f"{json.dumps(line[:80])} is not a URL that begins with http:// or https://."
        images.append(line)
    limit = image_limit(endpoint)
    if len(images) < needed:
        faults.by_field.setdefault(FILES, f"{endpoint.path} needs at least {needed} picture{'s' * (needed > 1)}.")
    if len(images) > limit:
        faults.by_field.setdefault(FILES, f"{endpoint.path} takes at most {limit} pictures.")
    return images
