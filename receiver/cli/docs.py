"""`kling-receiver docs`: the manual, one subject at a time. Needs no service and no configuration."""

import sys
from dataclasses import dataclass
from importlib.resources import files
from typing import Annotated, Literal, Self, TypeAlias, get_args

from cyclopts import Parameter

from receiver.cli import OK, render
from receiver.cli.options import OUTPUT, OutputOptions
from receiver.domain.model import Json

Subject: TypeAlias = Literal[
    "submitting",
    "callbacks",
    "routes",
    "scripts",
    "webhooks",
    "resume-urls",
    "notifications",
    "batches",
    "costs",
    "archive",
    "configuration",
    "commands",
    "http-api",
    "client",
    "mcp",
    "console",
    "operations",
    "postgresql",
    "monitoring",
    "alerts",
    "promises",
    "benchmarks",
    "simulator",
    "development",
]
"""Every page, in reading order. Literals give shell completion, and make a typo a usage error."""

SUBJECTS: tuple[Subject, ...] = get_args(Subject)

_COLUMNS = (render.id_column("subject", "subject"), render.column("purpose"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page of the manual: its title, its sentence of purpose, and its whole Markdown source."""

    subject: Subject
    title: str
    purpose: str
    markdown: str

    @classmethod
    def load(cls, subject: Subject) -> Self:
        """Read the page on *subject* from the package."""
        markdown = (files("receiver") / "docs" / f"{subject}.md").read_text(encoding="utf-8")
        title, purpose, *_ = markdown.split("\n\n", 2)
        return cls(
            subject=subject, title=title.removeprefix("# "), purpose=" ".join(purpose.split()), markdown=markdown
        )

    def summary(self) -> Json:
        """Return the fields that a list shows."""
        return {"subject": self.subject, "title": self.title, "purpose": self.purpose}


def docs(
    subject: Annotated[Subject | None, Parameter(help="Subject to read about. Without one, list all subjects.")] = None,
    /,
    *,
    output: OutputOptions = OUTPUT,
) -> int:
    """List the subjects of the manual, or show the page on one.

    In a pipe a page is printed as its Markdown source.
    """
    if subject is None:
        items = [Page.load(each).summary() for each in SUBJECTS]
        render.page(_COLUMNS, {"items": items, "next": None}, as_json=output.json, empty="")
        return OK
    page = Page.load(subject)
    if output.json:
        render.print_json(page.summary() | {"markdown": page.markdown})
    elif render.is_terminal():
        from rich.markdown import Markdown

        # Relative links do not work in a terminal; the printed target names the subject to read next.
        render.console().print(Markdown(page.markdown, hyperlinks=False))
    else:
        sys.stdout.write(page.markdown)
    return OK
