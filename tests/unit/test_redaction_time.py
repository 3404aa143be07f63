"""The time to redact a text is proportional to its length, whatever is repeated in it."""

import time

import pytest

from receiver.domain.redaction import Redactor

SIZE = 1 << 17
GROWTH = 8
WORDS = " /callbacks/ /console/login/ bearer whsec_ eyJ @ ://"  # so that no pattern is skipped
REPEATED = ["://", "://a", "://a:", "a@://", "://a?", "eyJ-", "-eyJ", "eyJa.", ".eyJ", "bearer ", "whsec_", "-whsec_"]
REPEATED += ["callbacks/", "/callbacks/", "/console/login/", "/callbacks/a", "callbacks%2F", "callbacks\\/", "@", "a"]
TEXTS = {each: each * (SIZE // len(each)) for each in REPEATED} | {
    "blanks after bearer": "bearer" + " " * SIZE,
    "backslashes after callbacks": "callbacks" + "\\" * SIZE,
}


def seconds(text: str) -> float:
    """Return the processor time to redact a text, the least of three."""
    took = []
    for _ in range(3):
        begun = time.thread_time()
        Redactor().text(text + WORDS)
        took.append(time.thread_time() - begun)
    return min(took)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_the_time_to_redact_grows_in_proportion_to_the_text(text: str) -> None:
    small, large = seconds(text[: SIZE // GROWTH]), seconds(text)

    assert large < 3 * GROWTH * small + 0.02
