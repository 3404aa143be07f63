"""Templates: plain text with expressions in braces."""

import re

import pytest

from receiver.domain.template import Expression, parse_template


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ()),
        ("plain", ("plain",)),
        ("{a}", (Expression("a"),)),
        ("Task { task.label } is done", ("Task ", Expression("task.label"), " is done")),
        ("{{a}}", ("{a}",)),
        ("{a}{b}", (Expression("a"), Expression("b"))),
        ("{ {x: a, y: b} }", (Expression("{x: a, y: b}"),)),
        ("{join('}', a)}", (Expression("join('}', a)"),)),
        (r"{join('it\'s }', a)}!", (Expression(r"join('it\'s }', a)"), "!")),
        ('{"a}b".c}', (Expression('"a}b".c'),)),
    ],
)
def test_a_template_is_split_into_texts_and_expressions(text: str, parts: tuple[str | Expression, ...]) -> None:
    assert parse_template(text) == parts


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a } b", 'has a "}" without "{" at character 3'),
        ("ab {c", 'has a "{" without "}" at character 4'),
        ("{join('}', a)", 'has a "{" without "}" at character 1'),
    ],
)
def test_an_unmatched_brace_is_an_error_with_its_place(text: str, error: str) -> None:
    with pytest.raises(ValueError, match=re.escape(error)):
        parse_template(text)
