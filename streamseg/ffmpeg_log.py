"""Keeps FFmpeg and the encoders inside it from writing to our stderr."""

from __future__ import annotations

import os
import threading

__all__ = ["quiet_ffmpeg"]

_once = threading.Lock()
_done = False


def quiet_ffmpeg() -> None:
    """Silence FFmpeg's log lines; may be called any number of times, from any thread.

    PyAV starts silent, but any library that called ``av.logging.restore_default_callback`` or
    ``set_level`` leaves it noisy, and a Python callback can deadlock with the GIL of a thread that
    FFmpeg waits for. SVT-AV1 does not use FFmpeg's log at all, only its own environment variable
    (0: fatal errors only), which it reads when an encoder opens. x265 needs an option of its own,
    which the file sink gives it.
    """
    global _done
    with _once:
        if _done:
            return
        import av.logging

        av.logging.set_level(None)
        os.environ.setdefault("SVT_LOG", "0")
        _done = True
