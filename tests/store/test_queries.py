"""How named queries are parsed."""

from pathlib import Path
from types import ModuleType

import pytest

from receiver.store.named_queries import parse, read_queries
from receiver.store.postgres import queries as postgres
from receiver.store.sqlite import queries as sqlite

TEXT = """-- About the file.

-- name: one
-- Finds things.
-- In two lines.
SELECT *
FROM things
WHERE TRUE
  AND id = :id -- if id
  AND kind IN (:many);

-- name: two
-- Says two.
SELECT 2;
"""


def test_a_query_has_its_name_its_purpose_and_its_statement() -> None:
    found = parse(TEXT)

    assert list(found) == ["one", "two"]
    assert found["one"].purpose == "Finds things. In two lines."
    assert found["two"].sql == "SELECT 2"


def test_an_optional_line_depends_on_its_argument() -> None:
    one = parse(TEXT)["one"]

    assert "  AND id = :id\n" in one.with_optional({"id": "x"})
    assert "id = :id" not in one.with_optional({"id": None})
    assert "id = :id" not in one.with_optional({})


def test_the_many_parameter_becomes_as_many_placeholders() -> None:
    assert parse(TEXT)["one"].with_list(3).endswith("kind IN (?, ?, ?)")


def test_a_duplicate_query_name_is_an_error() -> None:
    with pytest.raises(ValueError, match="two"):
        parse(TEXT + "-- name: two\nSELECT 3;\n")


@pytest.mark.parametrize("database", [sqlite, postgres], ids=["sqlite", "postgres"])
def test_every_query_has_a_purpose(database: ModuleType) -> None:
    assert [query.name for query in database.queries().values() if not query.purpose.endswith(".")] == []


def test_a_name_of_a_shared_query_is_taken_in_both_databases(tmp_path: Path) -> None:
    (tmp_path / "own.sql").write_text("-- name: console_session\nSELECT 1;\n")

    with pytest.raises(ValueError, match="console_session"):
        read_queries(tmp_path)


def test_a_statement_that_both_databases_run_alike_is_shared(tmp_path: Path) -> None:
    shared = read_queries(tmp_path)
    own = [{query.name: query.sql for query in each.queries().values()} for each in (sqlite, postgres)]

    assert [name for name in own[0].keys() & own[1].keys() - shared.keys() if own[0][name] == own[1][name]] == []
