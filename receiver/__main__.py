"""``python -m receiver``: the same command as ``kling-receiver``."""

import sys

from receiver.cli import main

if __name__ == "__main__":
    sys.exit(main())
