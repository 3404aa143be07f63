"""Bodies of Kling's and of gateways', out of the table that says what is made of them; and what can happen to them."""

import copy
import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from receiver.domain.model import Json

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "kling_bodies.json").read_text(encoding="utf-8"))
BODIES: list[Json] = [case["body"] for case in CASES if "body" in case]
KEYS = sorted({key for body in BODIES for key in body} | {"task_result", "task_info", "outputs", "billing", "n", "url"})

JUNK: list[object] = [
    *(
        None,
        True,
        False,
        0,
        -1,
        10**30,
        1.5,
        -0.0,
        1e308,
        "",
        " ",
        "0",
        "succeed",
        "\ud800",
        "\0",
        "é",
        "https://a",
        "1e999",
    ),
    *([], {}, [None], [[]], [{}], [{"url": 1}], {"url": None}, {"data": {"data": {"data": {}}}}, [1, "https://a", {}]),
    json.loads("[" * 150 + "]" * 150),
]
junk_values = st.sampled_from(JUNK)
any_json = st.recursive(
    junk_values, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)
)


@st.composite
def corrupted_bodies(draw: st.DrawFn) -> Json:
    """A body out of the table in which a few things are not what they were."""
    body: Json = copy.deepcopy(draw(st.sampled_from(BODIES)))
    for _ in range(draw(st.integers(1, 4))):
        at: Any = body
        while True:
            places = list(at) if isinstance(at, dict) else list(range(len(at)))
            if not places:
                break
            place = draw(st.sampled_from(places))
            if isinstance(at[place], dict | list) and draw(st.booleans()):
                at = at[place]
                continue
            match draw(st.sampled_from(["replace", "remove", "wrap", "list", "rename"])):
                case "remove":
                    del at[place]
                case "wrap":
                    at[place] = {"data": at[place]}
                case "list":
                    at[place] = [at[place], at[place]]
                case "rename" if isinstance(at, dict):
                    at[draw(st.sampled_from(KEYS))] = at.pop(place)
                case _:
                    at[place] = copy.deepcopy(draw(any_json))  # what is drawn may be spoilt in its turn
            break
    return body


@st.composite
def corrupted_bytes(draw: st.DrawFn) -> bytes:
    """The bytes of a body after something has happened to them."""
    body = json.dumps(draw(st.sampled_from(BODIES)), ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    start, end = sorted(draw(st.tuples(st.integers(0, len(body)), st.integers(0, len(body)))))
    return body[:start] + draw(st.binary(max_size=4) | st.just(body[start:end] * 2)) + body[end:]


def case_bytes(case: dict[str, Any]) -> bytes:
    """Give a case's body as it comes over the wire."""
    return case["text"].encode() if "text" in case else json.dumps(case["body"], ensure_ascii=False).encode()
