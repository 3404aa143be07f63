"""A route's ``where`` condition, checked when the configuration is loaded rather than at the first event."""

import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from receiver.settings.values import InvalidValue, did_you_mean, read_text

_DOUBLE_QUOTED_OPERAND = re.compile(r"""[=!<>]=?\s*"[^"]*"|"[^"]*"\s*[=!<>]=""")

_DATA_MEMBERS = frozenset({"event_id", "status", "message", "source", "verified"})  # those that are text


def read_condition(raw: object) -> str | None:
    """Parse a JMESPath expression; None for an empty string."""
    if raw is None or raw == "":
        return None
    text = read_text(raw)
    import jmespath  # noqa: PLC0415 -- loaded only if the configuration has conditions
    from jmespath.exceptions import JMESPathError  # noqa: PLC0415 -- as above
    from jmespath.functions import Functions  # noqa: PLC0415 -- as above

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", PendingDeprecationWarning)
            tree = jmespath.compile(text).parsed
    except PendingDeprecationWarning:
        raise InvalidValue("has text between backticks, which are for JSON; write text in 'single quotes'") from None
    except RecursionError:
        raise InvalidValue("is nested too deeply") from None
    except (JMESPathError, ValueError, LookupError, TypeError, AttributeError) as exc:
        raise InvalidValue(f"is not a JMESPath expression: {_describe_error(exc)}") from None
    for name in _called_functions(tree):
        if name not in Functions.FUNCTION_TABLE:
            raise InvalidValue(
                f'calls "{name}", which is not a JMESPath function; {did_you_mean(name, Functions.FUNCTION_TABLE)}'
            )
    return text


def compares_with_quoted_key(text: str) -> bool:
    """Whether a comparison has an operand in double quotes. JMESPath reads it as a key, which is rarely intended."""
    return _DOUBLE_QUOTED_OPERAND.search(text) is not None


def bare_operand(text: str) -> str | None:
    """Return a name that a comparison has on its right, such as ``ads`` in ``task.label == ads``.

    JMESPath reads it as a member of the event's data. There are few of them, so it is probably text without quotes.
    """
    import jmespath  # noqa: PLC0415 -- loaded only if the configuration has conditions

    for node in _nodes(jmespath.compile(text).parsed):
        if node.get("type") == "comparator" and (right := node["children"][1])["type"] == "field":
            name = str(right["value"])
            if name not in _DATA_MEMBERS:
                return name
    return None


def _called_functions(tree: object) -> Iterator[str]:
    return (str(node["value"]) for node in _nodes(tree) if node.get("type") == "function_expression")


def _nodes(tree: object) -> Iterator[Mapping[str, Any]]:
    """Yield each node of a parsed expression."""
    pending = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            yield node
            pending.extend(node.get("children", ()))


def _describe_error(exc: Exception) -> str:
    line = next(iter(str(exc).splitlines()), "").rstrip(": ")
    reason = re.sub(r"^(Bad|Invalid) jmespath expression: ", "", line).lower()
    return "equality is written ==" if "unknown token '='" in reason else reason or "it cannot be parsed"
