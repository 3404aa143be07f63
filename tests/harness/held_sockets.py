"""A receiver whose listening sockets outlive its processes, as systemd holds them."""

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from harness.running_service import Receiver

# As systemd does between fork and exec: the sockets become descriptors 3 and 4, named by environment variables.
LAUNCH = """
import os, sys
for place, given in enumerate(sys.argv[1:3]):
    os.dup2(int(given), 3 + place, inheritable=True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="2", LISTEN_FDNAMES="public:admin")
os.execv(sys.executable, [sys.executable, "-m", "receiver", "serve", "--config", sys.argv[3]])
"""


class SocketHoldingReceiver(Receiver):
    """A receiver whose sockets stay open while the process is down."""

    def __init__(self, folder: Path, config: str, *, environ: Mapping[str, str] | None = None) -> None:
        super().__init__(folder, config, environ=environ)
        addresses = (urlsplit(url) for url in (self.public, self.admin))
        self._held = [socket.create_server((each.hostname or "", each.port or 0), backlog=1024) for each in addresses]

    def spawn(self) -> None:
        """Start the process with copies of the sockets, clear of descriptors 3 and 4."""
        given = [fcntl.fcntl(each.fileno(), fcntl.F_DUPFD, 100) for each in self._held]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", LAUNCH, *map(str, given), str(self.config_path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environ,
                cwd=self.folder,
                pass_fds=given,
            )
        for each in given:
            os.close(each)

    def close_sockets(self) -> None:
        """Close the sockets."""
        for each in self._held:
            each.close()
