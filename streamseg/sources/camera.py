"""CameraSource: pictures of a camera, the newest first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import av  # noqa: F401 - before cv2: the other way round, FFmpeg's x11grab crashes the process
import cv2

from streamseg.errors import ConfigError
from streamseg.sources.cameras_grabber import CameraGrabber
from streamseg.sources.cameras_list import CameraInfo, CameraMode, list_cameras
from streamseg.sources.live import LiveSource, Reconnect

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streamseg.sources.cameras_grabber import CaptureDevice

__all__ = ["CameraInfo", "CameraMode", "CameraSource", "list_cameras"]

_RECONNECT = Reconnect(first_delay_s=0.5, max_delay_s=2.0)
_STALL_S = 5.0
_MAX_NOTICES = 10


class CameraSource(LiveSource):
    """A camera, by OpenCV: V4L2 on Linux, AVFoundation on macOS, DirectShow on Windows.

    Frames are ``yuv420p``, tagged with matrix and range. On Linux pictures are taken as the camera
    has them, motion JPEG from 720p and YUYV below, without a way over BGR.

    Args:
        device: Number of the camera, or on Linux its device file.
        width: To ask for, in pixels; None for the camera's own. The camera decides.
        height: To ask for, in pixels; None for the camera's own.
        fps: Frames per second to ask for; None for the camera's own.
        mirror: Whether left and right change places, as in a mirror.
        reconnect: What to do when the camera goes away; None to fail.
        stall_s: Seconds without a picture after which it counts as gone.
        open_capture: Opens a device with one of OpenCV's back ends; None for ``cv2.VideoCapture``.

    Raises:
        ConfigError: If a number is out of its range.
    """

    def __init__(
        self,
        device: int | str = 0,
        *,
        width: int | None = None,
        height: int | None = None,
        fps: float | None = None,
        mirror: bool = False,
        reconnect: Reconnect | None = _RECONNECT,
        stall_s: float | None = _STALL_S,
        open_capture: Callable[[int | str, int], CaptureDevice] | None = None,
    ) -> None:
        if isinstance(device, str) and device.isdecimal():
            device = int(device)
        if device == "" or (isinstance(device, int) and not 0 <= device < 256):
            raise ConfigError(f"camera:{device} is no camera, expected camera:0 or a device file")
        for what, value in (("width", width), ("height", height), ("fps", fps)):
            if value is not None and not 0 < value <= 65536:
                raise ConfigError(f"camera:{device}: {what} is {value}, expected more than 0")
        self._camera_notices: list[str] = []

        def tell(notice: str) -> None:
            notices = self._camera_notices
            if notice not in notices and len(notices) < _MAX_NOTICES:
                notices.append(notice)

        def make_grabber() -> CameraGrabber:
            return CameraGrabber(
                device,
                width=width,
                height=height,
                fps=fps,
                mirror=mirror,
                open_capture=open_capture or _open_capture,
                tell=tell,
            )

        super().__init__(
            make_grabber, name=f"camera:{device}", reconnect=reconnect, stall_s=stall_s
        )

    @property
    def notices(self) -> Sequence[str]:
        """What the user should know, a line each: sizes that the camera does not have, gaps."""
        return (*self._camera_notices, *super().notices)


def _open_capture(device: int | str, api: int) -> CaptureDevice:
    capture: CaptureDevice = cv2.VideoCapture(device, api)
    return capture
