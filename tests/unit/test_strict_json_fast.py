"""The fast parser of small bodies reads what the slow one reads, or leaves the body to it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.domain.errors import MalformedBody
from receiver.kling import strict_json

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


def _parse(body: bytes, *, fast: bool) -> tuple[Any, bool] | str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strict_json, "_FAST_SIZE", 4096 if fast else 0)
        try:
            return strict_json.parse(body)
        except MalformedBody as exc:
            return exc.message


@given(st.dictionaries(st.text(max_size=5), _VALUES, max_size=5), st.booleans(), st.booleans())
def test_both_parsers_read_the_same_value(document: dict[str, Any], ascii_only: bool, compact: bool) -> None:
    separators = (",", ":") if compact else (", ", ": ")
    text = json.dumps(document, ensure_ascii=ascii_only, separators=separators)
    body = text.encode("utf-8", "surrogatepass")

    fast, slow = _parse(body, fast=True), _parse(body, fast=False)

    assert repr(fast) == repr(slow)


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": 1, "a": 2}',
        b'{"a":2,"a":2}',
        b'{"a": {"b": 1, "b" : 2}}',
        b'{"a": [{"b": 1, "\\u0062": 2}]}',
        b'{"a": "text\\": more"}',
        b'{"a": 1e400}',
        b'{"a": NaN}',
        b'{"a": "\\ud800"}',
        b'{"a": 123456789012345678901234567890, "b": -0, "c": 1E5}',
        b'{"a": "\xff"}',
        b"[1]",
        b'{"a": 1,}',
        b'{"a": "\t"}',
        b"",
    ],
)
def test_both_parsers_agree_on_odd_bodies(body: bytes) -> None:
    assert repr(_parse(body, fast=True)) == repr(_parse(body, fast=False))
