from __future__ import annotations

import errno
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from streamseg.sources import cameras_list, cameras_v4l2
from streamseg.sources.cameras_list import why_not_opened
from streamseg.sources.cameras_v4l2 import CameraMode, list_v4l2, read_modes, users_of

# As a C program printed them that includes linux/videodev2.h (6.1, x86-64).
SIZES = {"_CAPABILITY": 104, "_FORMAT": 64, "_SIZE": 44, "_INTERVAL": 52}
CODES = {
    "_QUERYCAP": 0x80685600,
    "_ENUM_FMT": 0xC0405602,
    "_ENUM_FRAMESIZES": 0xC02C564A,
    "_ENUM_FRAMEINTERVALS": 0xC034564B,
}

MJPG = int.from_bytes(b"MJPG", "little")
YUYV = int.from_bytes(b"YUYV", "little")
CAPTURE, METADATA, DEVICE_CAPS, OUTPUT = 0x1, 0x800000, 0x80000000, 0x2


class Device:
    """A driver: answers with the kernel's structures, written field by field."""

    def __init__(self, caps: int = CAPTURE, *, stepwise: bool = False) -> None:
        self.caps = caps
        self.stepwise = stepwise
        self.formats = [MJPG, YUYV]
        self.sizes = {MJPG: [(1920, 1080), (1280, 720)], YUYV: [(640, 480)]}
        self.intervals = [(1, 30), (1, 15), (2, 15)]

    def __call__(self, code: int, buffer: bytearray) -> None:
        if code == CODES["_QUERYCAP"]:
            struct.pack_into("16s", buffer, 0, b"uvcvideo")
            struct.pack_into("32s", buffer, 16, b"HD Webcam: HD Webcam")
            # Of the whole device, and of this node.
            struct.pack_into("II", buffer, 84, DEVICE_CAPS | CAPTURE | METADATA, self.caps)
            return
        (index,) = struct.unpack_from("I", buffer, 0)
        if code == CODES["_ENUM_FMT"]:
            assert struct.unpack_from("I", buffer, 4) == (1,)
            struct.pack_into("I", buffer, 44, self.at(self.formats, index))
        elif code == CODES["_ENUM_FRAMESIZES"]:
            (asked,) = struct.unpack_from("I", buffer, 4)
            if self.stepwise:
                self.at([0], index)
                struct.pack_into("7I", buffer, 8, 3, 48, 1920, 2, 32, 1080, 2)
            else:
                struct.pack_into("3I", buffer, 8, 1, *self.at(self.sizes[asked], index))
        elif code == CODES["_ENUM_FRAMEINTERVALS"]:
            struct.pack_into("3I", buffer, 16, 1, *self.at(self.intervals, index))

    @staticmethod
    def at(entries: list, index: int):  # type: ignore[no-untyped-def, type-arg]
        if index >= len(entries):
            raise OSError(errno.EINVAL, "Invalid argument")
        return entries[index]


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_structures_are_as_large_as_the_kernel_says(name: str, size: int) -> None:
    layout = getattr(cameras_v4l2, name)
    assert layout.size == size


@pytest.mark.parametrize(("name", "code"), CODES.items())
def test_codes_are_those_of_the_kernel(name: str, code: int) -> None:
    assert getattr(cameras_v4l2, name) == code
    # The size of the structure is a part of the code.
    sizes = dict(zip(CODES, SIZES.values(), strict=True))
    assert code >> 16 & 0x3FFF == sizes[name]


def test_modes_are_read() -> None:
    rates = (30.0, 15.0, 7.5)
    assert read_modes(Device()) == (
        CameraMode("MJPG", 1920, 1080, rates),
        CameraMode("MJPG", 1280, 720, rates),
        CameraMode("YUYV", 640, 480, rates),
    )


def test_a_range_of_sizes_is_its_largest() -> None:
    modes = read_modes(Device(stepwise=True))
    assert [(m.pixel_format, m.width, m.height, m.up_to) for m in modes] == [
        ("MJPG", 1920, 1080, True),
        ("YUYV", 1920, 1080, True),
    ]


def test_a_driver_that_never_says_no_more_is_not_asked_for_ever() -> None:
    calls = 0

    def endless(code: int, buffer: bytearray) -> None:
        nonlocal calls
        calls += 1
        if code != CODES["_ENUM_FMT"]:
            raise OSError(errno.ENOTTY, "Inappropriate ioctl for device")

    assert read_modes(endless) == ()
    assert calls <= 1000


@pytest.mark.parametrize(("caps", "found"), [(CAPTURE, 1), (METADATA, 0), (OUTPUT, 0)])
def test_only_capture_devices_are_listed(
    caps: int, found: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "video0").touch()
    monkeypatch.setattr(cameras_v4l2, "_ioctl_of", lambda fd: Device(caps))
    cameras = list_v4l2(tmp_path, tmp_path)
    assert len(cameras) == found
    for camera in cameras:
        assert camera.name == "HD Webcam: HD Webcam"
        assert camera.device == str(tmp_path / "video0")
        assert len(camera.modes) == 3


def test_devices_are_in_the_order_of_their_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("video10", "video2", "video0", "videos"):
        (tmp_path / name).touch()
    monkeypatch.setattr(cameras_v4l2, "_ioctl_of", lambda fd: Device())
    assert [Path(c.device).name for c in list_v4l2(tmp_path)] == ["video0", "video2", "video10"]


def test_a_device_that_cannot_be_opened_is_listed_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "video0").symlink_to(tmp_path / "nothing")
    names = tmp_path / "names" / "video0"
    names.mkdir(parents=True)
    (names / "name").write_text("HD Webcam\n")
    (camera,) = list_v4l2(tmp_path, tmp_path / "names")
    assert camera.name == "HD Webcam"
    assert camera.problem == "No such file or directory"
    denied = cameras_v4l2.open_problem(PermissionError(errno.EACCES, "Permission denied"))
    assert "group 'video'" in denied


def test_what_is_no_device_is_not_listed(tmp_path: Path) -> None:
    (tmp_path / "video0").write_bytes(b"")
    assert list_v4l2(tmp_path) == []


def test_who_uses_a_device_is_found(tmp_path: Path) -> None:
    device = tmp_path / "video0"
    device.touch()
    code = f"f = open({str(device)!r}); print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        (user,) = users_of(str(device))
        assert user.endswith(f"({process.pid})")
        assert user.split(" ")[0] in why_not_opened(str(device))
        assert "in use by" in why_not_opened(str(device))
        process.communicate(b"\n")
    assert users_of(str(device)) == []


def test_a_missing_camera_is_told_with_those_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cameras_list, "list_v4l2", list)
    missing = str(tmp_path / "video9")
    assert why_not_opened(missing).startswith("no such camera; this machine has none")
    camera = cameras_v4l2.CameraInfo("/dev/video2", "HD Webcam")
    monkeypatch.setattr(cameras_list, "list_v4l2", lambda: [camera])
    assert why_not_opened(missing) == ("no such camera; there are: camera:/dev/video2 (HD Webcam)")
    (tmp_path / "video1").touch()
    assert "captures no video" in why_not_opened(str(tmp_path / "video1"))
