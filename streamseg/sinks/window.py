"""The parent's side of a preview window: starts its process, sends pictures, hears of keys."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, BinaryIO

from streamseg.errors import SinkOpenError, SinkWriteError
from streamseg.sinks.window_child import HEADER, PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["Window"]

_BOOT = (
    "import json, sys\n"
    "arguments = json.loads(sys.argv[1])\n"
    "sys.path[:] = arguments.pop('path')\n"
    "from streamseg.sinks.window_child import main\n"
    "sys.exit(main(**arguments))\n"
)
_INSTEAD = "or use --sink mjpeg://127.0.0.1:8090 or --sink null"
_START_TIMEOUT_S = 30.0  # loading OpenCV and Qt from a cold disk
_CLOSE_TIMEOUT_S = 0.5
_PIPE_BYTES = 1 << 20  # what an ordinary user may ask for; a 1080p picture then takes 6 turns


class Window:
    """A window in a process of its own.

    Args:
        title: What its frame shows.
        on_event: Called in a thread of the window with ``key <code>`` and ``closed``.
    """

    def __init__(self, title: str, on_event: Callable[[str], None]) -> None:
        self._title = title
        self._on_event = on_event
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._answered = threading.Event()  # ready, failed, or dead
        self._ready = False
        self._failed: str | None = None
        self._stopped = False
        self._last_words: deque[str] = deque(maxlen=8)
        self.closed_by_user = False
        self.shown = threading.Event()
        """Set once the first picture is on the screen."""

    def open(self, width: int, height: int) -> None:
        """Start the process and wait for its window.

        Args:
            width: Of the first picture in pixels.
            height: Of the first picture in pixels.

        Raises:
            SinkOpenError: If there is no display, or no OpenCV with windows.
        """
        environment = _environment()
        arguments = {"path": sys.path, "title": self._title, "width": width, "height": height}
        options: dict[str, Any] = {}
        if sys.platform == "win32":
            options["creationflags"] = subprocess.CREATE_NEW_PROCESS_GROUP
        else:
            # The terminal's Ctrl-C reaches the parent, which then closes the window.
            options["start_new_session"] = True
        try:
            process = self._process = subprocess.Popen(
                # -P, or a json.py in the user's current folder would be imported.
                [sys.executable, "-P", "-c", _BOOT, json.dumps(arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,  # Qt's warnings are kept for the error message
                bufsize=0,
                env=environment,
                **options,
            )
        except OSError as exc:
            raise SinkOpenError(
                f"no display: the window's process cannot be started: {exc.strerror or exc}; "
                "close other programs"
            ) from exc
        assert process.stdin is not None
        _enlarge(process.stdin.fileno())
        self._reader = threading.Thread(
            target=self._read, args=(process,), name="window events", daemon=True
        )
        self._reader.start()
        if self._stopped:  # while the process was being started
            process.kill()
        self._answered.wait(_START_TIMEOUT_S)
        if not self._ready:
            error = self._open_error()
            self.close()
            raise error

    def send(self, pixels: NDArray[Any], text: str) -> None:
        """Show a picture; waits until the process has taken it.

        Args:
            pixels: (H, W, 3) uint8 BGR, without padding.
            text: Lines to write over it.

        Raises:
            SinkWriteError: If the process has ended.
        """
        process = self._process
        assert process is not None
        assert process.stdin is not None
        words = text.encode()
        height, width = pixels.shape[:2]
        try:
            _write_all(process.stdin, HEADER.pack(width, height, len(words)) + words)
            _write_all(process.stdin, memoryview(pixels.data).cast("B"))
        except OSError as exc:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_CLOSE_TIMEOUT_S)
            raise SinkWriteError(
                f"the preview window is gone: {self._ending()}; is the display still there?"
            ) from exc

    def stop(self) -> None:
        """End the process at once, from any thread; what waits in the other methods fails."""
        self._stopped = True
        if self._process is not None:
            self._process.kill()
        self._answered.set()

    def close(self) -> None:
        """Close the window and wait for its process to end; may be called twice."""
        process = self._process
        if process is None:
            return
        with contextlib.suppress(OSError):
            if process.stdin is not None:
                process.stdin.close()
        try:
            process.wait(_CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if self._reader is not None and self._reader is not threading.current_thread():
            self._reader.join(_CLOSE_TIMEOUT_S)
        if process.stdout is not None and (self._reader is None or not self._reader.is_alive()):
            process.stdout.close()

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        rest = b""
        # Raw, not by lines: a line without an end may not fill the memory.
        while chunk := process.stdout.read(4096):
            *lines, rest = (rest + chunk).split(b"\n")
            rest = rest[-4096:]
            for line in lines:
                self._hear(line.decode("utf-8", "replace").strip())
        self._answered.set()

    def _hear(self, line: str) -> None:
        if not line.startswith(PREFIX):
            if line:
                self._last_words.append(line)
            return
        event = line.removeprefix(PREFIX)
        if event == "ready":
            self._ready = True
            self._answered.set()
        elif event == "shown":
            self.shown.set()
        elif event.startswith("failed "):
            self._failed = event.removeprefix("failed ")
        else:
            if event == "closed":
                self.closed_by_user = True
            self._on_event(event)

    def _open_error(self) -> SinkOpenError:
        process = self._process
        assert process is not None
        if self._failed is not None:
            if "not implemented" in self._failed:
                return SinkOpenError(
                    "no display: this OpenCV cannot open windows (headless OpenCV); pip uninstall "
                    f"opencv-python-headless, then pip install --force-reinstall opencv-python, {_INSTEAD}"
                )
            return SinkOpenError(
                f"no display: OpenCV cannot open a window: {self._failed[:200]}; {_INSTEAD[3:]}"
            )
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_CLOSE_TIMEOUT_S)
        if process.returncode is None:
            return SinkOpenError(
                f"no display: no window after {_START_TIMEOUT_S:g} s; check DISPLAY, {_INSTEAD}"
            )
        display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY", "")
        return SinkOpenError(
            f"no display: '{display}' cannot be opened ({self._ending()}); set DISPLAY to a "
            f"running X server, {_INSTEAD}"
        )

    def _ending(self) -> str:
        assert self._process is not None
        code = self._process.returncode
        if code is None:
            how = "its process does not answer"
        elif code < 0:
            how = f"its process was ended by signal {-code}"
        else:
            how = f"its process ended with code {code}"
        # Qt goes on to explain itself at length after the line that says what happened.
        words = [line for line in self._last_words if "display" in line or "X11" in line]
        words = words or [line for line in self._last_words if "QFont" not in line][-1:]
        return f"{how}: {words[0][:160]}" if words else how


def _environment() -> dict[str, str]:
    environment = dict(os.environ)
    if sys.platform in ("darwin", "win32"):
        return environment
    if not environment.get("DISPLAY") and not environment.get("WAYLAND_DISPLAY"):
        raise SinkOpenError(f"no display: DISPLAY is not set; set DISPLAY, {_INSTEAD}")
    if environment.get("DISPLAY"):
        # The Qt in OpenCV's wheels speaks X11 alone, whatever the desktop's own Qt does.
        environment["QT_QPA_PLATFORM"] = "xcb"
    return environment


def _enlarge(fd: int) -> None:
    if sys.platform == "linux":
        import fcntl

        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def _write_all(stream: Any, data: bytes | memoryview) -> None:
    raw: BinaryIO = stream
    view = memoryview(data)
    while view:
        view = view[raw.write(view) :]
