"""A task's change becomes an event for the routes that want it. Pure."""
