"""Runs `kling-receiver doctor` as a user does, and reads its findings."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.run_cli import clean_environment

EXPIRED = Path(__file__).parents[1] / "data" / "expired.localhost.pem"
"""A certificate for localhost that it signed itself and that ended in 2021, with its key."""

OTHER_NAME = EXPIRED.with_name("host.example.pem")
"""A valid certificate for another name."""


@dataclass(frozen=True, slots=True)
class Report:
    """The findings of a run, and its exit code."""

    findings: list[dict[str, Any]]
    code: int
    text: str

    def all(self, name: str) -> list[dict[str, Any]]:
        return [finding for finding in self.findings if finding["name"] == name]

    def one(self, name: str) -> dict[str, Any]:
        """Return the only finding of a check."""
        (finding,) = self.all(name)
        return finding

    def says(self, name: str) -> tuple[str, str, str]:
        """Return status, message and remedy of the only finding of a check."""
        finding = self.one(name)
        return finding["status"], finding["message"], finding["remedy"]

    @property
    def failed(self) -> set[str]:
        return {finding["name"] for finding in self.findings if finding["status"] == "failed"}


def run_doctor(
    config: Path, *, files: int | None = None, processes: int | None = None, environ: Mapping[str, str] | None = None
) -> Report:
    """Run the command with ``--json`` in the folder of its configuration, with these limits."""
    command = [sys.executable, "-m", "receiver", "doctor", "--json", "--config", str(config)]
    for option, limit in (("n", files), ("u", processes)):
        if limit is not None:
            command = ["bash", "-c", f'ulimit -{option} {limit}; exec "$@"', "bash", *command]
    done = subprocess.run(
        command,
        cwd=config.parent,
        env=clean_environment(**(environ or {})),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == "", done.stderr
    return Report(json.loads(done.stdout), done.returncode, done.stdout)


def trusting(certificate: Path) -> dict[str, str]:
    """Return the environment in which a certificate counts as issued by a trusted authority."""
    return {"SSL_CERT_FILE": os.fspath(certificate)}
