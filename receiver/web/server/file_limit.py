"""Fits a listener into the number of files that the process may open.

Every connection is an open file. Without files left the listener accepts nothing, deliveries fail and the store cannot
open its own files.
"""

import resource

from msgspec.structs import replace

from receiver.web.server.connections import ConnectionLimits

_OTHER_FILES = 24  # of an idle service: the store, logs, sockets
_SHARE = 2 / 5  # of the other files, for each of the two listeners; the rest is for deliveries and downloads
_MIN_CONNECTIONS = 8
_MIN_BACKLOG = 16


def max_open_files() -> int:
    """Return how many files this process may open (`ulimit -n`)."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**31 if soft == resource.RLIM_INFINITY else soft


def fit_limits(limits: ConnectionLimits, *, files: int) -> ConnectionLimits:
    """Return *limits* with no more connections than a process with *files* open files can serve."""
    connections = min(limits.connections, max(_MIN_CONNECTIONS, int((files - _OTHER_FILES) * _SHARE)))
    if connections == limits.connections:
        return limits
    return replace(limits, connections=connections, per_peer=min(limits.per_peer, max(1, connections // 2)))


def fit_backlog(backlog: int, *, files: int) -> int:
    """Return how many connections may wait to be accepted. All of them may be accepted at once."""
    return min(backlog, max(_MIN_BACKLOG, files // 8))
