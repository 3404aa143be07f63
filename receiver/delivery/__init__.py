"""Deliver events to destinations: claim, attempt, decide."""
