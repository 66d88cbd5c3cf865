"""Video4Linux2: which capture devices there are, and what modes they have.

Asked by ``ioctl``, as OpenCV cannot say. Opening a device for that disturbs no program that uses it.

Source: linux/videodev2.h; sizes and codes are those of the kernel's interface, equal on all
architectures.
"""

from __future__ import annotations

import errno
import os
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CameraInfo", "CameraMode", "list_v4l2", "read_modes", "users_of"]

_QUERYCAP = 0x80685600
_ENUM_FMT = 0xC0405602
_ENUM_FRAMESIZES = 0xC02C564A
_ENUM_FRAMEINTERVALS = 0xC034564B

_CAPABILITY = struct.Struct("=16s32s32sIII12x")  # driver, card, bus, version, caps, device caps
_FORMAT = struct.Struct("=III32sI16x")  # index, type, flags, description, pixel format
_SIZE = struct.Struct("=III6I8x")  # index, pixel format, type, sizes
_INTERVAL = struct.Struct("=5I6I8x")  # index, pixel format, width, height, type, intervals

_CAP_CAPTURE, _CAP_CAPTURE_MPLANE, _CAP_DEVICE_CAPS = 0x1, 0x1000, 0x80000000
_BUF_CAPTURE, _BUF_CAPTURE_MPLANE = 1, 9
_DISCRETE = 1
_MAX_ENTRIES = 256  # no device has as many; a driver that never says "no more" ends here

Ioctl = Callable[[int, bytearray], None]
"""Does the ioctl of this code on a buffer in place; raises OSError."""


@dataclass(frozen=True, slots=True)
class CameraMode:
    """Pictures that a camera can deliver.

    Attributes:
        pixel_format: The four letters of V4L2: ``MJPG``, ``YUYV``, ``NV12``.
        width: In pixels.
        height: In pixels.
        fps: Frames per second that can be asked for, highest first; empty where unknown.
        up_to: Whether any smaller size can be had, too.
    """

    pixel_format: str
    width: int
    height: int
    fps: tuple[float, ...] = ()
    up_to: bool = False


@dataclass(frozen=True, slots=True)
class CameraInfo:
    """A camera of this machine.

    Attributes:
        device: What to open: ``/dev/video0`` on Linux, ``0`` elsewhere.
        name: As the driver calls it.
        modes: Empty where they cannot be asked for.
        problem: Why it cannot be used and what to do, None if it can.
    """

    device: str
    name: str
    modes: tuple[CameraMode, ...] = ()
    problem: str | None = None


def list_v4l2(
    devices: Path = Path("/dev"), names: Path = Path("/sys/class/video4linux")
) -> list[CameraInfo]:
    """Return the capture devices in the order of their numbers.

    Args:
        devices: Folder of the device files.
        names: Folder in which the kernel tells the name of each, also without permission.
    """
    cameras = []
    for path in sorted(devices.glob("video*"), key=_number):
        if _number(path) < 0:
            continue
        name = _sysfs_name(names / path.name)
        try:
            fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as exc:
            cameras.append(CameraInfo(str(path), name, problem=open_problem(exc)))
            continue
        try:
            found = _describe(str(path), name, _ioctl_of(fd))
        finally:
            os.close(fd)
        if found is not None:
            cameras.append(found)
    return cameras


def open_problem(exc: OSError) -> str:
    """Return why a device file cannot be opened, and what to do."""
    if exc.errno in (errno.EACCES, errno.EPERM):
        return "no permission: add yourself to the group 'video' and log in again"
    if exc.errno == errno.EBUSY:
        return "it is in use: close the other program"
    return exc.strerror or str(exc)


def read_modes(ioctl: Ioctl, *, multiplanar: bool = False) -> tuple[CameraMode, ...]:
    """Return all modes of an open device.

    Args:
        ioctl: Asks the device.
        multiplanar: Whether it is of the kind whose planes are in several buffers.
    """
    buffer_type = _BUF_CAPTURE_MPLANE if multiplanar else _BUF_CAPTURE
    modes = []
    for answer in _entries(ioctl, _ENUM_FMT, _FORMAT, buffer_type):
        pixel_format = int(answer[4])
        for size in _entries(ioctl, _ENUM_FRAMESIZES, _SIZE, pixel_format):
            discrete = size[2] == _DISCRETE
            # Discrete: width, height. A range: smallest, largest and step of each.
            width, height = (size[3], size[4]) if discrete else (size[4], size[7])
            rates = _rates(ioctl, pixel_format, width, height)
            modes.append(CameraMode(_letters(pixel_format), width, height, rates, not discrete))
            if not discrete:
                break
    return tuple(modes)


def users_of(device: str, processes: Path = Path("/proc")) -> list[str]:
    """Return who has a device open, as ``name (process id)``; of other users' processes, none.

    Args:
        device: The device file.
        processes: The kernel's folder of processes.
    """
    target = os.path.realpath(device)
    found = []
    for process in processes.glob("[0-9]*"):
        if process.name == str(os.getpid()):
            continue
        try:
            if any(os.readlink(fd) == target for fd in (process / "fd").iterdir()):
                name = (process / "comm").read_text(errors="replace").strip()
                found.append(f"{name} ({process.name})")
        except OSError:
            continue  # it has ended, or belongs to somebody else
    return found


def _describe(device: str, name: str, ioctl: Ioctl) -> CameraInfo | None:
    """What an open device says; None if it captures no video."""
    capability = bytearray(_CAPABILITY.size)
    try:
        ioctl(_QUERYCAP, capability)
    except OSError:
        return None
    _, card, _, _, all_caps, device_caps = _CAPABILITY.unpack(capability)
    caps = device_caps if all_caps & _CAP_DEVICE_CAPS else all_caps
    if not caps & (_CAP_CAPTURE | _CAP_CAPTURE_MPLANE):
        return None  # metadata, output, radio
    modes = read_modes(ioctl, multiplanar=not caps & _CAP_CAPTURE)
    return CameraInfo(device, _text(card) or name, modes)


def _rates(ioctl: Ioctl, pixel_format: int, width: int, height: int) -> tuple[float, ...]:
    rates = set()
    for answer in _entries(ioctl, _ENUM_FRAMEINTERVALS, _INTERVAL, pixel_format, width, height):
        numerator, denominator = answer[5:7]  # the only one, or the shortest of a range
        if numerator:
            rates.add(round(denominator / numerator, 3))
        if answer[4] != _DISCRETE:
            break
    return tuple(sorted(rates, reverse=True))


def _entries(
    ioctl: Ioctl, code: int, layout: struct.Struct, *asked: int
) -> Iterator[tuple[int, ...]]:
    """Ask for entry after entry until there is no more."""
    for index in range(_MAX_ENTRIES):
        buffer = bytearray(layout.size)
        struct.pack_into(f"={1 + len(asked)}I", buffer, 0, index, *asked)
        try:
            ioctl(code, buffer)
        except OSError:
            return  # EINVAL is the end; ENOTTY: it does not say
        yield layout.unpack(buffer)


def _ioctl_of(fd: int) -> Ioctl:
    import fcntl

    def ioctl(code: int, buffer: bytearray) -> None:
        fcntl.ioctl(fd, code, buffer, True)

    return ioctl


def _number(path: Path) -> int:
    match = re.fullmatch(r"video(\d+)", path.name)
    return int(match[1]) if match else -1


def _sysfs_name(folder: Path) -> str:
    try:
        return (folder / "name").read_text(errors="replace").strip()
    except OSError:
        return "camera"


def _text(raw: bytes) -> str:
    return raw.split(b"\0")[0].decode("utf-8", "replace").strip()


def _letters(code: int) -> str:
    return code.to_bytes(4, "little").decode("latin-1").strip()
