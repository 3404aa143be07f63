"""Which rows of a page are deleted. One page is one transaction, so that other writes never wait for long."""

from collections.abc import Sequence

from receiver.store.rows import Row

PAGE_SIZE = 100
"""The number of rows checked in one transaction."""

MAX_BYTES = 8 * 1024 * 1024
"""Bytes of bodies deleted in one transaction."""

MAX_ROWS = 1000
"""Dependent rows deleted in one transaction: attempts of events, pushes of tasks."""


def choose_rows(page: Sequence[Row], *, after: str, max_weight: int) -> tuple[list[str], str | None]:
    """Choose the deletable rows of a page, up to a total weight of *max_weight*, but at least one row.

    Return their ids, and the row before the next page, or None if nothing old is left.
    """
    chosen: list[str] = []
    weight, last = 0, after
    for row in page:
        if not row["is_old"]:
            return chosen, None
        if row["is_free"]:
            weight += row["weight"]
            if chosen and weight > max_weight:
                return chosen, last
            chosen.append(row["id"])
        last = row["id"]
    return chosen, last if len(page) == PAGE_SIZE else None
