"""A route's ``where``: checked when the configuration is loaded, so that a slip does not wait for the first event."""

import re
import warnings
from collections.abc import Iterator

from receiver.settings.values import InvalidValue, did_you_mean, read_text

_DOUBLE_QUOTED_OPERAND = re.compile(r"""[=!<>]=?\s*"[^"]*"|"[^"]*"\s*[=!<>]=""")


def read_condition(raw: object) -> str | None:
    """Read a JMESPath expression; none from an empty string."""
    if raw is None or raw == "":
        return None
    text = read_text(raw)
    import jmespath  # noqa: PLC0415 -- only a configuration with conditions pays for it at start
    from jmespath.exceptions import JMESPathError  # noqa: PLC0415 -- as above
    from jmespath.functions import Functions  # noqa: PLC0415 -- as above

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", PendingDeprecationWarning)
            tree = jmespath.compile(text).parsed
    except PendingDeprecationWarning:
        raise InvalidValue("holds text between backticks, where JSON stands; text stands in 'single quotes'") from None
    except RecursionError:
        raise InvalidValue("is nested too deeply to be read") from None
    except (JMESPathError, ValueError, LookupError, TypeError, AttributeError) as exc:
        raise InvalidValue(f"is no JMESPath expression: {_describe_error(exc)}") from None
    for name in _called_functions(tree):
        if name not in Functions.FUNCTION_TABLE:
            raise InvalidValue(
                f'calls "{name}", which JMESPath does not have; {did_you_mean(name, Functions.FUNCTION_TABLE)}'
            )
    return text


def compares_with_quoted_key(text: str) -> bool:
    """Whether something is compared with a word in double quotes: to JMESPath that is a key, and hardly ever meant."""
    return _DOUBLE_QUOTED_OPERAND.search(text) is not None


def _called_functions(tree: object) -> Iterator[str]:
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if node.get("type") == "function_expression":
                yield str(node["value"])
            waiting.extend(node.get("children", ()))


def _describe_error(exc: Exception) -> str:
    line = next(iter(str(exc).splitlines()), "").rstrip(": ")
    said = re.sub(r"^(Bad|Invalid) jmespath expression: ", "", line).lower()
    return "equality is written ==" if "unknown token '='" in said else said or "it cannot be read"
