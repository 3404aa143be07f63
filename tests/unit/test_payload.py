"""The event's JSON around Kling's body; a refreshed result URL replaces the URL at the same place."""

import json

import pytest
from harness.factories import an_event

from receiver.domain.model import Json
from receiver.events.payload import match_refreshed_urls, serialize

OLD = "https://a.example/0?s=1"
NEW = "https://b.example/0?s=2"
OTHER = "https://b.example/1"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"images": [{"index": 0, "url": OLD}]}, {"images": ({"index": 0, "url": NEW},)}, {OLD: NEW}),
        ({"videos": [{"url": OLD}]}, {"videos": [{"url": NEW, "watermark_url": OTHER}]}, {OLD: NEW}),
        ({"videos": [{"url": OLD}]}, {"videos": [{"url": NEW}], "audios": [{"url": OTHER}]}, {OLD: NEW}),
        ({"videos": [{"url": OLD, "cover": {"url": OTHER}}]}, {"videos": [{"url": NEW}]}, {OLD: NEW}),
        ({"images": [{"url": OTHER}, {"url": OLD}]}, {"images": [{"url": "gone"}, {"url": NEW}]}, {OLD: NEW}),
        ({"images": [{"url": OLD}]}, {"images": []}, {}),
        ({"images": [{"url": OLD}]}, {"videos": [{"url": NEW}]}, {}),
        ({"images": [{"url": OLD}]}, {"images": [{"url": "file:///etc/passwd"}]}, {}),
        ({"images": [{"url": OLD}]}, {"images": [{"url": [NEW]}]}, {}),
        ({"images": [{"url": OLD}]}, {}, {}),
    ],
)
def test_a_refreshed_url_is_matched_by_its_position(old: Json, new: Json, expected: Json) -> None:
    assert match_refreshed_urls(old, new) == expected


def test_a_body_that_begins_with_a_byte_order_mark_makes_valid_json() -> None:
    event = an_event(
        body=b'\xef\xbb\xbf {"task_id": "8", "x": 1.0}\r\n', envelope=b'{"type":"task.succeed","data":{"a":1}}'
    )

    assert json.loads(serialize(event))["data"] == {"a": 1, "kling": {"task_id": "8", "x": 1.0}}
