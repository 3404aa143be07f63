"""What may become of a task."""
