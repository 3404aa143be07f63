"""The demo's output: numbered lines with times, or JSON lines for programs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter

from receiver.cli import render


class DemoOutput:
    """Prints each step as it happens."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._rich = render.is_terminal() and not as_json
        self._started = perf_counter()
        self._steps = 0

    @property
    def seconds(self) -> float:
        """Seconds since the demo started."""
        return perf_counter() - self._started

    def step(self, name: str, title: str, detail: str, **facts: object) -> None:
        """Print the next step. *name* identifies it for programs; *title* and *detail* are for people."""
        self._steps += 1
        if self._as_json:
            self._print_json(name, step=self._steps, title=title, detail=detail, **facts)
        elif self._rich:
            from rich.text import Text

            head = Text.assemble(
                (f"{self._steps:>3} ", "bold cyan"),
                (f"{self.seconds:5.2f} s  ", "dim"),
                (f"{title:<19} ", "bold"),
            )
            render.console().print(head + Text(render.clean(detail)), soft_wrap=True)
        else:
            render.print_line(self._steps, f"{self.seconds:.2f} s", title, detail)

    def introduce(self, text: str) -> None:
        """Print the introduction."""
        self._print(text, style="bold", blank_after=True)

    def finish(self, text: str, *, style: str = "bold green", **facts: object) -> None:
        """Print the successful end."""
        if self._as_json:
            self._print_json("done", ok=True, detail=text, **facts)
        else:
            self._print(text, style=style, blank_before=True)

    def fail(self, text: str) -> None:
        """Print the failure as JSON; without JSON, the error goes to stderr instead."""
        if self._as_json:
            self._print_json("done", ok=False, detail=text)

    def show_running(self, places: Mapping[str, str], commands: Sequence[str]) -> None:
        """Print the addresses and files in use, and commands to try."""
        if self._as_json:
            self._print_json("kept", **places, commands=commands)
            return
        self._print("Everything keeps running until Ctrl-C.", style="", blank_after=True)
        render.details(places.items())
        self._print("Try, in another terminal:", style="bold", blank_before=True, blank_after=True)
        for command in commands:
            self._print(f"  {command}", style="cyan")

    def show_kept(self, folder: Path) -> None:
        """Print where the files of the ended demo are: its configuration, store, logs and what the script wrote."""
        if self._as_json:
            self._print_json("folder", folder=str(folder))
            return
        self._print(f"The demo has stopped. Its files are in {folder}; to delete them: rm -r {folder}", style="")

    def _print(self, text: str, *, style: str, blank_before: bool = False, blank_after: bool = False) -> None:
        if self._as_json:
            return
        if not self._rich:
            render.print_line(text)
            return
        from rich.text import Text

        console = render.console()
        if blank_before:
            console.print()
        console.print(Text(text, style=style), soft_wrap=True)
        if blank_after:
            console.print()

    def _print_json(self, name: str, **facts: object) -> None:
        render.print_json_line({"what": name, "seconds": round(self.seconds, 3), **facts})
