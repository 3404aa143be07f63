"""A refreshed result URL replaces the URL at the same place."""

import pytest

from receiver.domain.model import Json
from receiver.events.payload import match_refreshed_urls

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
def test_a_refreshed_url_is_the_one_at_the_same_place(old: Json, new: Json, expected: Json) -> None:
    assert match_refreshed_urls(old, new) == expected
