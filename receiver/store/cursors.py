"""Cursors of lists. A client sees only that a cursor continues a list, so it does not depend on the form of one."""

import base64
import binascii

from receiver.domain.errors import InvalidRequest


def encode_cursor(last_id: str) -> str:
    """Return the cursor of the page after the item *last_id*."""
    return base64.urlsafe_b64encode(last_id.encode()).decode().rstrip("=")


def decode_cursor(cursor: str | None, *, prefix: str) -> str | None:
    """Return the id in a cursor. Raises InvalidRequest if its prefix is not the list's."""
    if cursor is None:
        return None
    try:
        last_id = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
    except (ValueError, binascii.Error) as exc:
        raise InvalidRequest("The cursor is not valid.", remedy="Start again without a cursor.") from exc
    if not last_id.startswith(f"{prefix}_"):
        raise InvalidRequest("The cursor belongs to another list.", remedy="Start again without a cursor.")
    return last_id
