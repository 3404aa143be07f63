"""Images in a create's body cost almost nothing to edit, and stay unchanged."""

import contextlib
import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.domain.errors import InvalidRequest, MalformedBody
from receiver.domain.model import Generation
from receiver.kling import create_body, raw_json
from receiver.kling.raw_json import truncate_strings

LONG = "iVBORw0KGgo/+A" * 6000 + "=="
OTHER = "/9j4AAQSkZJRg_-B" * 5000
URI = "data:image/jpeg;base64," + OTHER
OURS = "https://hooks.example.com/callbacks/tok"

pieces = st.sampled_from(
    [*'",:{}[]\\ =-', "{", '"a":', "1" * 70_000, "A" * 70_000, LONG, URI, '"', '"', '\\"', "null", "KLINGballast", "é"]
)


def compose(body: bytes) -> create_body.CreateBody:
    return create_body.compose(body, generation=Generation.LEGACY, callback_url=OURS, external_task_id="tsk_1")


@given(st.lists(pieces, max_size=14).map("".join))
def test_extracting_blobs_keeps_the_json_valid_or_invalid(text: str) -> None:
    body = text.encode()

    light = raw_json.extract_blobs(body)

    assert light.restore(light.text) == body
    assert is_json(light.text) == is_json(body)


def is_json(text: bytes) -> bool:
    with contextlib.suppress(ValueError):
        json.loads(text)
        return True
    return False


def test_images_reach_kling_unchanged() -> None:
    body = f'{{ "a":[ "{LONG}" ,{{"b":"{URI}"}}], "callback_url":"https://me.example/cb","n": 3 ,"c" : "{LONG}"}}'

    made = compose(body.encode())

    assert (
        made.content
        == (
            f'{{"a":[ "{LONG}" ,{{"b":"{URI}"}}],"n": 3,"c" : "{LONG}",'
            f'"callback_url":"{OURS}","external_task_id":"tsk_1"}}'
        ).encode()
    )
    assert made.reply_to == "https://me.example/cb"
    assert made.parsed["n"] == 3
    assert len(str(made.parsed)) < 20_000


def test_a_text_that_contains_a_placeholder_keeps_it() -> None:
    light = raw_json.extract_blobs(json.dumps({"image": LONG}).encode())
    everything = b"".join(raw_json._pad_marker(stem) for stem in raw_json._MARKERS)
    body = json.dumps({"image": LONG, "prompt": light.marker.decode() + "00000000"}).encode()
    full = json.dumps({"image": LONG, "prompt": everything.decode()}).encode()

    assert json.loads(compose(body).content)["prompt"] == light.marker.decode() + "00000000"
    assert json.loads(compose(full).content)["image"] == LONG


@pytest.mark.parametrize("member", ["callback_url", "external_task_id"])
def test_an_image_in_place_of_an_id_or_url_is_refused(member: str) -> None:
    with pytest.raises(InvalidRequest, match=member):
        compose(json.dumps({member: LONG}).encode())


def test_an_error_in_a_large_body_has_its_position() -> None:
    before = f'{{"image": "{LONG}", '

    with pytest.raises(MalformedBody, match=rf"line 1 column {len(before) + 1}\b"):
        compose(f"{before}oops}}".encode())


def test_a_truncated_image_keeps_its_size_and_digest() -> None:
    kept = json.loads(truncate_strings(json.dumps({"image": LONG, "uri": URI, "prompt": "é" * 2000, "n": 1}).encode()))

    assert kept["image"] == f"({len(LONG)} characters, sha256 {hashlib.sha256(LONG.encode()).hexdigest()[:16]})"
    assert kept["uri"] == f"({len(URI)} characters, sha256 {hashlib.sha256(URI.encode()).hexdigest()[:16]})"
    assert kept["prompt"].startswith("(2000 characters, ")
    assert kept["n"] == 1
