"""Deliver events to destinations: claim, send, decide what follows."""
