"""Kling's endpoints: which of them call back, whose slots they take, how their tasks are asked about, and where their
bodies hold images.

An endpoint that is not listed works as well, by the form of its path: only its slots and its images are guesses.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias
from urllib.parse import quote

from receiver.domain.model import Generation, Json

Pack: TypeAlias = Literal["video", "image"]
MAX_IMAGES: Final = 9

_FAMILIES = "images|videos|audio|general"
_WORD = r"(?=[0-9_-]*[a-z])[a-z0-9_-]+"  # what is all digits, or has capitals, is an id
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
"""Segments that make nothing, by one such word alone or by an order: ``delete-voices``, but not ``user-avatar``."""

_MODEL = "{model}"


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryApi:
    """How the tasks of a generation are asked about: some by their ids, at most *at_once* in one call, or all of them.

    ``by_id`` and ``by_external_id`` are paths, ``listing`` a method and a path, all with names in braces to fill in.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldImages:
    """Images go one by one into members of these names."""

    names: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListImages:
    """Images go into a list, each as an object with one member, or as a plain string where *key* is None."""

    name: str
    key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameImages:
    """Images go into the new generation's ``contents``, each marked with its part; the last part may repeat."""

    parts: Sequence[str]
    may_repeat: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectImages:
    """One image goes into a member of the object *name*; several, where that is possible, into another."""

    name: str
    one: str
    several: str | None = None


Images: TypeAlias = FieldImages | ListImages | FrameImages | ObjectImages


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One of Kling's endpoints: its path without the version, whose slots a task takes, what kind of result it has.

    ``is_listed`` tells the catalogue's own from those that are taken by the form of their path.
    """

    path: str
    generation: Generation = Generation.LEGACY
    pack: Pack | None = None
    result: str = "outputs"
    asynchronous: bool = True
    images: Images | None = field(default=None, repr=False)
    is_listed: bool = field(default=False, repr=False)

    @property
    def url_path(self) -> str:
        """The path as Kling's host knows it."""
        return f"/v1/{self.path.removeprefix('v1/')}" if self.generation is Generation.LEGACY else f"/{self.path}"

    @property
    def query_api(self) -> QueryApi:
        """How its tasks are asked about."""
        return QUERY_APIS[self.generation]

    def query_path(self, *ids: str, external: bool = False) -> str:
        """Write the path that tells of tasks by their ids, Kling's or the *external* ones."""
        way = self.query_api.by_external_id if external else self.query_api.by_id
        return way.format(path=self.url_path, ids=",".join(_quote_id(name) for name in ids))

    def list_path(self, size: int) -> str | None:
        """Write the path that lists its newest tasks; None where they are listed otherwise than by a GET."""
        method, _, path = self.query_api.listing.partition(" ")
        return path.format(path=self.url_path, page=1, size=size) if method == "GET" else None

    def describe(self) -> Json:
        """Tell what is known of it, for a table or a program. Braces are where something is to be filled in."""
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
    """Write an id, which may be anything a client chose, so that it is one segment of a path, or one of a list."""
    quoted = quote(name, safe="")
    return quoted.replace(".", "%2E") if quoted.strip(".") == "" else quoted


def _catalogue(*endpoints: Endpoint) -> Mapping[str, Endpoint]:
    return {endpoint.path: replace(endpoint, is_listed=True) for endpoint in endpoints}


def _video(path: str, images: Images | None = None) -> Endpoint:
    return Endpoint(path=f"videos/{path}", pack="video", result="videos", images=images)


def _image(path: str, images: Images | None = None) -> Endpoint:
    return Endpoint(path=f"images/{path}", pack="image", result="images", images=images)


def _other(path: str, result: str, images: Images | None = None) -> Endpoint:
    return Endpoint(path=path, result=result, images=images)


def _new(kind: str, pack: Pack | None, result: str, images: Images | None = None) -> Endpoint:
    return Endpoint(path=f"{kind}/{_MODEL}", generation=Generation.NEW, pack=pack, result=result, images=images)


def _synchronous(path: str, result: str = "") -> Endpoint:
    return Endpoint(path=path, result=result, asynchronous=False)


_REFERENCES: Final = FrameImages(parts=("refer_image",), may_repeat=True)

CATALOGUE: Final[Mapping[str, Endpoint]] = _catalogue(
    _image("generations", FieldImages(names=("image",))),
    _image("multi-image2image", ListImages(name="subject_image_list", key="subject_image")),
    _image("editing/expand", FieldImages(names=("image",))),
    _image("omni-image", ListImages(name="image_list", key="image")),
    _image("kolors-virtual-try-on", FieldImages(names=("human_image", "cloth_image"))),
    _video("text2video"),
    _video("image2video", FieldImages(names=("image", "image_tail"))),
    _video("multi-image2video", ListImages(name="image_list", key="image")),
    _video("omni-video", ListImages(name="image_list", key="image_url")),
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
"""Endpoints known by name. Of the new generation the kinds are: the model stands in the path, and each month has
another."""


def resolve(path: str) -> Endpoint | None:
    """Find the endpoint a path means, with or without ``/v1/`` before it; None for one that does not call back.

    The catalogue is looked at first, with any model. What it does not know is taken for a create by its form: words
    in small letters under ``/v1/`` or one of the families known, and ``{kind}/{model}`` without a version. No create
    are what the catalogue has as synchronous, what lies beneath one of its endpoints (a task, or a step of it), what
    has an id in it, and housekeeping such as ``/tasks``, ``account/costs``, uploads, presets and what is deleted.

    In doubt it is a create. A call that is wrongly taken for one has Kling's answer all the same, be it that a key is
    unknown, and its client sees it; a create that is passed over is a task paid for that nobody follows or misses.
    """
    trimmed = path.strip("/")
    name = trimmed.removeprefix("v1/")
    endpoint = CATALOGUE.get(name) or _legacy(name, trimmed)
    if endpoint is None and trimmed == name:
        endpoint = _new_generation(name)
    return endpoint if endpoint is not None and endpoint.asynchronous and _MODEL not in endpoint.path else None


def _legacy(name: str, trimmed: str) -> Endpoint | None:
    """Take an endpoint that is not listed by its form; what lies beneath a listed one is a task, or a step of it.

    One of a family never heard of keeps its version, which alone tells the generation.
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
    """Read ``/text-to-video/kling-3.0-turbo`` and its like: a kind that is listed, or else one by its form."""
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
"""What the last word of a kind says that it makes; without such a word it is most likely a video."""


def slot_weight(endpoint: Endpoint, body: Json) -> int:
    """Tell how many of the account's slots a task takes: as many as it makes images, one for anything else.

    A series whose length Kling is to choose takes as many as it may turn out to be.
    """
    if endpoint.pack != "image":
        return 1
    settings = body.get("settings") if endpoint.generation is Generation.NEW else None
    asked = settings if isinstance(settings, dict) else body
    if asked.get("result_type") == "series":
        return _image_count(asked.get("series_amount"), default=MAX_IMAGES)
    return _image_count(asked.get("n"), default=1)


def _image_count(value: object, *, default: int) -> int:
    try:
        number = int(value) if isinstance(value, int | float | str) else default
    except (ValueError, OverflowError):
        return default
    return number if 1 <= number <= MAX_IMAGES else default
