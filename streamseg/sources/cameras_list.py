"""Which cameras this machine has, and why one of them cannot be opened."""

from __future__ import annotations

import os
import sys

from streamseg.sources.cameras_v4l2 import CameraInfo, CameraMode, list_v4l2, open_problem, users_of

__all__ = [
    "CameraInfo",
    "CameraMode",
    "back_ends",
    "list_cameras",
    "quiet_opencv",
    "why_not_opened",
]

_PLATFORM: str = sys.platform
_PROBED = 6  # indices that are tried where the system cannot be asked


def list_cameras() -> list[CameraInfo]:
    """Return the cameras of this machine, and what each can deliver. Blocks; for a thread.

    On Linux the driver is asked. Elsewhere the first six numbers are opened one after the other,
    which may switch a camera's light on for a moment, and each has the one mode that it starts in.
    """
    if _PLATFORM == "linux":
        return list_v4l2()
    return _probe()


def back_ends() -> list[int]:
    """Return OpenCV's back ends for cameras on this system, the best first."""
    import cv2

    if _PLATFORM == "linux":
        return [cv2.CAP_V4L2]
    if _PLATFORM == "darwin":
        return [cv2.CAP_AVFOUNDATION]
    if _PLATFORM == "win32":
        # DirectShow opens at once; Media Foundation may take half a minute, but knows more cameras.
        return [cv2.CAP_DSHOW, cv2.CAP_MSMF]
    return [cv2.CAP_ANY]


def quiet_opencv() -> None:
    """Keep OpenCV's own messages off the terminal, unless OPENCV_LOG_LEVEL asks for them.

    What fails becomes an error of ours. The level is one for the process, and stays.
    """
    import cv2

    if not os.environ.get("OPENCV_LOG_LEVEL"):
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def why_not_opened(device: int | str) -> str:
    """Return why a camera did not open, and what to do. Blocks; for a thread.

    Args:
        device: What was to be opened, a number or a device file.
    """
    if _PLATFORM != "linux":
        found = _names(_probe())
        hint = "allow this terminal to use the camera in the system's privacy settings"
        return f"no such camera, or no permission; {found}; {hint}"
    path = f"/dev/video{device}" if isinstance(device, int) else device
    if not os.path.exists(path):
        return f"no such camera; {_names(list_v4l2())}"
    try:
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as exc:
        return open_problem(exc)
    if users := users_of(path):
        return f"it is in use by {', '.join(users)}; close that program"
    cameras = list_v4l2()
    if os.path.realpath(path) not in {camera.device for camera in cameras}:
        return f"{path} captures no video; {_names(cameras)}"
    return "it is in use, or does not answer; close other programs, or plug it in again"


def _names(cameras: list[CameraInfo]) -> str:
    if not cameras:
        return "this machine has none; plug one in, or use a file or a stream"
    names = ", ".join(f"camera:{camera.device} ({camera.name})" for camera in cameras)
    return f"there are: {names}"


def _probe() -> list[CameraInfo]:
    import cv2

    quiet_opencv()
    cameras = []
    for index in range(_PROBED):
        for api in back_ends():
            capture = cv2.VideoCapture(index, api)
            try:
                if not capture.isOpened():
                    continue
                width = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH))
                height = int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
                fps = round(float(capture.get(cv2.CAP_PROP_FPS)), 3)
            finally:
                capture.release()
            mode = CameraMode("", width, height, (fps,) if fps > 0 else ())
            cameras.append(CameraInfo(str(index), f"camera {index}", (mode,)))
            break
    return cameras
