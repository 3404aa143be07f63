"""Train a dictionary for receiver/store/packing.py: `python -m harness.train_dictionary FILE`, in the folder tests.

The stored events need the dictionary they were written with, so a new one belongs to new marks in packing.py.
"""

import sys
from pathlib import Path

import zstandard
from harness.event_corpus import EventCorpus

_SIZE = 4096  # twice of it saves two bytes for each event
_LEVEL = 3
_EVENTS, _ANSWERS = 6000, 2000


def train() -> bytes:
    """Return the dictionary of a corpus of events, bodies and answers."""
    corpus = EventCorpus(seed=1)
    pairs = list(corpus.pairs(_EVENTS))
    samples: list[bytes | bytearray | memoryview] = [envelope + body for envelope, body in pairs]
    samples += [body for _, body in pairs[: _EVENTS // 4] if body]
    samples += corpus.answers(_ANSWERS)
    return zstandard.train_dictionary(_SIZE, samples, level=_LEVEL).as_bytes()


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(train())
