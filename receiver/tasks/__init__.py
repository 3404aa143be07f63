"""The rules of a task's life, and the services around it."""
