"""Relay: SRT by way of the ``ffmpeg`` program, where PyAV's FFmpeg was built without it.

The program makes the connection and writes the packets, not decoded, as MPEG-TS into a pipe.
"""

from __future__ import annotations

import functools
import shutil
import subprocess

from streamseg.errors import SourceOpenError
from streamseg.sources.byte_reader import ByteReader

__all__ = ["Relay"]

_ASK_S = 10
_KILL_S = 0.5


class Relay:
    """A child process that reads a URL.

    Args:
        url: What it reads, credentials included; other users of this machine may see them in the
            list of processes, because the program takes them in no other way.
        name: For messages.
        timeout_s: How long one read may wait, in seconds.

    Raises:
        SourceOpenError: If there is no such program, or it does not know the URL's protocol.
    """

    def __init__(self, url: str, *, name: str, timeout_s: float) -> None:
        scheme = url.partition(":")[0].lower()
        program = shutil.which("ffmpeg")
        if program is None or scheme not in _protocols(program):
            found = "there is no ffmpeg on PATH" if program is None else f"{program} lacks it too"
            raise SourceOpenError(
                f"{name}: PyAV's FFmpeg was built without {scheme}, and {found}; install an ffmpeg "
                f"with lib{scheme} (Debian: apt-get install ffmpeg), or send MPEG-TS over udp or tcp"
            )
        self._process = subprocess.Popen(
            [
                program, "-hide_banner", "-loglevel", "error", "-nostdin",
                # Nothing is passed on before its own analysis is over: 5 s, if it is not told so.
                "-probesize", "500000", "-analyzeduration", "500000", "-fpsprobesize", "0",
                "-i", url, "-map", "0:v?", "-map", "0:a?", "-c", "copy",
                "-f", "mpegts", "-flush_packets", "1", "pipe:1",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # Ctrl-C at the terminal is for this process; it ends the child itself.
            start_new_session=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self.reader = ByteReader(
            self._process.stdout.fileno(),
            timeout_s=timeout_s,
            errors=self._process.stderr.fileno(),
        )

    def close(self) -> None:
        """End the child and release its pipes."""
        process = self._process
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_KILL_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.reader.close()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


@functools.cache
def _protocols(program: str) -> frozenset[str]:
    try:
        done = subprocess.run(
            [program, "-hide_banner", "-protocols"],
            capture_output=True,
            text=True,
            timeout=_ASK_S,
            stdin=subprocess.DEVNULL,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return frozenset()
    return frozenset(done.stdout.split())
