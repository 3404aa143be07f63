"""Tests how images are encoded and placed in a request body."""

import base64
import struct
import zlib
from pathlib import Path

import pytest

from receiver.domain.errors import InvalidRequest
from receiver.domain.model import Json
from receiver.kling.endpoints import resolve
from receiver.kling.images import base64_image, fill_images
from receiver.settings import Dialect

A, B, C = "https://pics.example/a.png", "https://pics.example/b.png", "aGk="


def _filled(path: str, body: Json, images: list[str], dialect: Dialect = Dialect.OFFICIAL) -> Json:
    endpoint = resolve(path)
    assert endpoint is not None
    return fill_images(endpoint, body, images, dialect)


@pytest.mark.parametrize(
    ("path", "images", "put"),
    [
        ("images/multi-image2image", [A, C], {"subject_image_list": [{"subject_image": A}, {"subject_image": C}]}),
        ("images/generations", [A], {"image": A}),
        ("images/editing/expand", [A], {"image": A}),
        ("images/omni-image", [A, B], {"image_list": [{"image": A}, {"image": B}]}),
        ("images/kolors-virtual-try-on", [A, B], {"human_image": A, "cloth_image": B}),
        ("videos/image2video", [A], {"image": A}),
        ("videos/image2video", [A, B], {"image": A, "image_tail": B}),
        ("videos/multi-image2video", [A, B], {"image_list": [{"image": A}, {"image": B}]}),
        ("videos/omni-video", [A], {"image_list": [{"image_url": A}]}),
        ("videos/motion-control", [A], {"image_url": A}),
        ("videos/effects", [A], {"input": {"image": A}}),
        ("videos/effects", [A, B], {"input": {"images": [A, B]}}),
        ("videos/avatar/image2video", [A], {"image": A}),
        ("general/ai-multi-shot", [A], {"element_frontal_image": A}),
        ("general/advanced-custom-elements", [A], {"element_image_list": {"frontal_image": A}}),
        (
            "image-to-video/kling-4.0",
            [A, B],
            {"contents": [{"type": "first_frame", "url": A}, {"type": "last_frame", "url": B}]},
        ),
        (
            "image-to-image/kling-image-4.0",
            [A, B, C],
            {"contents": [{"type": "refer_image", "url": image} for image in (A, B, C)]},
        ),
    ],
)
def test_images_are_put_into_the_endpoints_members(path: str, images: list[str], put: Json) -> None:
    assert _filled(path, {"prompt": "p"}, images) == {"prompt": "p"} | put


def test_the_gateway_dialect_uses_strings_and_its_own_scene_key() -> None:
    body = {"scene_image": B, "n": 1}

    filled = _filled("images/multi-image2image", body, [A, C], Dialect.GATEWAY)

    assert filled == {"scence_image": B, "n": 1, "subject_image_list": [A, C]}
    assert body == {"scene_image": B, "n": 1}


def test_the_official_dialect_corrects_the_scene_key() -> None:
    assert _filled("images/multi-image2image", {"scence_image": B}, []) == {"scene_image": B}


def test_images_already_in_the_body_stay_first() -> None:
    assert _filled("images/omni-image", {"image_list": [{"image": A}]}, [B]) == {
        "image_list": [{"image": A}, {"image": B}]
    }
    assert _filled("videos/image2video", {"image": A}, [B]) == {"image": A, "image_tail": B}
    assert _filled("image-to-video/kling-4.0", {"contents": [{"type": "first_frame", "url": A}]}, [B]) == {
        "contents": [{"type": "first_frame", "url": A}, {"type": "last_frame", "url": B}]
    }


@pytest.mark.parametrize(
    ("path", "body", "images", "words"),
    [
        ("videos/text2video", {}, [A], "takes no images"),
        ("videos/video-extend", {}, [A], "takes no images"),
        ("images/something-new", {}, [A], "is not a known endpoint"),
        ("images/generations", {}, [A, B], "takes 1, as `image`"),
        ("images/generations", {"image": A}, [B], "`image` is set"),
        ("videos/image2video", {}, [A, B, C], "`image` and `image_tail`"),
        ("image-to-video/kling-4.0", {}, [A, B, C], "`contents`"),
        ("images/omni-image", {"image_list": "x"}, [A], "`image_list` must be a list"),
        ("videos/effects", {"input": "x"}, [A], "`input` must be an object"),
        ("general/advanced-custom-elements", {}, [A, B], "one, as"),
    ],
)
def test_images_without_a_place_are_refused_with_a_reason(path: str, body: Json, images: list[str], words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        _filled(path, body, images)

    assert words in str(caught.value)


def test_without_images_any_endpoint_is_accepted() -> None:
    assert _filled("videos/text2video", {"prompt": "p"}, []) == {"prompt": "p"}


def png(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((width + 1) * height))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def jpeg(width: int, height: int) -> bytes:
    jfif = b"\xff\xe0" + struct.pack(">H", 16) + b"JFIF\0" + bytes(9)
    table = b"\xff\xc4" + struct.pack(">H", 4) + b"\0\0"
    frame = b"\xff\xff\xc2" + struct.pack(">HBHHB", 11, 8, height, width, 1) + bytes(3)
    return b"\xff\xd8" + jfif + table + frame + b"\xff\xda" + bytes(8) + b"\xff\xd9"


@pytest.mark.parametrize("content", [png(300, 301), jpeg(640, 300), jpeg(640, 480)[:30], b"\x89PNG\r\n\x1a\n"])
def test_an_image_becomes_raw_base64(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(content)

    assert base64.b64decode(base64_image(path), validate=True) == content
    assert base64_image(str(path)) == base64_image(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (png(299, 500), "299 x 500"),
        (jpeg(500, 299), "500 x 299"),
        (b"GIF89a" + bytes(50), "neither a JPEG nor a PNG"),
        (b"", "neither a JPEG nor a PNG"),
        (png(300, 300) + bytes(10 * 1024 * 1024), "larger than 10 MB"),
    ],
    ids=["narrow png", "low jpeg", "gif", "empty", "large"],
)
def test_an_image_that_kling_would_refuse_is_an_error_with_the_limit(
    tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(content)

    with pytest.raises(InvalidRequest) as caught:
        base64_image(path)

    assert words in str(caught.value)
    assert "picture.png" in str(caught.value)


@pytest.mark.parametrize("name", ["missing.png", "", "nul\0.png"])
def test_a_missing_image_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidRequest):
        base64_image(tmp_path / name)
