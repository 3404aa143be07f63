"""The console's menu."""

import msgspec


class NavigationItem(msgspec.Struct, frozen=True):
    """A line of the menu: the name of a page and its path."""

    title: str
    path: str

    def contains(self, path: str) -> bool:
        """Return whether a page belongs under this line."""
        if self.path == "/console":
            return path == self.path
        return path == self.path or path.startswith(f"{self.path}/")


NAVIGATION = (
    NavigationItem("Now", "/console"),
    NavigationItem("Tasks", "/console/tasks"),
    NavigationItem("Results", "/console/results"),
    NavigationItem("Submit", "/console/submit"),
    NavigationItem("Events", "/console/events"),
    NavigationItem("Deliveries", "/console/deliveries"),
    NavigationItem("Routes", "/console/routes"),
    NavigationItem("Alerts", "/console/alerts"),
    NavigationItem("Batches", "/console/batches"),
    NavigationItem("Costs", "/console/costs"),
    NavigationItem("Configuration", "/console/configuration"),
    NavigationItem("Manual", "/console/manual"),
)
