"""The line numbers of a file: those of every key and every entry of a list."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.domain.errors import ConfigurationError
from receiver.settings.toml_document import Location, parse

TEXT = (
    '''
title = "a # no comment"  # [nor.a.section]
[kling]
"quoted key" = 1
a.b . 'c' = 2
text = """
[not]
a = "section"
"""""
plain = \'\'\'
x = 1\'\'\'
slots = { video = 1, "im\\u0061ge" = [
    2, # two
    { deep = 3 },
] }
when = 1979-05-27 07:32:00
[ kling . more ]
last = "\\"]"
[[routes]]
name = "first"
[routes.webhook]
url = "x"
[[routes]]
name = "second"
retry = ["1s",
  "2s", '''
    """'''3s'''"""
    """]
[[routes.steps]]
[[routes.steps]]
n = 1"""
)


def test_each_key_is_found_on_its_line() -> None:
    lines = parse(TEXT, label="config.toml").lines

    found = {".".join(map(str, location)): line for location, line in lines.items()}
    assert found == {
        "title": 2,
        "kling": 3,
        "kling.quoted key": 4,
        "kling.a": 5,
        "kling.a.b": 5,
        "kling.a.b.c": 5,
        "kling.text": 6,
        "kling.plain": 10,
        "kling.slots": 12,
        "kling.slots.video": 12,
        "kling.slots.image": 12,
        "kling.slots.image.0": 13,
        "kling.slots.image.1": 14,
        "kling.slots.image.1.deep": 14,
        "kling.when": 16,
        "kling.more": 17,
        "kling.more.last": 18,
        "routes": 19,
        "routes.0": 19,
        "routes.0.name": 20,
        "routes.0.webhook": 21,
        "routes.0.webhook.url": 22,
        "routes.1": 23,
        "routes.1.name": 24,
        "routes.1.retry": 25,
        "routes.1.retry.0": 25,
        "routes.1.retry.1": 26,
        "routes.1.retry.2": 26,
        "routes.1.steps": 27,
        "routes.1.steps.0": 27,
        "routes.1.steps.1": 28,
        "routes.1.steps.1.n": 29,
    }


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("\n[kling\n", "config.toml:2: is not TOML: "),
        ("a = 1\n\ntimeout = 30s\n", 'at column 13; text must be in quotes: key = "text"'),
        ("timeout = soon\n", 'Invalid value at column 11; text must be in quotes: key = "text"'),
        ("a = 1\na = 2\n", "config.toml:2: is not TOML: Cannot overwrite a value at column 6; the key is given twice"),
        ("[a]\n[a]\n", "config.toml:2: is not TOML: Cannot declare"),
        ("timeout\n", "a line must be a [section], or key = value"),
        ("a = [1,\n", "config.toml:2: is not TOML: "),
        ('a = "x\n', "config.toml:1: is not TOML: "),
        ("a = " + "[" * 100_000, "config.toml: is nested too deeply"),
        ("a = " + "1" * 5000, "config.toml: has an invalid number or date"),
        ("a = 2026-02-30", "config.toml:1: is not TOML: Invalid date or datetime"),
    ],
)
def test_invalid_toml_is_reported_by_its_line(text: str, fault: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(text, label="config.toml")

    assert fault in str(caught.value)
    assert str(caught.value).startswith("config.toml:")


def test_windows_line_ends_do_not_change_line_numbers() -> None:
    assert parse("a = 1\r\nb = [\r\n 2]\r\n", label="x").lines == {("a",): 1, ("b",): 2, ("b", 0): 3}


KEYS = st.text("abc-_ .\"'\\#é[]=", min_size=1, max_size=4)
PLAIN = st.one_of(
    st.integers(), st.booleans(), st.floats(allow_nan=False, allow_infinity=False), st.text("ab\"'\\#[]{}=,\né")
)
VALUES = st.recursive(PLAIN, lambda below: st.lists(below, max_size=3) | st.dictionaries(KEYS, below, max_size=3))
TABLES = st.dictionaries(KEYS, VALUES, max_size=4)


@given(top=TABLES, sections=st.dictionaries(KEYS, TABLES, max_size=3), routes=st.lists(TABLES, max_size=3))
def test_every_value_of_any_file_has_a_line(
    top: dict[str, Any], sections: dict[str, dict[str, Any]], routes: list[dict[str, Any]]
) -> None:
    text = _pairs({key: value for key, value in top.items() if key not in sections})
    text += "".join(
        f"# a line\n[{json.dumps(key, ensure_ascii=False)}]\n{_pairs(each)}" for key, each in sections.items()
    )
    text += "".join(f"[[routes]]\n\n{_pairs(each)}" for each in routes)

    document = parse(text, label="config.toml")

    assert set(document.lines) == set(_locations(document.values))
    assert list(document.lines.values()) == sorted(document.lines.values())


def _pairs(table: dict[str, Any]) -> str:
    return "".join(f"{json.dumps(key, ensure_ascii=False)} = {_written(value)} # end\n" for key, value in table.items())


def _written(value: object) -> str:
    if isinstance(value, dict):
        pairs = (f"{json.dumps(key, ensure_ascii=False)} = {_written(each)}" for key, each in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list):
        return "[\n" + ",# next\n".join(_written(each) for each in value) + "\n]"
    return json.dumps(value, ensure_ascii=False)


def _locations(value: object, above: Location = ()) -> Iterator[Location]:
    entries: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in entries:
        yield (*above, key)
        yield from _locations(each, (*above, key))
