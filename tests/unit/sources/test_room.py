"""The room itself: cheap to import, and importing only what is above it."""

from __future__ import annotations

import subprocess
import sys


def test_importing_the_room_loads_no_codec_library() -> None:
    code = "import sys, streamseg.sources; print('av' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_unknown_name_is_an_attribute_error() -> None:
    import streamseg.sources

    assert "FileSource" in dir(streamseg.sources)
    assert not hasattr(streamseg.sources, "NoSuchSource")
