"""How hard the chaos tests try, and from which seed: short under `make test`, long under `make soak`, by environment.

SEED makes a run repeatable; without it each run tries something new and says which seed it was.
"""

import os
import secrets


def env_int(name: str, default: int) -> int:
    """Give the number in the environment variable *name*, else the one for a short run."""
    return int(os.environ.get(name, "") or default)


def fresh_seed() -> int:
    """Give SEED, else a new one."""
    return env_int("SEED", 0) or secrets.randbits(32)
