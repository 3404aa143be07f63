"""Kling, and nothing but Kling: its endpoints, its bodies, its API and its other side for tests."""
