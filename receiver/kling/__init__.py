"""Everything specific to Kling: its endpoints, bodies, API client, and a simulator of its API."""
