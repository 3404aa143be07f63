"""File names for the results of tasks: made of labels that people know, and safe on every file system. Pure."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

_UNSAFE = re.compile(r"[^\w.-]+")
_MAX_NAME = 80


def stems(tasks: Sequence[tuple[str, str | None]]) -> Iterator[str]:
    """Yield a file name for each task, given by its ID and label: the label, with the ID if several have it; or the ID.

    Case does not tell two labels apart: some file systems ignore it.
    """
    labels = [_UNSAFE.sub("-", label or "").strip("-.")[:_MAX_NAME] for _, label in tasks]
    counts = Counter(label.lower() for label in labels)
    for (task_id, _), label in zip(tasks, labels, strict=True):
        is_unique = label and counts[label.lower()] == 1
        yield label if is_unique else f"{label}-{task_id}" if label else task_id
