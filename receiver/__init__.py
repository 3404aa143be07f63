"""Kling Receiver: takes Kling's callbacks in, keeps them, and starts what is to follow."""

__version__ = "0.1.0"
