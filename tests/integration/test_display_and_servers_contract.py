"""What every Sink must do, over those that show pictures: window, virtual camera, MJPEG server."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import anyio
import psutil
import pytest
from pyvirtualcam import camera as pyvirtualcam_camera

from streamseg.abc import Sink
from streamseg.sinks.display import DisplaySink
from streamseg.sinks.mjpeg import MjpegSink
from streamseg.sinks.virtual_camera import VirtualCameraSink
from tests.support.programs import require
from tests.support.source_factories import virtual_screen
from tests.unit.sinks.helpers import info_of, make_frame

pytestmark = [pytest.mark.integration, pytest.mark.anyio, pytest.mark.timeout(20)]


class Device:
    """A virtual camera that takes everything."""

    def __init__(self, **options: Any) -> None:
        self._name = options["device"] or "fake"

    def send(self, frame: Any) -> None:
        pass

    def close(self) -> None:
        pass

    def device(self) -> str:
        return str(self._name)

    def native_fourcc(self) -> None:
        return None


@pytest.fixture(scope="module")
def screen() -> Iterator[str]:
    require("Xvfb")
    with virtual_screen() as display:
        yield display


@pytest.fixture(params=["display", "virtual-camera", "mjpeg"])
def sink(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Sink:
    if request.param == "display":
        monkeypatch.setenv("DISPLAY", request.getfixturevalue("screen"))
        return DisplaySink()
    if request.param == "virtual-camera":
        monkeypatch.setattr(pyvirtualcam_camera, "BACKENDS", {"fake": Device})
        return VirtualCameraSink()
    return MjpegSink("mjpeg://127.0.0.1:0")


async def test_a_whole_stream(sink: Sink) -> None:
    assert sink.live_capacity == 1
    async with sink:
        await sink.open(info_of())
        for number in range(20):
            await sink.send(make_frame(number))
            await sink.send_packets([object()])
        await sink.finish()
        await sink.commit()
        await sink.commit()
        statistics = sink.statistics()
    assert statistics.accepted == 20
    assert statistics.accepted == statistics.written + sum(statistics.dropped.values())
    assert statistics == sink.statistics()


async def test_changes_of_size_and_format_in_mid_stream(sink: Sink) -> None:
    async with sink:
        await sink.open(info_of())
        for number, (width, height, pixel_format) in enumerate(
            [(64, 48, "yuv420p"), (96, 48, "rgb24"), (33, 77, "yuva444p"), (64, 48, "gray")]
        ):
            await sink.send(
                make_frame(number, width=width, height=height, pixel_format=pixel_format)
            )
        await sink.finish()
    assert sink.statistics().accepted == 4


async def test_frames_are_not_changed(sink: Sink) -> None:
    frame = make_frame(3)
    before = frame.video.to_ndarray().copy()
    stamps = (frame.pts, frame.time_base, int(frame.video.colorspace))
    async with sink:
        await sink.open(info_of())
        await sink.send(frame)
        await sink.finish()
    assert (frame.video.to_ndarray() == before).all()
    assert (frame.pts, frame.time_base, int(frame.video.colorspace)) == stamps


async def test_use_at_the_wrong_time_is_refused(sink: Sink) -> None:
    with pytest.raises(anyio.ClosedResourceError):
        await sink.send(make_frame(0))
    with pytest.raises(anyio.ClosedResourceError):
        await sink.finish()
    await sink.open(info_of())
    with pytest.raises(RuntimeError, match="twice"):
        await sink.open(info_of())
    with pytest.raises(anyio.ClosedResourceError):
        await sink.commit()
    await sink.finish()
    with pytest.raises(anyio.ClosedResourceError):
        await sink.send(make_frame(0))
    with pytest.raises(anyio.ClosedResourceError):
        await sink.finish()
    await sink.aclose()
    await sink.aclose()
    with pytest.raises(anyio.ClosedResourceError):
        await sink.open(info_of())


async def test_closing_a_sink_that_was_never_opened(sink: Sink) -> None:
    await sink.aclose()
    assert sink.statistics().accepted == 0


async def test_what_closing_leaves_behind_is_counted(sink: Sink) -> None:
    await sink.open(info_of())
    for number in range(5):
        await sink.send(make_frame(number))
    begin_s = time.perf_counter()
    await sink.aclose()
    assert time.perf_counter() - begin_s < 2
    statistics = sink.statistics()
    assert statistics.accepted == 5 == statistics.written + sum(statistics.dropped.values())


async def test_cancelling_at_any_moment_is_quick(sink: Sink) -> None:
    begin_s = time.perf_counter()
    with anyio.move_on_after(0.02):
        async with sink:
            await sink.open(info_of())
            for number in range(100_000):
                await sink.send(make_frame(number))
    assert time.perf_counter() - begin_s < 2


async def test_nothing_is_left_behind(sink: Sink) -> None:
    gc.collect()
    before = (set(threading.enumerate()), len(os.listdir("/proc/self/fd")))
    async with sink:
        await sink.open(info_of())
        await sink.send(make_frame(0))
        await sink.finish()
        await sink.commit()
    gc.collect()
    assert set(threading.enumerate()) - before[0] == set()
    assert len(os.listdir("/proc/self/fd")) == before[1]
    children = psutil.Process().children(recursive=True)
    assert [child for child in children if "window_child" in " ".join(child.cmdline())] == []
