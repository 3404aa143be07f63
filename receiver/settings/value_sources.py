"""Where each value of the configuration comes from: a line of the file, a variable, or the defaults."""

from collections.abc import Mapping

import msgspec

from receiver.settings.toml_document import Document, Location, dotted

_DEFAULTS = "the defaults"


class ValueSources(msgspec.Struct, frozen=True, kw_only=True):
    """The source of each value: a line of the file, or an environment variable."""

    file: Document
    variables: Mapping[Location, str]

    def origin(self, location: Location) -> str:
        """Return the source of the value at *location*."""
        if self._variable(location):
            return "environment"
        line = self.file.lines.get(location)
        return f"{self.file.label}:{line}" if line else "default"

    def sort_key(self, location: Location) -> int:
        """Return the sort key of an error at *location*: errors in the file come before those in the environment."""
        return 1 << 30 if self._variable(location) else self._line(location)

    def prefix(self, location: Location) -> str:
        """Return the start of a sentence about *location*: its line, or the line of its nearest parent."""
        key = dotted(location)
        if variable := self._variable(location):
            return f"{variable}: {key}: "
        line = self._line(location)
        place = f"{self.file.label}:{line}" if line else self.file.label or _DEFAULTS
        return f"{place}: {key}: " if key else f"{place}: "

    def _variable(self, location: Location) -> str | None:
        for depth in range(len(location), 0, -1):
            if variable := self.variables.get(location[:depth]):
                return variable
        return None

    def _line(self, location: Location) -> int:
        for depth in range(len(location), 0, -1):
            if line := self.file.lines.get(location[:depth]):
                return line
        return 0
