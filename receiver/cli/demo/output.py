"""How the demo tells its story: numbered lines with times for a person, JSON lines for a program."""

from collections.abc import Mapping, Sequence
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
        """How long the story has been going on."""
        return perf_counter() - self._started

    def step(self, name: str, title: str, detail: str, **facts: object) -> None:
        """Tell the next step: *what* names it for programs, *title* and *detail* say it."""
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
        """Say what this is going to be."""
        self._print(text, style="bold", blank_after=True)

    def finish(self, text: str, *, style: str = "bold green", **facts: object) -> None:
        """Say how it ended."""
        if self._as_json:
            self._print_json("done", ok=True, detail=text, **facts)
        else:
            self._print(text, style=style, blank_before=True)

    def fail(self, text: str) -> None:
        """Say why it did not end well; programs read it here, people on stderr."""
        if self._as_json:
            self._print_json("done", ok=False, detail=text)

    def show_running(self, places: Mapping[str, str], commands: Sequence[str]) -> None:
        """Say what goes on running where, and what a person may try."""
        if self._as_json:
            self._print_json("kept", **places, commands=commands)
            return
        self._print("Everything keeps running until Ctrl-C.", style="", blank_after=True)
        render.details(places.items())
        self._print("Try, in another terminal:", style="bold", blank_before=True, blank_after=True)
        for command in commands:
            self._print(f"  {command}", style="cyan")

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
