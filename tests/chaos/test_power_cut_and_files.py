"""The power goes while results come home: what was told of is there, whole, and nothing else has a file's name."""

import hashlib
import shutil
import subprocess
from pathlib import Path
from random import Random

import pytest
from chaos.disk_model import FORBIDDEN, WRITING, Cut, Disk, Said, steps
from chaos.download_process import SIZES, content
from chaos.parameters import fresh_seed, number
from chaos.strace import ENVIRONMENT, TESTS, calls, needs_strace, recording
from harness.soak_report import Tell

CUTS = min(number("CUTS", 50), 1000)

pytestmark = [needs_strace, pytest.mark.timeout(0)]


@pytest.mark.soak("power cut while results come home", minutes=5)
def test_a_power_cut_leaves_whole_files_under_their_names_or_none(tmp_path: Path, memory: Path, tell: Tell) -> None:
    seed, root, log = fresh_seed(), tmp_path / "disk", tmp_path / "log"
    root.mkdir()
    options = ["-xx", "-s", "100000000", "-e", f"trace={WRITING},{FORBIDDEN}"]
    recorded = subprocess.run(
        recording(
            TESTS / "chaos" / "download_process.py", str(root / "results" / "tsk_1" / "evt_1"), options=options, log=log
        ),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert recorded.returncode == 0, recorded.stderr
    done = steps(calls(log), root)
    whole = {f"{n}.png": hashlib.sha256(content(n)).hexdigest() for n in range(len(SIZES))}
    assert sum(isinstance(step, Said) for step in done) == len(SIZES)
    tell(seed=seed, cuts=CUTS, steps_recorded=len(done))

    disk = Disk()
    planned = ((Cut.at_random(rng, len(done)), n, rng) for n in range(CUTS) for rng in [Random(f"{seed}/{n}")])
    for cut, n, rng in sorted(planned, key=lambda place: place[0].after):
        disk.run(done, cut.after)
        disk.write_remains(memory / str(n), root, cut, rng)

        found = {path.name: path for path in (memory / str(n)).rglob("*") if path.name in whole}
        told = dict(line.split()[1:] for line in disk.said.decode().splitlines())
        assert told.keys() <= found.keys(), f"SEED={seed}, {cut}"
        for name, path in found.items():
            assert hashlib.sha256(path.read_bytes()).hexdigest() == whole[name], f"SEED={seed}, {cut}: {name}"
        shutil.rmtree(memory / str(n), ignore_errors=True)
