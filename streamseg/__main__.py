"""``python -m streamseg`` and the ``streamseg`` command."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """Run the command line and exit with its code."""
    # Imports make objects that live for ever: looking for garbage among them takes a quarter of
    # their time, and later the same again in every full collection.
    gc.disable()
    from streamseg.cli.app import run_command

    gc.freeze()
    gc.enable()
    sys.exit(run_command(sys.argv[1:]))


if __name__ == "__main__":
    main()
