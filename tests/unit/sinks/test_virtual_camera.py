from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, ClassVar

import anyio
import numpy as np
import pytest
import pyvirtualcam
from numpy.typing import NDArray
from pyvirtualcam import camera as pyvirtualcam_camera

from streamseg.errors import ConfigError, SinkOpenError, SinkWriteError
from streamseg.sinks import virtual_camera
from streamseg.sinks.virtual_camera import VirtualCameraSink
from tests.support.clips import draw_frame, draw_picture, read_frame_number
from tests.unit.sinks.helpers import info_of, make_frame, write

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(20)]


class FakeDevice:
    """A back end of pyvirtualcam, as its own documentation describes one."""

    made: ClassVar[list[FakeDevice]] = []
    error: ClassVar[Exception | None] = None

    def __init__(self, *, width: int, height: int, fps: float, fourcc: int, device: Any) -> None:
        if FakeDevice.error is not None:
            raise FakeDevice.error
        self.size, self.fps, self.name = (width, height), fps, device or "/dev/video7"
        self.fourcc = fourcc
        self.pictures: list[NDArray[np.uint8]] = []
        self.threads: set[int] = set()
        self.closed = False
        self.broken = False
        FakeDevice.made.append(self)

    def send(self, frame: NDArray[np.uint8]) -> None:
        if self.broken:
            raise RuntimeError("error writing frame: No such device")
        self.threads.add(threading.get_ident())
        self.pictures.append(frame.copy())

    def close(self) -> None:
        self.closed = True

    def device(self) -> str:
        return self.name

    def native_fourcc(self) -> int:
        return self.fourcc


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[FakeDevice]]:
    monkeypatch.setattr(pyvirtualcam_camera, "BACKENDS", {"fake": FakeDevice})
    monkeypatch.setattr(FakeDevice, "error", None)
    FakeDevice.made.clear()
    yield FakeDevice.made
    FakeDevice.made.clear()


async def test_pictures_arrive_in_order_as_they_are(devices: list[FakeDevice]) -> None:
    frames = [make_frame(n, width=320, height=180) for n in range(5)]
    for number, frame in enumerate(frames):
        frames[number] = frame.with_video(draw_frame(number))
    async with VirtualCameraSink() as sink:
        await write(sink, frames, info_of(width=320, height=180))
        assert sink.device == "/dev/video7"
    (device,) = devices
    assert device.closed
    assert (device.size, device.fps) == ((320, 180), 25)
    assert threading.get_ident() not in device.threads
    for number, samples in enumerate(device.pictures):
        planes = samples.reshape(270, 320)
        assert read_frame_number(np.repeat(planes[:180, :, None], 3, axis=2)) == number
        assert np.array_equal(planes, frames[number].video.to_ndarray())
    statistics = sink.statistics()
    assert (statistics.accepted, statistics.written, statistics.dropped) == (5, 5, {})


async def test_another_matrix_and_size_are_converted(devices: list[FakeDevice]) -> None:
    async with VirtualCameraSink("/dev/video3", fps=12.5) as sink:
        await sink.open(info_of(width=320, height=181))
        video = draw_frame(9, 640, 360, pixel_format="rgb24")
        await sink.send(make_frame(0).with_video(video))
        await sink.finish()
    (device,) = devices
    assert (device.name, device.size, device.fps) == ("/dev/video3", (320, 180), 12.5)
    luma = device.pictures[0][: 320 * 180].reshape(180, 320).astype(float)
    expected = draw_picture(9, 640, 360)[1::2, 1::2] @ (0.299, 0.587, 0.114) * 219 / 255 + 16
    assert np.abs(luma - expected).mean() < 4


@pytest.mark.parametrize(
    ("rate", "fps", "expected"), [(None, None, 30), (Fraction(24), None, 24), (None, 15, 15)]
)
async def test_rates(
    devices: list[FakeDevice], rate: Fraction | None, fps: float | None, expected: float
) -> None:
    async with VirtualCameraSink(fps=fps) as sink:
        await sink.open(info_of(rate=rate))
    assert devices[0].fps == expected


async def test_a_device_that_goes_away_is_one_error(devices: list[FakeDevice]) -> None:
    async with VirtualCameraSink() as sink:
        await sink.open(info_of())
        devices[0].broken = True
        await sink.send(make_frame(0))
        with pytest.raises(SinkWriteError, match=r"virtual camera /dev/video7 .*No such device"):
            await sink.finish()
    assert devices[0].closed
    statistics = sink.statistics()
    assert statistics.accepted == statistics.written + sum(statistics.dropped.values()) == 1


async def test_no_driver_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtual_camera, "_PLATFORM", "linux")
    if sys.platform == "linux" and pyvirtualcam_camera.BACKENDS:
        try:
            pyvirtualcam.Camera(64, 48, 30).close()
            pytest.skip("this machine has a virtual camera")
        except RuntimeError:
            pass
    with pytest.raises(SinkOpenError, match="modprobe v4l2loopback exclusive_caps=1") as caught:
        await VirtualCameraSink().open(info_of())
    assert str(caught.value).startswith("no virtual camera: ")
    assert "\n" not in str(caught.value)
    with pytest.raises(SinkOpenError, match=r"no virtual camera /dev/video250: .*does not exist"):
        await VirtualCameraSink("/dev/video250").open(info_of())


@pytest.mark.parametrize(
    ("platform", "what", "hint"),
    [
        ("darwin", "'obs' backend: OBS is not installed", "install OBS Studio"),
        ("win32", "'obs' backend: x\n'unitycapture' backend: y", "x y; install OBS Studio"),
        ("linux", "'v4l2loopback' backend: Device or resource busy", "close the other program"),
    ],
)
async def test_other_failures(
    devices: list[FakeDevice], monkeypatch: pytest.MonkeyPatch, platform: str, what: str, hint: str
) -> None:
    monkeypatch.setattr(virtual_camera, "_PLATFORM", platform)
    monkeypatch.setattr(FakeDevice, "error", RuntimeError(what))
    with pytest.raises(SinkOpenError) as caught:
        await VirtualCameraSink().open(info_of())
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_without_the_library_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyvirtualcam", None)
    with pytest.raises(SinkOpenError, match=r"pip install 'streamseg\[virtual-camera\]'"):
        await VirtualCameraSink().open(info_of())


@pytest.mark.parametrize("fps", [0, -1, 1e9])
def test_wrong_rates_are_refused(fps: float) -> None:
    with pytest.raises(ConfigError, match="fps is"):
        VirtualCameraSink(fps=fps)


async def test_nothing_is_sent_after_closing(devices: list[FakeDevice]) -> None:
    sink = VirtualCameraSink()
    with pytest.raises(anyio.ClosedResourceError):
        await sink.send(make_frame(0))
    await sink.open(info_of())
    await sink.aclose()
    await sink.aclose()
    with pytest.raises(anyio.ClosedResourceError):
        await sink.send(make_frame(0))
    assert devices[0].closed
