"""Catalogue of Kling's endpoints: which ones call back, which slots they use, and how their tasks are queried.

An unlisted endpoint works too, by the form of its path; only its slots and images are guesses.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias
from urllib.parse import quote

import msgspec

from receiver.domain.model import Generation, Json

Pack: TypeAlias = Literal["video", "image"]
MAX_IMAGES: Final = 9

_FAMILIES = "images|videos|audio|general"
_WORD = r"(?=[0-9_-]*[a-z])[a-z0-9_-]+"  # all digits, or capitals, mean an id
_LEGACY = re.compile(rf"(?:{_FAMILIES})(?:/(?=[0-9._-]*[a-z])[a-z0-9_-][a-z0-9._-]*)+")
_LEGACY_OTHERS = re.compile(rf"v1/(?!(?:{_FAMILIES})(?:/|$)){_WORD}(?:/{_WORD})*")
_NEW = re.compile(
    rf"(?!(?:{_FAMILIES}|v[0-9]+)/)(?P<kind>(?=[0-9_-]*[a-z])[a-z0-9]+(?:[-_][a-z0-9]+)*)"
    r"/(?P<model>[A-Za-z0-9][A-Za-z0-9._-]*)"
)
_HOUSEKEEPING = re.compile(
    r"accounts?|balance|billing|cancel|clear|costs?|delete|files?|list|presets?|query|remove|status|tasks?|tokens?"
    r"|update|uploads?|users?|webhooks?"
    r"|(?:cancel|delete|list|query|update|upload)[-_].*|.*[-_](?:cancel|delete|list|query|upload)"
    r"|(?:.*[-_])?presets(?:[-_].*)?"
)
"""Segments that create nothing: a single word, or a verb with an object (``delete-voices``, not ``user-avatar``)."""

_MODEL = "{model}"


class QueryApi(msgspec.Struct, frozen=True, kw_only=True):
    """How to query the tasks of a generation: by ids, at most ``max_ids`` per call, or as a list.

    ``by_id`` and ``by_external_id`` are path templates; ``listing`` is a method and a path template.
    """

    by_id: str
    by_external_id: str
    max_ids: int
    listing: str


QUERY_APIS: Final[Mapping[Generation, QueryApi]] = {
    Generation.LEGACY: QueryApi(
        by_id="{path}/{ids}",
        by_external_id="{path}/{ids}",
        max_ids=1,
        listing="GET {path}?pageNum={page}&pageSize={size}",
    ),
    Generation.NEW: QueryApi(
        by_id="/tasks?task_ids={ids}",
        by_external_id="/tasks?external_task_ids={ids}",
        max_ids=20,
        listing="POST /tasks",
    ),
}


class FieldImages(msgspec.Struct, frozen=True, kw_only=True):
    """Each image goes into one of these members."""

    names: Sequence[str]


class ListImages(msgspec.Struct, frozen=True, kw_only=True):
    """Images go into a list, each as an object with the member *key*, or as a string if *key* is None."""

    name: str
    key: str | None = None


class FrameImages(msgspec.Struct, frozen=True, kw_only=True):
    """Images go into the new generation's ``contents``, each with its part as type; the last part may repeat."""

    parts: Sequence[str]
    may_repeat: bool = False


class ObjectImages(msgspec.Struct, frozen=True, kw_only=True):
    """One image goes into member ``one`` of the object *name*; several go into ``several``, if it is set."""

    name: str
    one: str
    several: str | None = None


Images: TypeAlias = FieldImages | ListImages | FrameImages | ObjectImages


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One of Kling's endpoints: its path without the version, the pack whose slots it uses, and its kind of result.

    ``default_model`` is the model of a create that names none, as far as known. ``is_listed`` is true for endpoints of
    the catalogue, false for those recognized by the form of their path.
    """

    path: str
    generation: Generation = Generation.LEGACY
    pack: Pack | None = None
    result: str = "outputs"
    asynchronous: bool = True
    images: Images | None = field(default=None, repr=False)
    default_model: str = ""
    is_listed: bool = field(default=False, repr=False)

    @property
    def url_path(self) -> str:
        """The path in Kling's URL."""
        return f"/v1/{self.path.removeprefix('v1/')}" if self.generation is Generation.LEGACY else f"/{self.path}"

    @property
    def query_api(self) -> QueryApi:
        """How to query its tasks."""
        return QUERY_APIS[self.generation]

    def query_path(self, *ids: str, external: bool = False) -> str:
        """Return the path that queries tasks by Kling's ids or, if *external*, by external ids."""
        way = self.query_api.by_external_id if external else self.query_api.by_id
        return way.format(path=self.url_path, ids=",".join(_quote_id(name) for name in ids))

    def list_path(self, size: int) -> str | None:
        """Return the path that lists its newest tasks; None if listing needs another method than GET."""
        method, _, path = self.query_api.listing.partition(" ")
        return path.format(path=self.url_path, page=1, size=size) if method == "GET" else None

    def describe(self) -> Json:
        """Return its properties, for a table or a program. Braces are placeholders."""
        slots = "n" if self.pack == "image" else 1 if self.pack else None
        ids = "{ids}" if self.query_api.max_ids > 1 else "{id}"
        filled = {"path": self.url_path, "ids": ids, "page": "{page}", "size": "{size}"}
        return {
            "path": self.path,
            "generation": self.generation.value,
            "pack": self.pack,
            "slots": slots,
            "result": self.result,
            "asynchronous": self.asynchronous,
            "create": f"POST {self.url_path}",
            "query": f"GET {self.query_api.by_id.format(**filled)}" if self.asynchronous else None,
            "list": self.query_api.listing.format(**filled) if self.asynchronous else None,
        }


def _quote_id(name: str) -> str:
    """Quote an id, which a client may choose freely, as one path segment or one list entry."""
    quoted = quote(name, safe="")
    return quoted.replace(".", "%2E") if quoted.strip(".") == "" else quoted


def _catalogue(*endpoints: Endpoint) -> Mapping[str, Endpoint]:
    return {endpoint.path: replace(endpoint, is_listed=True) for endpoint in endpoints}


def _video(path: str, images: Images | None = None, *, model: str = "") -> Endpoint:
    return Endpoint(path=f"videos/{path}", pack="video", result="videos", images=images, default_model=model)


def _image(path: str, images: Images | None = None, *, model: str = "") -> Endpoint:
    return Endpoint(path=f"images/{path}", pack="image", result="images", images=images, default_model=model)


def _other(path: str, result: str, images: Images | None = None) -> Endpoint:
    return Endpoint(path=path, result=result, images=images)


def _new(kind: str, pack: Pack | None, result: str, images: Images | None = None) -> Endpoint:
    return Endpoint(path=f"{kind}/{_MODEL}", generation=Generation.NEW, pack=pack, result=result, images=images)


def _synchronous(path: str, result: str = "") -> Endpoint:
    return Endpoint(path=path, result=result, asynchronous=False)


_REFERENCES: Final = FrameImages(parts=("refer_image",), may_repeat=True)

CATALOGUE: Final[Mapping[str, Endpoint]] = _catalogue(
    _image("generations", FieldImages(names=("image",)), model="kling-v1"),
    _image("multi-image2image", ListImages(name="subject_image_list", key="subject_image"), model="kling-v2-1"),
    _image("editing/expand", FieldImages(names=("image",))),
    _image("omni-image", ListImages(name="image_list", key="image"), model="kling-image-o1"),
    _image(
        "kolors-virtual-try-on", FieldImages(names=("human_image", "cloth_image")), model="kolors-virtual-try-on-v1"
    ),
    _video("text2video", model="kling-v1"),
    _video("image2video", FieldImages(names=("image", "image_tail")), model="kling-v1"),
    _video("multi-image2video", ListImages(name="image_list", key="image"), model="kling-v1-6"),
    _video("omni-video", ListImages(name="image_list", key="image_url"), model="kling-video-o1"),
    _video("motion-control", FieldImages(names=("image_url",))),
    _video("multi-elements"),
    _video("video-extend"),
    _video("lip-sync"),
    _video("advanced-lip-sync"),
    _video("avatar/image2video", FieldImages(names=("image",))),
    _video("effects", ObjectImages(name="input", one="image", several="images")),
    _other("audio/text-to-audio", "audios"),
    _other("audio/video-to-audio", "audios"),
    _other(
        "general/advanced-custom-elements", "elements", ObjectImages(name="element_image_list", one="frontal_image")
    ),
    _other("general/custom-voices", "voices"),
    _other("general/ai-multi-shot", "images", FieldImages(names=("element_frontal_image",))),
    _new("text-to-video", "video", "videos"),
    _new("image-to-video", "video", "videos", FrameImages(parts=("first_frame", "last_frame"))),
    _new("omni-video", "video", "videos", _REFERENCES),
    _new("motion-control", "video", "videos"),
    _new("video-extend", "video", "videos"),
    _new("lip-sync", "video", "videos"),
    _new("avatar", "video", "videos"),
    _new("video-effects", "video", "videos"),
    _new("text-to-image", "image", "images"),
    _new("image-to-image", "image", "images", _REFERENCES),
    _new("omni-image", "image", "images", _REFERENCES),
    _new("text-to-audio", None, "audios"),
    _new("video-to-audio", None, "audios"),
    _synchronous("audio/tts", "audios"),
    _synchronous("videos/image-recognize"),
    _synchronous("videos/identify-face"),
    _synchronous("general/custom-elements"),
)
"""Endpoints known by name. The new generation is listed by kind: its paths contain the model, which changes often."""


def resolve(path: str) -> Endpoint | None:
    """Return the endpoint of a path, with or without ``/v1/``; None for a path that does not call back.

    The catalogue is checked first, with any model. Unlisted paths are creates if their form fits: lower-case words
    below ``/v1/`` or a known family, or ``{kind}/{model}`` without a version. Not creates are:

    - synchronous endpoints of the catalogue,
    - paths below one of its endpoints (a task, or a step of it),
    - paths with an id,
    - housekeeping such as ``/tasks``, ``account/costs``, uploads, presets and deletes.

    In doubt a path is a create. A call wrongly treated as a create still returns Kling's answer to its client. A
    missed create would be a paid task that is never tracked.
    """
    trimmed = path.strip("/")
    name = trimmed.removeprefix("v1/")
    endpoint = CATALOGUE.get(name) or _legacy(name, trimmed)
    if endpoint is None and trimmed == name:
        endpoint = _new_generation(name)
    return endpoint if endpoint is not None and endpoint.asynchronous and _MODEL not in endpoint.path else None


def _legacy(name: str, trimmed: str) -> Endpoint | None:
    """Return an unlisted legacy endpoint by the form of its path; a path below a listed one is a task or its step.

    An endpoint of an unknown family keeps its version, because only the version shows the generation.
    """
    if _is_housekeeping(name) or any(name.startswith(f"{listed}/") for listed in CATALOGUE):
        return None
    if not _LEGACY.fullmatch(name):
        return Endpoint(path=trimmed) if _LEGACY_OTHERS.fullmatch(trimmed) else None
    match name.partition("/")[0]:
        case "images":
            return Endpoint(path=name, pack="image", result="images")
        case "videos":
            return Endpoint(path=name, pack="video", result="videos")
        case "audio":
            return Endpoint(path=name, result="audios")
        case _:
            return Endpoint(path=name)


def _new_generation(name: str) -> Endpoint | None:
    """Parse a path such as ``/text-to-video/kling-3.0-turbo``: a listed kind, or one recognized by its form."""
    match = _NEW.fullmatch(name)
    if match is None or _is_housekeeping(name):
        return None
    kind, model = match["kind"], match["model"]
    if (listed := CATALOGUE.get(f"{kind}/{_MODEL}")) is not None:
        return replace(listed, path=name)
    if model.isdigit():
        return None
    words = re.split("[-_]", kind.rpartition("-to-")[2])
    pack, result = next(
        (_RESULT_BY_WORD[word] for word in reversed(words) if word in _RESULT_BY_WORD), _RESULT_BY_WORD["video"]
    )
    return Endpoint(path=name, generation=Generation.NEW, pack=pack, result=result)


def _is_housekeeping(name: str) -> bool:
    return any(_HOUSEKEEPING.fullmatch(segment) for segment in name.split("/"))


_RESULT_BY_WORD: Final[Mapping[str, tuple[Pack | None, str]]] = {
    "image": ("image", "images"),
    "video": ("video", "videos"),
    "audio": (None, "audios"),
    "speech": (None, "audios"),
    "voice": (None, "voices"),
    "element": (None, "elements"),
}
"""Pack and result kind by the last known word of a kind; without one, video is most likely."""


def slot_weight(endpoint: Endpoint, body: Json) -> int:
    """Return how many of the account's slots a task uses: one per image, and one for anything else.

    A series whose length Kling chooses counts with the maximum.
    """
    return slot_range(endpoint, body)[1]


def slot_range(endpoint: Endpoint, body: Json) -> tuple[int, int]:
    """Return the fewest and the most slots that a task may use."""
    if endpoint.pack != "image":
        return 1, 1
    settings = body.get("settings") if endpoint.generation is Generation.NEW else None
    fields = settings if isinstance(settings, dict) else body
    if fields.get("result_type") == "series":
        amount = fields.get("series_amount")
        return _image_count(amount, default=1), _image_count(amount, default=MAX_IMAGES)
    number = _image_count(fields.get("n"), default=1)
    return number, number


def _image_count(value: object, *, default: int) -> int:
    try:
        number = int(value) if isinstance(value, int | float | str) else default
    except (ValueError, OverflowError):
        return default
    return number if 1 <= number <= MAX_IMAGES else default
