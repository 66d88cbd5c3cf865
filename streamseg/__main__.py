"""``python -m streamseg`` and the ``streamseg`` command."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """Run the command line and exit with its code."""
    # Imports make objects that live for ever: looking for garbage among them takes a quarter of
    # their time, and later the same again in every full collection.
    gc.disable()
    try:
        from streamseg.cli.app import run_command

        gc.freeze()
        gc.enable()
        code = run_command(sys.argv[1:])
    except KeyboardInterrupt:  # while importing: nothing has been done yet
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
