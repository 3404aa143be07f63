"""`kling-receiver serve`: the service itself."""

from receiver.cli.options import COMMON, Common


def serve(*, common: Common = COMMON) -> int:
    """Run the service until it is told to stop (SIGTERM or Ctrl-C)."""
    from receiver.service import run
    from receiver.settings import load

    return run(load(common.config))
