"""CameraGrabber: one opened camera, by OpenCV."""

from __future__ import annotations

import time
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Protocol

import av  # before cv2: the other way round, FFmpeg's x11grab crashes the process
import cv2

from streamseg.errors import SourceOpenError, SourceReadError
from streamseg.frames import Colour, StreamInfo
from streamseg.sources.cameras_list import back_ends, quiet_opencv, why_not_opened
from streamseg.sources.cameras_pictures import CameraPictures, UnknownLayoutError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CameraGrabber", "CaptureDevice"]

_TIME_BASE = Fraction(1, 1_000_000)
# With one buffer the driver has nowhere to write while a picture is copied out, and skips every
# second one. A second one costs no time: whoever grabs is always there before it is full.
_BUFFERS = 2
_MAX_LOST = 30  # pictures in a row that cannot be decoded: about a second
_CLOCK_TOLERANCE_S = 1.0


class CaptureDevice(Protocol):
    """What is used of ``cv2.VideoCapture``."""

    def isOpened(self) -> bool:
        """Whether it can be read."""

    def grab(self) -> bool:
        """Wait for a picture; False if there will be none."""

    def retrieve(self) -> tuple[bool, Any]:
        """Return the picture that was grabbed."""

    def get(self, prop: int, /) -> float:
        """Return a property, 0 where it is not known."""

    def set(self, prop: int, value: float, /) -> bool:
        """Set a property; False where that cannot be done."""

    def release(self) -> None:
        """Close it."""


class _GoneError(SourceReadError):
    """The device has no more pictures."""


class CameraGrabber:
    """A grabber for a live source; see ``streamseg.sources.live.Grabber``.

    Args:
        device: Number or device file.
        width: To ask for, in pixels; None for the camera's own.
        height: To ask for, in pixels; None for the camera's own.
        fps: To ask for; None for the camera's own.
        mirror: Whether left and right change places.
        open_capture: Opens the device.
        tell: Called with what the user should know.
    """

    def __init__(
        self,
        device: int | str,
        *,
        width: int | None,
        height: int | None,
        fps: float | None,
        mirror: bool,
        open_capture: Callable[[int | str, int], CaptureDevice],
        tell: Callable[[str], None],
    ) -> None:
        self.name = f"camera:{device}"
        self._device = device
        self._width, self._height, self._fps = width, height, fps
        self._open_capture = open_capture
        self._tell = tell
        self._pictures = CameraPictures(mirror=mirror)
        self._capture: CaptureDevice | None = None
        self._letters, self._size = "", (0, 0)
        self._first: av.VideoFrame | None = None
        self._driver_clock: bool | None = None
        self._lost = 0
        self._lost_in_a_row = 0
        self._asked_for_bgr = False

    def open(self) -> StreamInfo:
        """Open the camera, set it as asked and wait for its first picture.

        Raises:
            SourceOpenError: If it is missing, busy, not allowed, or has no picture.
            SourceReadError: If its pictures cannot be read.
        """
        quiet_opencv()
        capture = self._capture = self._opened()
        self._configure(capture)
        try:
            video = self._first = self._next()
        except _GoneError as exc:
            raise SourceOpenError(
                f"{self.name}: it opens, but delivers no picture; close other programs that may "
                "use it, or plug it in again"
            ) from exc
        self._compare(video)
        fps = capture.get(cv2.CAP_PROP_FPS)
        rate = Fraction(fps).limit_denominator(1001) if 0 < fps < 1000 else None
        return StreamInfo(
            self.name,
            video.width,
            video.height,
            video.format.name,
            _TIME_BASE,
            average_rate=rate,
            live=True,
            colour=Colour.of(video),
        )

    def grab(self) -> av.VideoFrame | None:
        """Return the next picture, with the time at which the camera had it.

        Raises:
            SourceReadError: If the camera is gone.
        """
        video, self._first = self._first, None
        return self._next() if video is None else video

    def take_packets(self) -> list[Any]:
        """Return nothing: a camera has no sound."""
        return []

    def take_lost(self) -> int:
        """Return, once each, how many pictures could not be decoded."""
        lost, self._lost = self._lost, 0
        return lost

    def close(self) -> None:
        """Release the camera."""
        capture, self._capture = self._capture, None
        if capture is not None:
            capture.release()

    def interrupt(self) -> None:
        """Do nothing: OpenCV crashes when a camera is released under a running ``grab``."""

    def _opened(self) -> CaptureDevice:
        for api in back_ends():
            capture = self._open_capture(self._device, api)
            if capture.isOpened():
                return capture
            capture.release()
        raise SourceOpenError(f"{self.name}: {why_not_opened(self._device)}")

    def _configure(self, capture: CaptureDevice) -> None:
        """Ask for what is wanted, in the order in which V4L2 wants it; what is not had is told."""
        if back_ends() == [cv2.CAP_V4L2]:
            # Uncompressed pictures of 720p and more do not fit through USB 2 at a full rate.
            large = (self._height or 0) >= 720 or (self._width or 0) >= 1280
            letters = "MJPG" if large else "YUYV"
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*letters))
            capture.set(cv2.CAP_PROP_CONVERT_RGB, 0)
        for prop, value in (
            (cv2.CAP_PROP_FRAME_WIDTH, self._width),
            (cv2.CAP_PROP_FRAME_HEIGHT, self._height),
            (cv2.CAP_PROP_FPS, self._fps),
            (cv2.CAP_PROP_BUFFERSIZE, _BUFFERS),
        ):
            if value is not None:
                capture.set(prop, value)
        code = int(capture.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF
        self._letters = code.to_bytes(4, "little").decode("latin-1")
        self._size = (
            int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
            int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
        )

    def _next(self) -> av.VideoFrame:
        capture = self._capture
        assert capture is not None
        while True:
            if not capture.grab():
                raise _GoneError(
                    f"{self.name}: the camera is gone, or stopped sending; plug it in again"
                )
            captured_s = self._captured_s(capture)
            try:
                done, data = capture.retrieve()
                video = self._convert(capture, data) if done else None
            except cv2.error as exc:
                raise SourceReadError(f"{self.name}: reading failed: {exc.err}") from exc
            if video is not None:
                self._lost_in_a_row = 0
                video.pts, video.time_base = round(captured_s / _TIME_BASE), _TIME_BASE
                return video
            self._lost += 1
            self._lost_in_a_row += 1
            if self._lost_in_a_row >= _MAX_LOST:
                raise SourceReadError(
                    f"{self.name}: {_MAX_LOST} damaged pictures in a row; another cable or port, "
                    "or a smaller size, may help"
                )

    def _convert(self, capture: CaptureDevice, data: Any) -> av.VideoFrame | None:
        try:
            return self._pictures.convert(data, self._letters, *self._size)
        except UnknownLayoutError as exc:
            if self._asked_for_bgr:
                raise SourceReadError(
                    f"{self.name}: the pictures are of an unknown kind: {exc}"
                ) from exc
            # A raw format that is not known here may be to OpenCV.
            self._asked_for_bgr = True
            capture.set(cv2.CAP_PROP_CONVERT_RGB, 1)
            return None

    def _captured_s(self, capture: CaptureDevice) -> float:
        """When the picture was taken, on the monotonic clock: the driver knows it best."""
        now_s = time.monotonic()
        driver_s = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if self._driver_clock is None:
            # V4L2 stamps with the monotonic clock; others count from anywhere, or say nothing.
            self._driver_clock = 0 <= now_s - driver_s < _CLOCK_TOLERANCE_S and driver_s > 0
        return driver_s if self._driver_clock else now_s

    def _compare(self, video: av.VideoFrame) -> None:
        wanted = (self._width or video.width, self._height or video.height)
        if wanted != (video.width, video.height):
            self._tell(
                f"{self.name} has no {wanted[0]}x{wanted[1]}: it delivers "
                f"{video.width}x{video.height}; `streamseg cameras` lists its modes"
            )
