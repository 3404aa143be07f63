"""Restarts while callbacks come in, the sockets held by systemd's protocol: callers notice nothing but a wait.

``RESTARTS`` is how many, ``SEED`` which moments.
"""

import asyncio
import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

import pytest
from chaos.parameters import fresh_seed, number
from harness.load import LIFE, Audit, Traffic, a_config_for_traffic
from harness.running_service import Receiver, a_sink, receiving
from harness.soak_report import Tell
from harness.support import until

RESTARTS = number("RESTARTS", 4)

# What systemd does between fork and exec: the sockets go to descriptors 3 and 4, the process is told what they are.
LAUNCH = """
import os, sys
for place, given in enumerate(sys.argv[1:3]):
    os.dup2(int(given), 3 + place, inheritable=True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="2", LISTEN_FDNAMES="public:admin")
os.execv(sys.executable, [sys.executable, "-m", "receiver", "serve", "--config", sys.argv[3]])
"""


class HeldReceiver(Receiver):
    """A receiver whose sockets stay open while it is away."""

    def __init__(self, folder: Path, config: str, *, environ: Mapping[str, str] | None = None) -> None:
        super().__init__(folder, config, environ=environ)
        addresses = (urlsplit(url) for url in (self.public, self.admin))
        self._held = [socket.create_server((each.hostname or "", each.port or 0), backlog=1024) for each in addresses]

    def spawn(self) -> None:
        """Start the process with copies of the sockets, out of the way of descriptors 3 and 4."""
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

    def let_go(self) -> None:
        """Close the sockets."""
        for each in self._held:
            each.close()


@pytest.mark.soak("restarted under load, sockets held", minutes=8)
@pytest.mark.timeout(120 + 10 * RESTARTS)
@pytest.mark.parametrize("keeps", [True, False], ids=["kept-alive", "a connection each"])
async def test_no_callback_is_refused_or_answered_with_an_error_across_restarts(
    tmp_path: Path, tell: Tell, keeps: bool
) -> None:
    seed = fresh_seed()
    rng = Random(seed)
    tell(seed=seed, restarts=RESTARTS)
    async with a_sink() as sink:
        receiver = HeldReceiver(tmp_path, a_config_for_traffic(sink), environ={LIFE: "0"})
        async with receiving(receiver):
            traffic, stop = Traffic(receiver, keeps=keeps), asyncio.Event()
            calling, up = asyncio.create_task(traffic.run(stop)), 0.0

            for life in range(1, RESTARTS + 1):
                up += await _some_time(traffic, rng)
                assert await receiver.stop() == 0
                receiver.environ[LIFE] = str(life)
                await receiver.start()
            stop.set()
            await calling
            await until(lambda: receiver.rows("SELECT count(*) FROM deliveries WHERE status <> 'delivered'") == [(0,)])
            assert await receiver.stop() == 0
            receiver.let_go()

        audit = Audit.of(traffic, sink)
        tell(
            callbacks_acknowledged=audit.promised,
            a_second=round(audit.promised / up),
            refused=traffic.refused,
            cut_off_unanswered=traffic.broken,
            of_them_lost=audit.lost,
            events_undelivered=audit.undelivered,
            sent_twice=audit.twice_in_one_life + audit.again.total(),
            answers=traffic.statuses,
        )
        assert (traffic.refused, set(traffic.statuses)) == (0, {200, 201})
        assert traffic.broken <= (RESTARTS * 2 * traffic.callers if keeps else 0)  # an idle connection is let go
        assert (audit.lost, audit.undelivered, audit.unknown) == (0, 0, 0)
        assert (audit.twice_in_one_life, audit.again.total()) == (0, 0)


async def _some_time(traffic: Traffic, rng: Random) -> float:
    """Let some hundred callbacks be taken; tell how long that took."""
    began = asyncio.get_running_loop().time()
    enough = len(traffic.promised) + rng.randrange(100, 300)
    await until(lambda: len(traffic.promised) >= enough, within=60)
    return asyncio.get_running_loop().time() - began
