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
    "batches",
    "costs",
    "archive",
    "configuration",
    "commands",
    "http-api",
    "client",
    "operations",
    "alerts",
    "promises",
    "benchmarks",
    "simulator",
    "development",
]
"""Every page, in reading order. Literals, so that shells complete them and a typo is a usage error."""

SUBJECTS: tuple[Subject, ...] = get_args(Subject)

_COLUMNS = (render.id_column("subject", "subject"), render.column("purpose"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page of the manual: a title, a sentence of purpose, and the Markdown source of both and the rest."""

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
        """Return what a list shows of the page."""
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

        # A relative link leads nowhere from a terminal; its target, written out, names the subject to read next.
        render.console().print(Markdown(page.markdown, hyperlinks=False))
    else:
        sys.stdout.write(page.markdown)
    return OK
