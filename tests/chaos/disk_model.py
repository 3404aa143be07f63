"""A model of a disk that loses power: which file operations a process did, and what may survive of them.

Only synced data is certain. Of the sectors written since a file's last sync any subset may survive, in any order. The
same holds for names created, removed or changed since their folder's last sync.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TypeAlias

from chaos.strace import Syscall, parse_string

TRACED_CALLS = "pwrite64,write,fsync,fdatasync,ftruncate,rename,unlink,mkdir,openat,close"
"""Calls that are recorded with their whole data, to rebuild the disk from them."""

UNSUPPORTED_CALLS = (
    "pwritev,pwritev2,writev,fallocate,copy_file_range,sendfile,truncate,renameat,renameat2,unlinkat,linkat"
)
"""Calls that change files and that this model does not support."""


@dataclass(frozen=True, slots=True)
class Write:
    file: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    file: int
    size: int


@dataclass(frozen=True, slots=True)
class Sync:
    """A sync: the disk holds the file as it was when the sync began."""

    file: int
    began: int


@dataclass(frozen=True, slots=True)
class SyncFolder:
    path: str
    began: int


@dataclass(frozen=True, slots=True)
class Link:
    """A path is bound to a file, or unbound. A folder is a file with its own number."""

    path: str
    file: int | None


@dataclass(frozen=True, slots=True)
class Output:
    """Text that the process printed: it acknowledges data that the disk must keep."""

    text: bytes


Step: TypeAlias = Write | Truncate | Sync | SyncFolder | Link | Output


def steps(calls: Iterable[Syscall], root: Path) -> list[Step]:
    """Return the file operations of a recorded process under *root*, and its standard output."""
    return _Reader(f"{root}/").read(calls)


class _Reader:
    """Maps descriptors to files. A write takes effect at its start, a sync at its end."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._numbers = itertools.count()
        self._names: dict[str, int] = {}
        self._open: dict[int, int | str] = {}
        self._at: dict[int, int] = {}  # file position per descriptor; the process never seeks
        self._syncing: dict[str, int] = {}
        self._steps: list[Step] = []

    def read(self, calls: Iterable[Syscall]) -> list[Step]:
        for call in calls:
            arguments = call.arguments.split(", ")
            match call.name:
                case "pwrite64" | "write" | "ftruncate" if call.begins:
                    self._on_write(call.name, arguments)
                case "fsync" | "fdatasync":
                    self._on_sync(call, int(arguments[0]))
                case "openat" if call.ends and call.result is not None and call.result >= 0:
                    self._on_open(parse_string(arguments[1]).decode(), arguments[2], call.result)
                case "close" if call.begins:
                    self._open.pop(int(arguments[0]), None)
                case "mkdir" | "unlink" | "rename" if call.ends and call.result == 0:
                    self._on_name_change(call.name, arguments)
                case name if name in UNSUPPORTED_CALLS.split(",") and call.begins:
                    file = self._open.get(int(arguments[0])) if arguments[0].isdigit() else None
                    assert file is None, f"{name} is a call that the disk does not know"
        return self._steps

    def _on_write(self, name: str, arguments: Sequence[str]) -> None:
        descriptor = int(arguments[0])
        if name == "write" and descriptor == 1:
            self._steps.append(Output(parse_string(arguments[1])))
        file = self._open.get(descriptor)
        if not isinstance(file, int):
            return
        match name:
            case "ftruncate":
                self._steps.append(Truncate(file, int(arguments[1])))
            case "write":
                data = parse_string(arguments[1])
                self._steps.append(Write(file, self._at[descriptor], data))
                self._at[descriptor] += len(data)
            case _:
                self._steps.append(Write(file, int(arguments[3]), parse_string(arguments[1])))

    def _on_sync(self, call: Syscall, descriptor: int) -> None:
        if call.begins:
            self._syncing[call.pid] = len(self._steps)
        if not call.ends or call.result != 0:
            return
        began = self._syncing.pop(call.pid)
        match self._open.get(descriptor):
            case int() as file:
                self._steps.append(Sync(file, began))
            case str() as folder:
                self._steps.append(SyncFolder(folder, began))

    def _on_open(self, path: str, flags: str, descriptor: int) -> None:
        if not f"{path}/".startswith(self._root) or path.endswith("-shm"):
            return  # a WAL index is shared memory and is not on the disk
        if path not in self._names and "O_CREAT" not in flags:
            self._open[descriptor] = path
            return
        if path not in self._names:
            self._link(path, next(self._numbers))
        self._open[descriptor] = self._names[path]
        self._at[descriptor] = 0

    def _on_name_change(self, how: str, arguments: Sequence[str]) -> None:
        path = parse_string(arguments[0]).decode()
        if not path.startswith(self._root) or path.endswith("-shm"):
            return
        match how:
            case "mkdir":
                self._steps.append(Link(path, next(self._numbers)))
            case "unlink":
                self._link(path, None)
            case _:
                file = self._names[path]
                self._link(path, None)
                self._link(parse_string(arguments[1]).decode(), file)

    def _link(self, path: str, file: int | None) -> None:
        self._steps.append(Link(path, file))
        if file is None:
            self._names.pop(path, None)
        else:
            self._names[path] = file


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerCut:
    """The point of the power cut, and how much unsynced data survives."""

    after: int
    survival_rate: float
    sector: int

    @classmethod
    def at_random(cls, rng: Random, count: int) -> "PowerCut":
        """Cut at a random point in *count* steps."""
        return cls(
            after=rng.randrange(1, count + 1),
            survival_rate=rng.choice([0.0, 0.1, 0.5, 0.9, 1.0, rng.random()]),
            sector=rng.choice([512, 4096]),
        )


@dataclass(slots=True)
class Disk:
    """The synced state, and the unsynced changes."""

    synced: dict[int, bytearray] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    writes: dict[int, list[tuple[int, Write | Truncate]]] = field(default_factory=dict)
    pending_links: list[tuple[int, Link]] = field(default_factory=list)
    output: bytearray = field(default_factory=bytearray)
    position: int = 0

    def run(self, steps: Sequence[Step], until: int) -> None:
        """Apply the next *steps*, up to this count."""
        for number in range(self.position, until):
            step = steps[number]
            match step:
                case Write(file=file) | Truncate(file=file):
                    self.writes.setdefault(file, []).append((number, step))
                case Link():
                    self.pending_links.append((number, step))
                case Sync(file=file, began=began):
                    self._sync_file(file, began)
                case SyncFolder(path=path, began=began):
                    self._sync_folder(path, began)
                case Output(text=text):
                    self.output += text
        self.position = until

    def _sync_file(self, file: int, began: int) -> None:
        content = self.synced.setdefault(file, bytearray())
        for number, step in self.writes.get(file, ()):
            if number < began:
                _apply(content, step)
        self.writes[file] = [(number, step) for number, step in self.writes.get(file, ()) if number >= began]

    def _sync_folder(self, folder: str, began: int) -> None:
        left = []
        for number, step in self.pending_links:
            if number < began and str(Path(step.path).parent) == folder:
                _apply_link(self.names, step)
            else:
                left.append((number, step))
        self.pending_links = left

    def write_surviving(self, target: Path, root: Path, cut: PowerCut, rng: Random) -> None:
        """Write to *target* what survives of *root*: an empty folder if nothing does."""
        target.mkdir()
        names = dict(self.names)
        for _, step in self.pending_links:
            if rng.random() < cut.survival_rate:
                _apply_link(names, step)
        present = {path: file for path, file in names.items() if self._is_reachable(path, names, root)}
        folders = {str(Path(path).parent) for path in present}
        for path, file in sorted(present.items()):
            place = target / Path(path).relative_to(root)
            if path in folders:
                place.mkdir(parents=True, exist_ok=True)
            else:
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(self._surviving_bytes(file, cut, rng))

    def _is_reachable(self, path: str, names: dict[str, int], root: Path) -> bool:
        parent = Path(path).parent
        return parent == root or (str(parent) in names and self._is_reachable(str(parent), names, root))

    def _surviving_bytes(self, file: int, cut: PowerCut, rng: Random) -> bytes:
        content = bytearray(self.synced.get(file, b""))
        for _, step in self.writes.get(file, ()):
            for piece in _sectors(step, cut.sector):
                if rng.random() < cut.survival_rate:
                    _apply(content, piece)
        return bytes(content)


def _sectors(step: Write | Truncate, sector: int) -> Iterator[Write | Truncate]:
    if isinstance(step, Truncate):
        yield step
        return
    start, end = step.offset, step.offset + len(step.data)
    while start < end:
        until = min(end, (start // sector + 1) * sector)
        yield Write(step.file, start, step.data[start - step.offset : until - step.offset])
        start = until


def _apply(content: bytearray, step: Write | Truncate) -> None:
    match step:
        case Truncate(size=size):
            del content[size:]
            content.extend(bytes(size - len(content)))
        case Write(offset=offset, data=data):
            content.extend(bytes(max(0, offset - len(content))))
            content[offset : offset + len(data)] = data


def _apply_link(names: dict[str, int], step: Link) -> None:
    if step.file is None:
        names.pop(step.path, None)
    else:
        names[step.path] = step.file
