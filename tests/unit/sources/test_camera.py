from __future__ import annotations

import time
from itertools import pairwise

import anyio
import anyio.to_thread
import cv2
import pytest

from streamseg.errors import ConfigError, SourceOpenError, SourceReadError
from streamseg.sources import cameras_list
from streamseg.sources.camera import CameraSource
from streamseg.sources.live import Reconnect
from tests.support.clips import read_frame_number
from tests.support.fake_camera import FakeCamera, Kind

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(20)]

AT_ONCE = Reconnect(first_delay_s=0.01, factor=1, jitter=0)


async def read_on(source: CameraSource) -> None:
    while True:
        await source.receive()


@pytest.mark.parametrize("kind", ["bgr", "yuyv", "mjpg", "nv12"])
async def test_pictures_come_in_order_with_the_time_they_were_taken(kind: Kind) -> None:
    camera = FakeCamera(kind, fps=50)
    async with CameraSource(0, open_capture=camera.open) as source:
        info = await source.open()
        frames = [await source.receive() for _ in range(6)]
    assert (info.name, info.width, info.height, info.pixel_format) == (
        "camera:0",
        320,
        180,
        "yuv420p",
    )
    assert info.live
    assert info.average_rate == 50
    numbers = [read_frame_number(frame.video) for frame in frames]
    assert numbers == [frame.index for frame in frames], "no picture was taken for another"
    for a, b in pairwise(frames):
        assert a.pts_s is not None
        assert b.pts_s is not None
        assert b.pts_s > a.pts_s
        # The time is the picture's own, not that of its delivery; a busy machine blurs both.
        assert b.pts_s - a.pts_s == pytest.approx(b.captured_s - a.captured_s, abs=0.05)
    # 20 ms a picture; a busy machine may take the first one late.
    first, last = frames[0].pts_s, frames[-1].pts_s
    assert first is not None
    assert last is not None
    assert last - first > 0.02 * (numbers[-1] - numbers[0] - 2)
    assert camera.open_now == 0


async def test_the_camera_is_asked_for_what_was_asked_for() -> None:
    camera = FakeCamera("mjpg", size=None)
    async with CameraSource(0, width=1280, height=720, fps=30, open_capture=camera.open) as source:
        info = await source.open()
        assert (info.width, info.height) == (1280, 720)
        assert source.notices == ()
    asked = list(camera.asked)
    assert camera.asked[cv2.CAP_PROP_FPS] == 30
    if cameras_list.back_ends() == [cv2.CAP_V4L2]:
        assert camera.asked[cv2.CAP_PROP_FOURCC] == cv2.VideoWriter.fourcc(*"MJPG")
        assert camera.asked[cv2.CAP_PROP_CONVERT_RGB] == 0
        # V4L2 chooses the size among those of the format that is set at that moment.
        assert asked.index(cv2.CAP_PROP_FOURCC) < asked.index(cv2.CAP_PROP_FRAME_WIDTH)


async def test_a_small_picture_is_asked_for_uncompressed() -> None:
    camera = FakeCamera("yuyv", size=None)
    async with CameraSource(0, width=640, height=480, open_capture=camera.open):
        pass
    assert camera.asked[cv2.CAP_PROP_FOURCC] == cv2.VideoWriter.fourcc(*"YUYV")


async def test_a_size_that_the_camera_has_not_is_told() -> None:
    camera = FakeCamera("mjpg", size=(640, 360))
    async with CameraSource(0, width=1920, height=1080, open_capture=camera.open) as source:
        (notice,) = source.notices
    assert notice.startswith("camera:0 has no 1920x1080: it delivers 640x360")


async def test_a_camera_that_goes_away_comes_back() -> None:
    camera = FakeCamera("yuyv")
    async with CameraSource(0, reconnect=AT_ONCE, open_capture=camera.open) as source:
        before = await source.receive()
        camera.unplug()
        with anyio.move_on_after(0.1):
            while True:
                before = await source.receive()
        assert camera.open_now == 0
        camera.plug_in()
        after = await source.receive()
        assert source.statistics().reconnects == 1
    assert after.index == before.index + 1
    assert before.pts is not None
    assert after.pts is not None
    assert after.pts > before.pts


async def test_a_camera_that_goes_away_for_good_is_one_error_every_time() -> None:
    camera = FakeCamera()
    async with CameraSource(0, reconnect=None, open_capture=camera.open) as source:
        await source.receive()
        camera.unplug()
        for _ in range(2):
            with pytest.raises(SourceReadError, match=r"^camera:0: the camera is gone"):
                await read_on(source)
    assert camera.open_now == 0


async def test_giving_up_names_the_last_failure() -> None:
    camera = FakeCamera()
    plan = Reconnect(first_delay_s=0.01, factor=1, give_up_after_s=0.1)
    async with CameraSource(0, reconnect=plan, open_capture=camera.open) as source:
        await source.receive()
        camera.unplug()
        with pytest.raises(SourceReadError, match=r"camera:0: .* the last failure: no such camera"):
            await read_on(source)


@pytest.mark.parametrize("state", ["missing", "busy"])
async def test_a_camera_that_does_not_open_is_an_error_with_what_to_try(
    state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    why = "it is in use by zoom (7); close that program" if state == "busy" else "no such camera"
    monkeypatch.setattr("streamseg.sources.cameras_grabber.why_not_opened", lambda device: why)
    camera = FakeCamera()
    camera.plugged, camera.busy = state != "missing", state == "busy"
    source = CameraSource(3, open_capture=camera.open)
    with pytest.raises(SourceOpenError) as caught:
        await source.open()
    assert str(caught.value) == f"camera:3: {why}"


async def test_a_camera_that_opens_and_has_no_picture_is_an_error() -> None:
    camera = FakeCamera()
    device = camera.open(0, 0)
    camera.plugged = False
    with pytest.raises(SourceOpenError, match=r"camera:0: it opens, but delivers no picture"):
        await CameraSource(0, open_capture=lambda *_: device).open()
    assert camera.open_now == 0


async def test_no_camera_of_this_machine_has_this_number() -> None:
    with pytest.raises(SourceOpenError, match=r"^camera:200: no such camera") as caught:
        await CameraSource(200).open()
    assert "\n" not in str(caught.value)


async def test_closing_does_not_wait_for_a_camera_that_hangs() -> None:
    camera = FakeCamera()
    source = CameraSource(0, open_capture=camera.open)
    await source.open()
    camera.stall()
    begin_s = time.perf_counter()
    await source.aclose()
    assert time.perf_counter() - begin_s < 2
    camera.resume()

    def wait_for_release() -> None:
        with camera.changed:
            assert camera.changed.wait_for(lambda: camera.open_now == 0, 5)

    await anyio.to_thread.run_sync(wait_for_release)


async def test_a_camera_that_hangs_is_made_anew() -> None:
    camera = FakeCamera()
    async with CameraSource(0, reconnect=AT_ONCE, stall_s=0.2, open_capture=camera.open) as source:
        await source.receive()
        camera.stall()

        def resume_when_opened_again() -> None:
            with camera.changed:
                assert camera.changed.wait_for(lambda: camera.opened == 2, 5)
            camera.resume()

        async with anyio.create_task_group() as group:
            group.start_soon(anyio.to_thread.run_sync, resume_when_opened_again)
            with anyio.fail_after(5):
                while source.statistics().reconnects == 0:
                    await source.receive()


async def test_damaged_pictures_are_counted_and_too_many_are_an_error() -> None:
    camera = FakeCamera("mjpg", fps=400)
    async with CameraSource(0, reconnect=None, open_capture=camera.open) as source:
        await source.receive()
        camera.damaged = True
        with pytest.raises(SourceReadError, match="30 damaged pictures in a row"):
            await read_on(source)


@pytest.mark.parametrize(
    "wrong", [{"device": -1}, {"device": ""}, {"width": 0}, {"height": -3}, {"fps": 0}]
)
def test_wrong_values_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        CameraSource(**wrong)  # type: ignore[arg-type]


def test_a_number_in_text_is_a_number() -> None:
    assert "camera:2" in repr(CameraSource("2"))
