"""The preview window, on a real X server, with real keys."""

from __future__ import annotations

import asyncio
import ctypes
import ctypes.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from streamseg.errors import SinkOpenError, SinkWriteError
from streamseg.frames import Frame
from streamseg.sinks import window
from streamseg.sinks.display import DisplaySink
from tests.support.clips import draw_frame, read_frame_number
from tests.support.programs import needs_program
from tests.support.source_factories import virtual_screen
from tests.unit.sinks.helpers import info_of

pytestmark = [
    pytest.mark.integration,
    pytest.mark.anyio,
    pytest.mark.timeout(30),
    needs_program("Xvfb", "xdotool"),
]

WIDTH, HEIGHT = 640, 360
INFO = info_of(width=WIDTH, height=HEIGHT)


def frame(number: int) -> Frame:
    return Frame(draw_frame(number, WIDTH, HEIGHT), number, 0.0)


@pytest.fixture(scope="module")
def screen() -> Iterator[str]:
    with virtual_screen(800, 600) as display:
        yield display


@pytest.fixture
def display(screen: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("DISPLAY", screen)
    return screen


@asynccontextmanager
async def showing(number: int = 77, **options: Any) -> AsyncIterator[DisplaySink]:
    """A window that shows a picture."""
    sink = DisplaySink("streamseg test", **options)
    try:
        await sink.open(INFO)
        await sink.send(frame(number))
        assert sink._pictures is not None
        await asyncio.to_thread(sink._pictures._window.shown.wait, 5)
        await make_sure_it_is_mapped()
        yield sink
    finally:
        await sink.aclose()


async def make_sure_it_is_mapped() -> None:
    """Without a window manager, as here, about one window in twenty stays black until mapped again.

    New pictures, a new size and the mouse do not help. Under a window manager (openbox) it was not
    seen in 135 windows.
    """
    with anyio.move_on_after(1):
        while screenshot(os.environ["DISPLAY"]).max() == 0:
            await asyncio.sleep(0.02)
        return
    number = (await xdotool("search", "--sync", "--name", "^streamseg test$")).split()[0]
    await xdotool("windowunmap", "--sync", number, "windowmap", "--sync", number)


async def send_many(sink: DisplaySink) -> None:
    for number in range(2000):
        await sink.send(frame(number))


# PyAV's x11grab ends a process in which OpenCV is loaded (a segmentation fault), so it has its own.
GRAB = """
import sys, av
options = {"video_size": "800x600", "draw_mouse": "0"}
with av.open(sys.argv[1], format="x11grab", options=options) as container:
    sys.stdout.buffer.write(next(container.decode(video=0)).to_ndarray(format="rgb24").tobytes())
"""


def screenshot(display: str) -> NDArray[np.uint8]:
    """(600, 800, 3) uint8 RGB."""
    done = subprocess.run(
        [sys.executable, "-c", GRAB, display], capture_output=True, check=True, timeout=10
    )
    return np.frombuffer(done.stdout, np.uint8).reshape(600, 800, 3)


def picture_on(display: str) -> NDArray[np.uint8]:
    """What is in the window: without a window manager it is in the upper left corner."""
    return np.ascontiguousarray(screenshot(display)[:HEIGHT, :WIDTH])


def number_on(display: str) -> int | None:
    """The number of the picture in the window, None while there is none."""
    try:
        return read_frame_number(picture_on(display))
    except ValueError:
        return None


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(5):
        while not condition():
            await asyncio.sleep(0.01)


async def press(*keys: str) -> None:
    """Press keys in the window, as a keyboard would (XTest)."""
    found = await xdotool("search", "--sync", "--name", "^streamseg test$")
    await xdotool("windowfocus", "--sync", found.split()[0], "key", *keys)


async def xdotool(*arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        "xdotool", *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, error = await process.communicate()
    assert process.returncode == 0, error
    return out.decode()


def close_as_a_window_manager_does(display: str, number: int) -> None:
    """Send WM_DELETE_WINDOW, which is what the cross in the corner does."""
    x11 = ctypes.CDLL(ctypes.util.find_library("X11") or "libX11.so.6")
    x11.XOpenDisplay.restype = ctypes.c_void_p
    x11.XInternAtom.restype = ctypes.c_ulong
    x11.XInternAtom.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]
    handle = ctypes.c_void_p(x11.XOpenDisplay(display.encode()))

    class Message(ctypes.Structure):
        _fields_ = (
            ("type", ctypes.c_int),
            ("serial", ctypes.c_ulong),
            ("send_event", ctypes.c_int),
            ("display", ctypes.c_void_p),
            ("window", ctypes.c_ulong),
            ("message_type", ctypes.c_ulong),
            ("format", ctypes.c_int),
            ("data", ctypes.c_long * 5),
            ("room", ctypes.c_long * 24),  # XEvent is larger than this one of its kinds
        )

    client_message = 33
    message = Message(client_message, 0, 1, handle, number)
    message.message_type = x11.XInternAtom(handle, b"WM_PROTOCOLS", 0)
    message.format = 32
    message.data[0] = x11.XInternAtom(handle, b"WM_DELETE_WINDOW", 0)
    x11.XSendEvent(handle, ctypes.c_ulong(number), 0, ctypes.c_long(0), ctypes.byref(message))
    x11.XCloseDisplay(handle)


async def test_the_picture_is_on_the_screen(display: str) -> None:
    async with showing(1234):
        await until(lambda: screenshot(display).max() > 0)
        shown = picture_on(display)
    assert read_frame_number(shown) == 1234
    expected = draw_frame(1234, WIDTH, HEIGHT).to_ndarray(format="rgb24").astype(int)
    assert np.median(np.abs(shown - expected)) <= 3
    await until(lambda: screenshot(display).max() == 0)  # the window has gone


async def test_pictures_follow_each_other(display: str) -> None:
    async with showing(1) as sink:
        for number in (2, 3, 4):
            await sink.send(frame(number))
            await until(lambda: number_on(display) == number)  # noqa: B023


async def test_keys_are_commands_on_the_event_loop(display: str) -> None:
    commands: list[str] = []
    loop = asyncio.get_running_loop()

    def note(command: str) -> None:
        assert asyncio.get_running_loop() is loop
        commands.append(command)

    async with showing(on_command=note):
        for key, command in (
            ("space", "pause"),
            ("e", "next-effect"),
            ("m", "show-mask"),
            ("s", "snapshot"),
            ("E", "next-effect"),
            ("x", None),
            ("Escape", "quit"),
            ("q", "quit"),
        ):
            before = len(commands)
            await press(key)
            if command is not None:
                await until(lambda: len(commands) > before)  # noqa: B023
                assert commands[before:] == [command]


async def test_text_is_over_the_picture_and_not_in_the_frame(display: str) -> None:
    threads = []

    def overlay() -> str:
        threads.append(asyncio.get_running_loop())
        return "30.0 fps  12 ms\ndropped 3"

    sent = frame(5)
    before = sent.video.to_ndarray().copy()
    async with showing(overlay=overlay) as sink:
        for _ in range(20):
            await sink.send(sent)
        await until(lambda: picture_on(display)[:4, :4].max() < 130)
        shown = picture_on(display).astype(int)
    plain = draw_frame(5, WIDTH, HEIGHT).to_ndarray(format="rgb24").astype(int)
    box = shown[:40, :60]
    assert (box > 200).any(), "white letters"
    assert np.median(box) < 100, "on a dark box"
    assert np.median(np.abs(shown[100:] - plain[100:])) <= 3, "and nowhere else"
    assert np.array_equal(sent.video.to_ndarray(), before)
    assert len(threads) < 20, "not asked for every picture"


async def test_closing_the_window_quits(display: str) -> None:
    commands: list[str] = []
    async with showing(on_command=commands.append) as sink:
        number = int((await xdotool("search", "--sync", "--name", "^streamseg test$")).split()[0])
        close_as_a_window_manager_does(display, number)
        await until(lambda: commands == ["quit"])
        for late in range(3):
            await sink.send(frame(late))
        await sink.finish()
        await sink.commit()
    statistics = sink.statistics()
    assert (statistics.accepted, statistics.written) == (4, 1)
    assert statistics.dropped == {"window closed": 3}


async def test_large_pictures_are_made_smaller(display: str) -> None:
    async with showing(max_size=(320, 200)):
        await until(lambda: screenshot(display).max() > 0)
        small = np.ascontiguousarray(screenshot(display)[:180, :320])
        assert read_frame_number(small) == 77
        assert screenshot(display)[180:].max() == 0


async def test_two_windows_at_once(display: str) -> None:
    async with showing(1) as one, showing(2) as two:
        for sink in (one, two):
            await sink.send(frame(3))
            await sink.finish()
            assert sink.statistics().written == 2


async def test_a_window_that_dies_is_one_error_and_takes_nothing_with_it(display: str) -> None:
    async with showing() as sink:
        assert sink._pictures is not None
        process = sink._pictures._window._process
        assert process is not None
        process.kill()
        with pytest.raises(SinkWriteError, match=r"preview window is gone: .*signal 9"):
            await send_many(sink)
    statistics = sink.statistics()
    assert statistics.accepted == statistics.written + sum(statistics.dropped.values())


@contextmanager
def mortal_screen() -> Iterator[tuple[str, Callable[[], None]]]:
    """An X server that the test may kill: its display, and what kills it."""
    ready, into = os.pipe()
    with subprocess.Popen(
        ["Xvfb", "-displayfd", str(into), "-screen", "0", "800x600x24", "-noreset"],
        pass_fds=[into],
        stderr=subprocess.DEVNULL,
    ) as server:
        os.close(into)
        try:
            with os.fdopen(ready) as pipe:
                yield f":{pipe.readline().strip()}", server.kill
        finally:
            server.kill()


async def test_an_x_server_that_goes_away_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with mortal_screen() as (display, kill):
        monkeypatch.setenv("DISPLAY", display)
        async with showing() as sink:
            kill()
            with pytest.raises(SinkWriteError, match="preview window is gone"):
                await send_many(sink)


PARENT = """
import asyncio
from streamseg.sinks.display import DisplaySink
from tests.unit.sinks.helpers import info_of

async def main():
    sink = DisplaySink()
    await sink.open(info_of())
    print(sink._pictures._window._process.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_the_window_goes_with_a_parent_that_is_killed(display: str) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": "."}
    )
    assert parent.stdout is not None
    child = psutil.Process(int(await parent.stdout.readline()))
    assert child.is_running()
    parent.kill()
    await parent.wait()
    await until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


async def test_closing_is_quick_though_the_window_hangs(display: str) -> None:
    async with showing() as sink:
        assert sink._pictures is not None
        process = sink._pictures._window._process
        assert process is not None
        os.kill(process.pid, signal.SIGSTOP)
        with anyio.move_on_after(0.2):
            await send_many(sink)  # until the pipe is full, and then it waits
        begin_s = time.perf_counter()
        await sink.aclose()
        assert time.perf_counter() - begin_s < 1.5
        assert process.poll() is not None


async def test_cancelling_the_opening_leaves_no_process(
    display: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "_BOOT", "import time; time.sleep(30)")
    sink = DisplaySink()
    begin_s = time.perf_counter()
    with anyio.move_on_after(0.2):
        await sink.open(INFO)
    assert time.perf_counter() - begin_s < 1.5
    assert sink._pictures is not None
    process = sink._pictures._window._process
    assert process is not None
    assert process.poll() is not None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "no display: DISPLAY is not set; set DISPLAY, or use --sink mjpeg://"),
        (":4711", "no display: ':4711' cannot be opened .*could not connect to display"),
    ],
)
async def test_no_display_is_told_with_what_to_try(
    value: str | None, message: str, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    if value is not None:
        monkeypatch.setenv("DISPLAY", value)
    with pytest.raises(SinkOpenError, match=message) as caught:
        await DisplaySink().open(INFO)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", ""), "Qt's own words are not shown"


async def test_an_opencv_without_windows_is_told(
    display: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What namedWindow of opencv-python-headless raises.
    words = "The function is not implemented. Rebuild the library with GTK+ 2.x"
    boot = window._BOOT.replace(
        "from streamseg",
        f"import cv2\ndef fail(*_): raise cv2.error({words!r})\ncv2.namedWindow = fail\n"
        "from streamseg",
    )
    monkeypatch.setattr(window, "_BOOT", boot)
    with pytest.raises(SinkOpenError, match="pip install --force-reinstall opencv-python"):
        await DisplaySink().open(INFO)
