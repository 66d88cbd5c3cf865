"""A camera that is not there: `cv2.VideoCapture` for a device that does as the test says.

    camera = FakeCamera("mjpg", size=(1280, 720))
    source = CameraSource(0, open_capture=camera.open)
    ...
    camera.unplug()   # grab fails, opening fails
    camera.plug_in()
    camera.stall()    # grab hangs, as it does in a driver
    camera.resume()

Every picture carries its number (`tests.support.clips.read_frame_number`).
"""

from __future__ import annotations

import threading
import time
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from tests.support.clips import draw_picture

__all__ = ["FakeCamera", "raw_picture"]

Kind = Literal["bgr", "yuyv", "mjpg", "nv12"]
_LETTERS = {"bgr": "BGR3", "yuyv": "YUYV", "mjpg": "MJPG", "nv12": "NV12"}
_LONGEST_STALL_S = 20.0


def raw_picture(kind: Kind, bgr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture as OpenCV hands it out of a camera of this kind.

    Args:
        kind: What the camera delivers.
        bgr: (H, W, 3) uint8, of an even size.
    """
    height, width = bgr.shape[:2]
    if kind == "bgr":
        return bgr
    if kind == "mjpg":
        options = [cv2.IMWRITE_JPEG_QUALITY, 95]
        return cv2.imencode(".jpg", bgr, options)[1].reshape(1, -1)
    planar = cv2.cvtColor(bgr, cv2.COLOR_BGR2YUV_I420)
    luma = planar[:height]
    blue = planar[height : height + height // 4].reshape(height // 2, width // 2)
    red = planar[height + height // 4 :].reshape(height // 2, width // 2)
    if kind == "nv12":
        chroma = np.dstack([blue, red]).reshape(height // 2, width)
        return np.concatenate([luma, chroma])
    packed = np.empty((height, width, 2), np.uint8)
    packed[..., 0] = luma
    packed[:, 0::2, 1] = blue.repeat(2, axis=0)
    packed[:, 1::2, 1] = red.repeat(2, axis=0)
    return packed


class FakeCamera:
    """The device; what `open` returns stands in for a `cv2.VideoCapture`.

    Args:
        kind: What it delivers raw; ``bgr`` ignores that raw pictures are asked for.
        size: Of its pictures, whatever is asked for; None to do as asked.
        fps: How many pictures there are in a second.

    Attributes:
        asked: What was set, by property.
        opened: How often it was opened, without failures.
        open_now: How many captures of it are open.
        damaged: While set, pictures are damaged.
    """

    def __init__(
        self, kind: Kind = "bgr", *, size: tuple[int, int] | None = (320, 180), fps: float = 100
    ) -> None:
        self.kind = kind
        self.size = size
        self.fps = fps
        self.asked: dict[int, float] = {}
        self.opened = 0
        self.open_now = 0
        self.damaged = False
        self.changed = threading.Condition()
        self.plugged = True
        self.busy = False
        self.stalled = False

    def open(self, device: int | str, api: int) -> Any:
        with self.changed:
            works = self.plugged and not self.busy
            if works:
                self.opened += 1
                self.open_now += 1
                self.changed.notify_all()
        return _FakeCapture(self, works)

    def unplug(self) -> None:
        self._set(plugged=False)

    def plug_in(self) -> None:
        self._set(plugged=True)

    def stall(self) -> None:
        self._set(stalled=True)

    def resume(self) -> None:
        self._set(stalled=False)

    def _set(self, **values: bool) -> None:
        with self.changed:
            for name, value in values.items():
                setattr(self, name, value)
            self.changed.notify_all()


class _FakeCapture:
    def __init__(self, camera: FakeCamera, works: bool) -> None:
        self._camera = camera
        self._open = works
        self._number = -1
        self._due_s = time.monotonic()
        self._raw = False
        self._size = camera.size or (640, 480)

    def isOpened(self) -> bool:
        return self._open

    def grab(self) -> bool:
        camera = self._camera
        with camera.changed:
            assert camera.changed.wait_for(lambda: not camera.stalled, _LONGEST_STALL_S)
            self._due_s = max(self._due_s + 1 / camera.fps, time.monotonic())
            while camera.plugged and (left_s := self._due_s - time.monotonic()) > 0:
                camera.changed.wait(left_s)
            if not camera.plugged or not self._open:
                return False
        self._number += 1
        return True

    def retrieve(self) -> tuple[bool, Any]:
        rgb = draw_picture(self._number % 4096, *self._size)
        bgr = np.ascontiguousarray(rgb[..., ::-1])
        if not self._raw or self._camera.kind == "bgr":
            return True, bgr
        data = raw_picture(self._camera.kind, bgr)
        if self._camera.damaged:
            data = data[:, :40].copy()
        return True, data

    def get(self, prop: int, /) -> float:
        if prop == cv2.CAP_PROP_POS_MSEC:
            return time.monotonic() * 1000
        known = {
            cv2.CAP_PROP_FRAME_WIDTH: self._size[0],
            cv2.CAP_PROP_FRAME_HEIGHT: self._size[1],
            cv2.CAP_PROP_FPS: self._camera.fps,
            cv2.CAP_PROP_FOURCC: cv2.VideoWriter.fourcc(*_LETTERS[self._camera.kind]),
        }
        return float(known.get(prop, 0))

    def set(self, prop: int, value: float, /) -> bool:
        self._camera.asked[prop] = value
        if prop == cv2.CAP_PROP_CONVERT_RGB:
            self._raw = not value
        if self._camera.size is None:
            width, height = self._size
            if prop == cv2.CAP_PROP_FRAME_WIDTH:
                self._size = (int(value), height)
            if prop == cv2.CAP_PROP_FRAME_HEIGHT:
                self._size = (width, int(value))
        return True

    def release(self) -> None:
        if self._open:
            self._open = False
            with self._camera.changed:
                self._camera.open_now -= 1
                self._camera.changed.notify_all()
