"""Turns a task's change into an event and its deliveries. Pure."""
