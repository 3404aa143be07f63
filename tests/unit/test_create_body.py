"""A client's callback URL and own id are found at the place of either API generation, and moved to the right one."""

import json

import pytest

from receiver.domain.errors import InvalidRequest
from receiver.domain.model import Generation
from receiver.kling import create_body
from receiver.kling.create_body import CreateBody

OURS = "https://hooks.example.com/callbacks/t"
THEIRS = "https://client.example.com/hook"


def composed(body: str, generation: Generation) -> CreateBody:
    return create_body.compose(body.encode(), generation=generation, callback_url=OURS, external_task_id="tsk_1")


def test_members_at_the_top_of_a_new_create_are_moved_to_its_options() -> None:
    body = composed(f'{{"prompt":"x","callback_url":"{THEIRS}","external_task_id":"mine","n":1E0}}', Generation.NEW)

    assert (body.reply_to, body.external_task_id) == (THEIRS, "mine")
    assert body.content == (
        f'{{"prompt":"x","n":1E0,"options":{{"callback_url":"{OURS}","external_task_id":"mine"}}}}'.encode()
    )


def test_members_in_the_options_of_a_legacy_create_are_moved_to_the_top() -> None:
    body = composed(
        f'{{"options":{{"a":1E0,"callback_url":"{THEIRS}","external_task_id":"mine"}},"prompt":"x"}}', Generation.LEGACY
    )

    assert (body.reply_to, body.external_task_id) == (THEIRS, "mine")
    assert body.content == (
        f'{{"options":{{"a":1E0}},"prompt":"x","callback_url":"{OURS}","external_task_id":"mine"}}'.encode()
    )


@pytest.mark.parametrize("generation", [Generation.NEW, Generation.LEGACY])
def test_of_two_callback_urls_the_documented_place_counts_and_only_ours_is_sent(generation: Generation) -> None:
    here, there = ("options", "top") if generation is Generation.NEW else ("top", "options")
    urls = {place: f"https://{place}.example.com/" for place in ("top", "options")}
    body = composed(json.dumps({"callback_url": urls["top"], "options": {"callback_url": urls["options"]}}), generation)

    assert body.reply_to == urls[here]
    assert urls[here].encode() not in body.content
    assert urls[there].encode() not in body.content
    assert body.content.count(OURS.encode()) == 1


@pytest.mark.parametrize("options", ["[1E0]", '"a"', "null", "{ }", '{"x": [ 1 ]}'])
def test_a_legacy_create_keeps_options_of_its_own_as_they_are(options: str) -> None:
    body = composed(f'{{"options": {options},"prompt":"x"}}', Generation.LEGACY)

    assert body.content.startswith(f'{{"options": {options},"prompt":"x",'.encode())


def test_a_callback_url_at_the_other_place_is_checked_too() -> None:
    with pytest.raises(InvalidRequest, match="`callback_url` must be an http or https URL"):
        composed('{"callback_url":"ftp://x","options":{}}', Generation.NEW)
