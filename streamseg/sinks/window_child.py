"""The process of a preview window: pictures come in on standard input, keys go out.

HighGUI belongs into a process of its own. It wants one thread, on macOS the main one; and Qt ends
the process it is in when the X server is not there, or goes away, which must not end a recording.

Standard input carries, for each picture, a header (``HEADER``: width, height, bytes of text), then
the text in UTF-8, then BGR samples without padding. At its end, so when the parent has died, too,
the window closes. Standard output carries a line for each event, ``PREFIX`` and one of:
``ready``, ``shown``, ``key <code>``, ``closed``, ``failed <why>``.
"""

from __future__ import annotations

import struct
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FIRST_SIZE", "HEADER", "PREFIX", "main"]

HEADER = struct.Struct("<III")
PREFIX = "streamseg-window: "
FIRST_SIZE = (1280, 720)
"""A window opens no larger than this, in pixels; the user may make it larger."""

_TICK_S = 0.015  # how often keys are looked for while no picture comes


@dataclass(slots=True)
class _Picture:
    pixels: NDArray[Any]
    text: str


class _Inbox:
    """One picture at most, from the thread that reads to the one that shows.

    The reader waits until its picture was taken: so the pipe fills, and the parent waits, too.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._picture: _Picture | None = None
        self.ended = False

    def put(self, picture: _Picture) -> None:
        with self._changed:
            while self._picture is not None:
                self._changed.wait()
            self._picture = picture
            self._changed.notify_all()

    def end(self) -> None:
        with self._changed:
            self.ended = True
            self._changed.notify_all()

    def take(self, timeout_s: float) -> _Picture | None:
        with self._changed:
            if self._picture is None and not self.ended:
                self._changed.wait(timeout_s)
            picture, self._picture = self._picture, None
            self._changed.notify_all()
            return picture


def read_picture(stream: BinaryIO) -> _Picture | None:
    """Return the next picture of a stream, None at its end.

    Args:
        stream: Buffered, blocking.
    """
    import numpy as np

    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    width, height, text_size = HEADER.unpack(header)
    text = stream.read(text_size).decode("utf-8", "replace")
    pixels = np.empty((height, width, 3), np.uint8)
    view = memoryview(pixels.data).cast("B")
    filled = 0
    while filled < len(view):
        count = stream.readinto(view[filled:])  # type: ignore[attr-defined]
        if not count:
            return None
        filled += count
    return _Picture(pixels, text)


def draw_text(pixels: NDArray[Any], text: str, scale: float = 1.0) -> None:
    """Write lines of text into the upper left corner, white on a darkened box.

    Args:
        pixels: (H, W, 3) uint8 BGR, written into.
        text: Lines; what is not ASCII becomes ``?``, as OpenCV 4 has no letters for it.
        scale: 1 for a picture that is shown as large as it is; more for one that is made smaller.
    """
    import cv2

    lines = [line.encode("ascii", "replace").decode() for line in text.splitlines()]
    if not lines:
        return
    font, size, thickness = cv2.FONT_HERSHEY_SIMPLEX, 0.55 * scale, max(1, round(scale))
    margin = round(8 * scale)
    step = round(22 * scale)
    width = max(cv2.getTextSize(line, font, size, thickness)[0][0] for line in lines)
    box = pixels[: step * len(lines) + 2 * margin, : width + 2 * margin]
    box //= 3
    for number, line in enumerate(lines, start=1):
        place = (margin, margin + step * number - round(6 * scale))
        cv2.putText(pixels, line, place, font, size, (255, 255, 255), thickness, cv2.LINE_AA)


def _say(event: str) -> None:
    try:
        sys.stdout.write(f"{PREFIX}{event}\n")
        sys.stdout.flush()
    except OSError:  # the parent has gone: the end of standard input ends us, too
        return


def _read_all(inbox: _Inbox) -> None:
    try:
        while (picture := read_picture(sys.stdin.buffer)) is not None:
            inbox.put(picture)
    except OSError:
        pass
    finally:
        inbox.end()


class _Window:
    def __init__(self, title: str, width: int, height: int) -> None:
        import cv2

        self._cv2 = cv2
        self._title = title
        # Names go through, titles are shown: Qt takes one string for both.
        cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        factor = min(1.0, FIRST_SIZE[0] / width, FIRST_SIZE[1] / height)
        cv2.resizeWindow(title, max(1, round(width * factor)), max(1, round(height * factor)))

    def show(self, picture: _Picture) -> None:
        height, width = picture.pixels.shape[:2]
        if picture.text:
            scale = max(1.0, width / FIRST_SIZE[0], height / FIRST_SIZE[1])
            draw_text(picture.pixels, picture.text, scale)
        self._cv2.imshow(self._title, picture.pixels)

    def key(self) -> int:
        """Let the window work for a moment; return the code of a key, -1 without one."""
        return int(self._cv2.waitKey(1))

    @property
    def visible(self) -> bool:
        try:
            return bool(self._cv2.getWindowProperty(self._title, self._cv2.WND_PROP_VISIBLE) >= 1)
        except self._cv2.error:
            return False

    def close(self) -> None:
        self._cv2.destroyAllWindows()


def main(title: str, width: int, height: int) -> int:
    """Show what standard input brings until it ends.

    Args:
        title: Of the window.
        width: Of the first picture in pixels.
        height: Of the first picture in pixels.

    Returns:
        The exit code.
    """
    try:
        window: _Window | None = _Window(title, width, height)
    except Exception as exc:  # cv2 is missing a library, or has no HighGUI
        _say("failed " + " ".join(str(exc).split()))
        return 1
    inbox = _Inbox()
    reader = threading.Thread(target=_read_all, args=(inbox,), name="pictures", daemon=True)
    reader.start()
    _say("ready")
    seen = False
    while not inbox.ended:
        picture = inbox.take(_TICK_S)
        if window is None:
            continue  # closed by the user: the parent knows, and may go on sending
        if picture is not None:
            window.show(picture)
        key = window.key()
        if picture is not None and not seen:
            _say("shown")
            seen = True
        if key >= 0:
            _say(f"key {key}")
        if seen and not window.visible:
            window.close()
            window = None
            _say("closed")
    if window is not None:
        window.close()
    return 0
