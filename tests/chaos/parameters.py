"""Sizes and seed of the chaos tests, from environment variables: small for `make test`, large for `make soak`.

SEED makes a run repeatable. Without it each run uses a new seed and prints it.
"""

import os
import secrets


def env_int(name: str, default: int) -> int:
    """Return the number in the environment variable *name*, or the default of a short run."""
    return int(os.environ.get(name, "") or default)


def fresh_seed() -> int:
    """Return SEED, or a new seed."""
    return env_int("SEED", 0) or secrets.randbits(32)
