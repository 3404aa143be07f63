"""A power cut during downloads: reported files are complete, and no partial file has a final name."""

import hashlib
import shutil
import subprocess
from pathlib import Path
from random import Random

import pytest
from chaos.disk_model import TRACED_CALLS, UNSUPPORTED_CALLS, Disk, Output, PowerCut, steps
from chaos.download_process import SIZES, content
from chaos.parameters import env_int, fresh_seed
from chaos.strace import ENVIRONMENT, TESTS, read_syscalls, requires_strace, trace_command
from harness.soak_report import RecordCounts

CUTS = min(env_int("CUTS", 50), 1000)

pytestmark = [requires_strace, pytest.mark.timeout(0)]


@pytest.mark.soak("power cut while results are archived", minutes=5)
def test_a_power_cut_leaves_complete_files_or_none(
    tmp_path: Path, memory_folder: Path, record_counts: RecordCounts
) -> None:
    seed, root, log = fresh_seed(), tmp_path / "disk", tmp_path / "log"
    root.mkdir()
    options = ["-xx", "-s", "100000000", "-e", f"trace={TRACED_CALLS},{UNSUPPORTED_CALLS}"]
    recorded = subprocess.run(
        trace_command(
            TESTS / "chaos" / "download_process.py", str(root / "results" / "tsk_1" / "evt_1"), options=options, log=log
        ),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert recorded.returncode == 0, recorded.stderr
    done = steps(read_syscalls(log), root)
    whole = {f"{n}.png": hashlib.sha256(content(n)).hexdigest() for n in range(len(SIZES))}
    assert sum(isinstance(step, Output) for step in done) == len(SIZES)
    record_counts(seed=seed, cuts=CUTS, steps_recorded=len(done))

    disk = Disk()
    planned = ((PowerCut.at_random(rng, len(done)), n, rng) for n in range(CUTS) for rng in [Random(f"{seed}/{n}")])
    for cut, n, rng in sorted(planned, key=lambda place: place[0].after):
        disk.run(done, cut.after)
        disk.write_surviving(memory_folder / str(n), root, cut, rng)

        found = {path.name: path for path in (memory_folder / str(n)).rglob("*") if path.name in whole}
        told = dict(line.split()[1:] for line in disk.output.decode().splitlines())
        assert told.keys() <= found.keys(), f"SEED={seed}, {cut}"
        for name, path in found.items():
            assert hashlib.sha256(path.read_bytes()).hexdigest() == whole[name], f"SEED={seed}, {cut}: {name}"
        shutil.rmtree(memory_folder / str(n), ignore_errors=True)
