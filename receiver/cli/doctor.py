"""`kling-receiver doctor`: checks the whole installation, and says what each finding means and what to do."""

from collections import Counter

from receiver.cli import FAILED, OK, render
from receiver.cli.options import OUTPUT, OutputOptions

_COLUMNS = (
    render.id_column("name", "check"),
    render.state_column("status"),
    render.Column(
        title="what it means and what to do",
        value=lambda finding: finding["message"],
        short=lambda finding: f"{finding['message']} {finding['remedy']}".rstrip(),
        rank=0,
    ),
    render.Column(title="what to do", value=lambda finding: finding["remedy"], short=lambda _: ""),
)
"""A terminal has one wide column of text; a pipe has message and remedy apart."""


def doctor(*, output: OutputOptions = OUTPUT) -> int:
    """Check the configuration, the store, Kling, the public URL, the routes and the machine; exit 1 if any fails."""
    from receiver.service import logs
    from receiver.service.doctor.examination import examine

    logs.configure("error")  # the findings say what the log would say
    found = [
        {
            "name": finding.name,
            "status": finding.status.value,
            "message": finding.message,
            "remedy": finding.remedy,
            "details": dict(finding.details),
        }
        for finding in examine(output.config)
    ]
    if output.json:
        render.print_json(found)
    else:
        render.table(_COLUMNS, found, empty="")
    counts = Counter(finding["status"] for finding in found)
    if render.is_terminal() and not output.json:
        checks = "1 check" if len(found) == 1 else f"{len(found)} checks"
        render.notice(f"{checks}: {counts['ok']} ok, {counts['warning']} warnings, {counts['failed']} failed.")
    return FAILED if counts["failed"] else OK
