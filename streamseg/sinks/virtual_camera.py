"""VirtualCameraSink: the picture as a camera that video calls can choose (pyvirtualcam)."""

from __future__ import annotations

import importlib
import re
import sys
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from streamseg.errors import ConfigError, SinkOpenError, SinkWriteError
from streamseg.frames import plane_view
from streamseg.sinks.target import printable, reason
from streamseg.sinks.threaded import ThreadedSink
from streamseg.sinks.viewing import Viewable, view_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    import av

    from streamseg.frames import Frame, StreamInfo
    from streamseg.segmentation import Segmentation

__all__ = ["VirtualCameraSink"]

_PLATFORM: str = sys.platform
_DEFAULT_RATE = 30.0
_INSTALL = (
    "pyvirtualcam is not installed; pip install 'streamseg[virtual-camera]', or pip install "
    "pyvirtualcam"
)
_LOOPBACK = (
    "apt install v4l2loopback-dkms, then modprobe v4l2loopback exclusive_caps=1 "
    "card_label=streamseg"
)
_OBS = "install OBS Studio (obsproject.com) and start its virtual camera once"


class VirtualCameraSink(ThreadedSink):
    """Sends the pictures to a virtual camera: v4l2loopback on Linux, OBS on macOS and Windows.

    The camera has one size, that of the stream, made even; pictures of another size are fitted
    with black bars. A picture is sent when it comes; the camera repeats it until the next.

    Args:
        device: ``/dev/videoN`` on Linux, the camera's name elsewhere; None for the first there is.
        fps: The rate that the camera tells its users; None for the stream's own, else 30.

    Raises:
        ConfigError: If ``fps`` is not above 0.
    """

    capacity = 1
    live_capacity = 1

    def __init__(self, device: str | None = None, fps: float | None = None) -> None:
        if fps is not None and not 0 < fps <= 1000:
            raise ConfigError(f"fps is {fps}, expected more than 0, 1000 at most")
        super().__init__("virtual camera" if device is None else f"virtual camera {device}")
        self._device = device
        self._fps = fps
        self._camera: _CameraWriter | None = None

    @property
    def device(self) -> str | None:
        """The camera's device or name, as found by ``open``."""
        found = None if self._camera is None else self._camera.device
        return found or self._device

    def _make_writer(self) -> _CameraWriter:
        self._camera = _CameraWriter(self._device, self._fps)
        return self._camera


class _CameraWriter:
    def __init__(self, device: str | None, fps: float | None) -> None:
        self.written = 0
        self.notices: list[str] = []
        self.device: str | None = None
        self._wanted = device
        self._fps = fps
        self._camera: Any = None
        self._view: Viewable | None = None
        self._samples = np.empty(0, np.uint8)

    def open(self, info: StreamInfo) -> None:
        try:
            pyvirtualcam = importlib.import_module("pyvirtualcam")  # optional, and without types
        except ImportError as exc:
            raise SinkOpenError(f"no virtual camera: {_INSTALL}") from exc
        width, height = view_size(info.width, info.height, info.sample_aspect_ratio)
        # 4:2:0, which is what the devices have inside.
        width, height = max(2, width // 2 * 2), max(2, height // 2 * 2)
        rate = self._fps or float(info.average_rate or Fraction(0)) or _DEFAULT_RATE
        try:
            self._camera = pyvirtualcam.Camera(
                width, height, rate, fmt=pyvirtualcam.PixelFormat.I420, device=self._wanted
            )
        except Exception as exc:  # RuntimeError, and what a back end thinks of
            raise _open_error(self._wanted, exc) from exc
        self.device = str(self._camera.device)
        # BT.601 in limited range is what the users of such a camera take 4:2:0 for.
        self._view = Viewable("yuv420p", info, size=(width, height))
        self._samples = np.empty(width * height * 3 // 2, np.uint8)

    def write(self, frame: Frame, segmentation: Segmentation | None) -> None:
        assert self._view is not None
        _pack(self._view.apply(frame.video), self._samples)
        try:
            self._camera.send(self._samples)
        except Exception as exc:
            raise SinkWriteError(
                f"the virtual camera {printable(str(self.device))} takes no pictures any more: "
                f"{reason(exc)}; is its driver still loaded?"
            ) from exc
        self.written += 1

    def write_packets(self, packets: Sequence[Any]) -> None:
        pass

    def finish(self) -> None:
        pass

    def commit(self) -> None:
        pass

    def abort(self) -> None:
        camera, self._camera = self._camera, None
        if camera is not None:
            camera.close()

    def stop(self) -> None:
        pass

    def discard(self) -> None:
        pass


def _pack(video: av.VideoFrame, samples: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    """Put the planes of a yuv420p picture one after the other, without padding: I420."""
    place = 0
    for index in range(3):
        plane = plane_view(video, index)
        samples[place : place + plane.size].reshape(plane.shape)[:] = plane
        place += plane.size


def _open_error(device: str | None, exc: Exception) -> SinkOpenError:
    # pyvirtualcam puts the back end's name before each message, and where to read on after it.
    what = re.sub(r"'\w+' backend: | See also .*| Did you run .*", "", reason(exc)).rstrip(".")
    which = "no virtual camera" if device is None else f"no virtual camera {printable(device)}"
    if _PLATFORM != "linux":
        return SinkOpenError(f"{which}: {what}; {_OBS}")
    if "busy" in what.lower():
        return SinkOpenError(f"{which}: {what}; close the other program that writes to it")
    if device is not None:
        return SinkOpenError(f"{which}: {what}; leave the device out, or {_LOOPBACK}")
    return SinkOpenError(f"{which}: {what}; {_LOOPBACK}")
