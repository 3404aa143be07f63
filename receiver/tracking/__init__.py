"""Follow tasks to their end: callbacks, polls and confirmations."""
