"""The simulated endpoints: their required members, their validation, and Kling's error messages."""

import base64
import binascii
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from receiver.domain.model import Json

_MAX_PROMPT = 2500
_MAX_IMAGES = 9
_MAX_SUBJECTS = 4
_MIN_SIDE = 300
_MAX_IMAGE_BYTES = 10 * 1024 * 1024
_RATIOS = frozenset(["16:9", "9:16", "1:1", "4:3", "3:4", "3:2", "2:3", "21:9", "auto"])
_KINDS = frozenset(["videos", "images", "audios", "voices", "elements"])
_PACKS: Mapping[str, str] = {"videos": "video", "images": "image"}
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A simulated endpoint. ``result_kinds`` lists the kinds of its result, ``pack`` the slots it uses."""

    path: str
    result_kinds: tuple[str, ...]
    pack: str | None
    is_new: bool = False
    is_synchronous: bool = False

    def slot_weight(self, body: Json) -> int:
        """Return how many slots a task uses: one per image, or one for a video."""
        return image_count(body) if self.pack == "image" else 1


class ApiError(Exception):
    """An error answer of Kling: its code, the matching HTTP status, and a message."""

    def __init__(self, code: int, message: str = "") -> None:
        self.code = code
        self.status, usual = ERRORS.get(code, (500, "server internal error"))
        self.message = message or usual
        super().__init__(self.message)


ERRORS: Mapping[int, tuple[int, str]] = {
    1000: (401, "authentication failed"),
    1001: (401, "authorization is empty"),
    1002: (401, "authorization is invalid"),
    1003: (401, "authorization is not yet valid"),
    1004: (401, "authorization has expired"),
    1100: (429, "account exception"),
    1101: (429, "account in arrears"),
    1102: (429, "resource pack depleted or expired"),
    1103: (403, "no permission for the requested resource"),
    1200: (400, "request parameters are invalid"),
    1201: (400, "a parameter is invalid"),
    1202: (404, "the requested method does not exist"),
    1203: (404, "the requested resource does not exist"),
    1300: (400, "the platform's policy was triggered"),
    1301: (400, "the content safety policy was triggered"),
    1302: (429, "requests are too fast"),
    1303: (429, "parallel tasks over resource pack limit"),
    1304: (429, "the address is not on the allow list"),
    5000: (500, "server internal error"),
    5001: (503, "the server is temporarily unavailable"),
    5002: (504, "server internal timeout"),
}


def _legacy(
    pack: str | None, *paths: str, result_kinds: tuple[str, ...], is_synchronous: bool = False
) -> dict[str, Endpoint]:
    return {
        path: Endpoint(path=path, result_kinds=result_kinds, pack=pack, is_synchronous=is_synchronous) for path in paths
    }


LEGACY: Mapping[str, Endpoint] = {
    **_legacy(
        "video",
        "videos/text2video",
        "videos/image2video",
        "videos/multi-image2video",
        "videos/omni-video",
        "videos/motion-control",
        "videos/multi-elements",
        "videos/video-extend",
        "videos/lip-sync",
        "videos/advanced-lip-sync",
        "videos/avatar/image2video",
        "videos/effects",
        result_kinds=("videos",),
    ),
    **_legacy(
        "image",
        "images/generations",
        "images/multi-image2image",
        "images/editing/expand",
        "images/omni-image",
        "images/kolors-virtual-try-on",
        result_kinds=("images",),
    ),
    **_legacy(None, "audio/text-to-audio", result_kinds=("audios",)),
    **_legacy(None, "audio/video-to-audio", result_kinds=("videos", "audios")),
    **_legacy(None, "general/advanced-custom-elements", result_kinds=("elements",)),
    **_legacy(None, "general/custom-voices", result_kinds=("voices",)),
    **_legacy(None, "general/ai-multi-shot", result_kinds=("multi_shots",)),
    **_legacy(None, "audio/tts", result_kinds=("audios",), is_synchronous=True),
    **_legacy(None, "videos/image-recognize", "videos/identify-face", result_kinds=(), is_synchronous=True),
}

CAPABILITIES: Mapping[str, tuple[str, ...]] = {
    "text-to-video": ("videos",),
    "image-to-video": ("videos",),
    "omni-video": ("videos",),
    "motion-control": ("videos",),
    "video-extend": ("videos",),
    "lip-sync": ("videos",),
    "avatar": ("videos",),
    "video-effects": ("videos",),
    "text-to-audio": ("audios",),
    "video-to-audio": ("audios",),
    "text-to-image": ("images",),
    "image-to-image": ("images",),
    "omni-image": ("images",),
}

# As far as the documentation is clear: at least one of these members must be present.
_REQUIRED_FIELDS: Mapping[str, tuple[str, ...]] = {
    "videos/text2video": ("prompt", "multi_prompt"),
    "videos/image2video": ("image", "image_tail"),
    "videos/video-extend": ("video_id",),
    "images/generations": ("prompt",),
    "images/editing/expand": ("image",),
    "images/kolors-virtual-try-on": ("human_image",),
}


class Endpoints:
    """The endpoints of an account: the documented ones, and *extra* ones that Kling may add.

    An extra endpoint is written ``v1/videos/text2dance=videos`` or, of the new generation, ``dance-to-video=videos``.
    """

    def __init__(self, extra: Sequence[str] = ()) -> None:
        self._legacy = dict(LEGACY)
        self._capabilities = dict(CAPABILITIES)
        for entry in extra:
            path, _, kind = entry.partition("=")
            if kind not in _KINDS or not path:
                raise ValueError(f"an endpoint must be written like v1/videos/text2dance=videos, not {entry!r}")
            name = path.removeprefix("v1/")
            if path == name:
                self._capabilities[name] = (kind,)
            else:
                self._legacy[name] = Endpoint(path=name, result_kinds=(kind,), pack=_PACKS.get(kind))

    def legacy(self, path: str) -> Endpoint | None:
        """Return a legacy endpoint by its path after the version, or None."""
        return self._legacy.get(path)

    def new(self, capability: str, model: str) -> Endpoint | None:
        """Return an endpoint of the new generation, or None; any model name is accepted."""
        kinds = self._capabilities.get(capability)
        if kinds is None:
            return None
        return Endpoint(path=f"{capability}/{model}", result_kinds=kinds, pack=_PACKS.get(kinds[0]), is_new=True)


def image_count(body: Json) -> int:
    """Return how many images a body requests; an omni-image series has its own member."""
    settings = body.get("settings")  # of the new generation
    fields = settings if isinstance(settings, dict) else body
    if fields.get("result_type") == "series" and isinstance(fields.get("series_amount"), int):
        return max(1, int(fields["series_amount"]))
    number = fields.get("n", 1)
    return number if isinstance(number, int) and not isinstance(number, bool) and number > 0 else 1


def with_series_amount(body: Json, rng: Random) -> Json:
    """Return the body of a create. The length of a series that Kling may choose is chosen here."""
    settings = body.get("settings")  # of the new generation
    fields = settings if isinstance(settings, dict) else body
    if fields.get("result_type") != "series" or isinstance(fields.get("series_amount"), int):
        return body
    chosen = fields | {"series_amount": rng.randint(2, _MAX_IMAGES)}
    return body | {"settings": chosen} if fields is settings else chosen


def prompt_of(body: Json) -> str:
    """Return the prompt in a body of either generation."""
    parts = [body.get("prompt")]
    contents = body.get("contents")
    parts += [part.get("text") for part in contents if isinstance(part, dict)] if isinstance(contents, list) else []
    nested = body.get("input")
    parts += [nested.get("prompt")] if isinstance(nested, dict) else []
    return "\n".join(part for part in parts if isinstance(part, str))


def callback_fields(endpoint: Endpoint, body: Json) -> Json:
    """Return the object with ``callback_url`` and ``external_task_id``: the body, or a new body's ``options``."""
    if not endpoint.is_new:
        return body
    options = body.get("options") or {}
    if not isinstance(options, dict):
        raise ApiError(1201, "options must be an object")
    return options


def validate(endpoint: Endpoint, body: Json, *, allow_strings: bool, decode_images: bool) -> None:
    """Raise ApiError for a body that Kling would refuse, as far as documented.

    *allow_strings* accepts subject images as plain strings, like a gateway; *decode_images* checks base64 content.
    """
    fields = callback_fields(endpoint, body)
    for name in ("callback_url", "external_task_id"):
        if not isinstance(fields.get(name, ""), str | None):
            raise ApiError(1201, f"{name} must be a string")
    url = fields.get("callback_url") or "http://"
    if not url.startswith(("http://", "https://")):
        raise ApiError(1201, "callback_url must be an http or https URL")
    if len(prompt_of(body)) > _MAX_PROMPT and not endpoint.is_new:
        raise ApiError(1201, f"prompt must not exceed {_MAX_PROMPT} characters")
    required = _REQUIRED_FIELDS.get(endpoint.path, ())
    if required and not any(body.get(name) for name in required):
        raise ApiError(1201, f"{' or '.join(required)} is required")
    if endpoint.pack == "image":
        _check_images(body)
    if endpoint.path == "images/multi-image2image":
        _check_subjects(body, allow_strings=allow_strings, decode_images=decode_images)


def _check_images(body: Json) -> None:
    settings = body.get("settings")  # of the new generation
    fields = settings if isinstance(settings, dict) else body
    number = fields.get("n")
    if number is not None and (
        not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= _MAX_IMAGES
    ):
        raise ApiError(1201, f"n must be an integer from 1 to {_MAX_IMAGES}")
    amount = fields.get("series_amount")  # any other value than a number leaves the length to Kling
    if isinstance(amount, int) and not 1 <= amount <= _MAX_IMAGES:
        raise ApiError(1201, f"series_amount must be an integer from 1 to {_MAX_IMAGES}")
    ratio = body.get("aspect_ratio")
    # Stripped, because a published example has a leading space.
    if ratio is not None and (not isinstance(ratio, str) or ratio.strip() not in _RATIOS):
        raise ApiError(1201, "aspect_ratio is invalid")


def _check_subjects(body: Json, *, allow_strings: bool, decode_images: bool) -> None:
    subjects = body.get("subject_image_list")
    if not isinstance(subjects, list) or not 1 <= len(subjects) <= _MAX_SUBJECTS:
        raise ApiError(1201, f"subject_image_list must have 1 to {_MAX_SUBJECTS} images")
    images = [_subject(subject, allow_strings=allow_strings) for subject in subjects]
    scene = "scence_image" if allow_strings else "scene_image"
    images += [body[name] for name in (scene, "style_image") if body.get(name)]
    for image in images:
        if decode_images:
            _check_image(image)


def _subject(subject: object, *, allow_strings: bool) -> str:
    if isinstance(subject, dict) and isinstance(subject.get("subject_image"), str) and subject["subject_image"]:
        return str(subject["subject_image"])
    if allow_strings and isinstance(subject, str) and subject:
        return subject
    raise ApiError(1201, "subject_image_list must hold objects with subject_image")


def _check_image(image: object) -> None:
    """Raise ApiError unless the image is a URL, or raw base64 of a jpg or png of an allowed size."""
    if not isinstance(image, str):
        raise ApiError(1201, "an image must be a string")
    if image.startswith(("http://", "https://")):
        return
    try:
        content = base64.b64decode(image, validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(1201, "an image must be a URL or raw base64 without a data: prefix") from None
    if not content.startswith((_PNG, _JPEG)):
        raise ApiError(1201, "image format must be jpg or png")
    if len(content) > _MAX_IMAGE_BYTES:
        raise ApiError(1201, "image size must not exceed 10MB")
    if content.startswith(_PNG) and (len(content) < 24 or min(struct.unpack(">II", content[16:24])) < _MIN_SIDE):  # noqa: PLR2004 - IHDR has its width and height before byte 24
        raise ApiError(1201, "Image pixel is invalid")
