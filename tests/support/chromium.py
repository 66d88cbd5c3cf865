"""Debian's Chromium, driven by Playwright, with a camera that plays a clip.

with Chromium(camera=make_camera(clip, tmp_path / "camera.y4m")) as chromium:
    with chromium.page(server.url) as page:
        ...

What a page says on its console, and what its security policy stops, is kept; a page that had
complaints fails when it is closed.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import av
import numpy as np
from numpy.typing import NDArray

from tests.support.programs import lack

if TYPE_CHECKING:
    from playwright.sync_api import Page

__all__ = ["Chromium", "make_camera", "picture_of", "require_chromium", "write_y4m"]

_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--allow-loopback-in-peer-connection",
    "--autoplay-policy=no-user-gesture-required",
)
_VIOLATIONS = """
window.cspViolations = [];
document.addEventListener("securitypolicyviolation", (event) =>
  window.cspViolations.push(`${event.violatedDirective} ${event.blockedURI}`));
"""
_READ = """
(id) => {
  const video = document.getElementById(id);
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  const ink = canvas.getContext("2d", { willReadFrequently: true });
  ink.drawImage(video, 0, 0);
  const { data } = ink.getImageData(0, 0, canvas.width, canvas.height);
  let text = "";
  for (let at = 0; at < data.length; at += 32768) {
    text += String.fromCharCode(...data.subarray(at, at + 32768));
  }
  return [canvas.width, canvas.height, btoa(text)];
}
"""


def _binary() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser")


def require_chromium() -> None:
    """Skip the test where there is no browser to drive; under CI it fails instead."""
    if _binary() is None:
        lack("chromium is not installed")
    if importlib.util.find_spec("playwright") is None:
        lack("playwright is not installed")


class Chromium:
    """A browser without a window.

    Args:
        camera: A Y4M file that the camera plays again and again; None: there is no camera.
        permission: ``grant`` or ``deny``: what the user answers when a page wants the camera.
    """

    def __init__(self, *, camera: Path | None, permission: str = "grant") -> None:
        self._flags = [*_FLAGS, "--use-fake-ui-for-media-stream"]
        if permission == "deny":
            self._flags[-1] += "=deny"
        if camera is not None:
            self._flags += [
                "--use-fake-device-for-media-stream",
                f"--use-file-for-fake-video-capture={camera}",
            ]
        self._stack = contextlib.ExitStack()
        self._browser: Any = None
        self._killed = False

    def __enter__(self) -> Self:
        from playwright.sync_api import sync_playwright

        with contextlib.ExitStack() as stack:
            playwright = stack.enter_context(sync_playwright())
            self._browser = self._launch(playwright.chromium)
            stack.callback(self._browser.close)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _launch(self, kind: Any) -> Any:
        return kind.launch(executable_path=_binary(), args=self._flags, timeout=30_000)

    @contextlib.contextmanager
    def another(self) -> Iterator[Chromium]:
        """Start a second browser like this one, which must run: a thread has one Playwright."""
        other = copy.copy(self)
        other._browser = self._launch(self._browser.browser_type)
        try:
            yield other
        finally:
            other._browser.close()

    def kill(self) -> None:
        """End the browser with all its processes, as a crash would; its pages are gone then."""
        devtools = self._browser.new_browser_cdp_session()
        processes = devtools.send("SystemInfo.getProcessInfo")["processInfo"]
        (main,) = (each["id"] for each in processes if each["type"] == "browser")
        group = os.getpgid(main)
        assert group != os.getpgrp(), "the browser is of this process's own group"
        self._killed = True
        os.killpg(group, signal.SIGKILL)

    @contextlib.contextmanager
    def page(
        self,
        url: str,
        *,
        width: int = 1280,
        height: int = 900,
        expected: str = "",
        script: str = "",
        **options: Any,
    ) -> Iterator[Page]:
        """Open a page; fails if it complained when it is closed.

        Args:
            url: Its address.
            width: Of the window, in CSS pixels.
            height: Likewise.
            expected: Part of complaints that are right, such as of a status that is tested.
            script: Runs in the page before its own scripts.
            options: Further ones of Playwright's contexts.
        """
        context = self._browser.new_context(
            viewport={"width": width, "height": height}, locale="en-GB", **options
        )
        complaints: list[str] = []
        try:
            context.set_default_timeout(15_000)
            context.add_init_script(_VIOLATIONS + script)
            page = context.new_page()
            page.on(
                "console",
                lambda message: (
                    complaints.append(message.text)
                    if message.type in ("error", "warning")
                    else None
                ),
            )
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.goto(url)
            yield page
            if not self._killed:
                complaints += page.evaluate("window.cspViolations")
        except BaseException:
            if folder := os.environ.get("STREAMSEG_TEST_SCREENSHOTS"):
                page.screenshot(path=str(Path(folder) / "failure.png"), full_page=True)
            if complaints:
                print("the page complained:", *complaints, sep="\n  ")
            raise
        finally:
            if not self._killed:
                context.close()
        wrong = [text for text in complaints if not expected or expected not in text]
        assert not wrong, f"the page complained: {wrong}"


def picture_of(page: Page, element: str) -> NDArray[np.uint8]:
    """Return what a video element shows now: RGB, height x width x 3."""
    import base64

    width, height, text = page.evaluate(_READ, element)
    data = np.frombuffer(base64.b64decode(text), np.uint8)
    return data.reshape(height, width, 4)[:, :, :3]


def make_camera(clip: Path, path: Path, *, seconds: float = 3.0) -> Path:
    """Write the beginning of a clip as what Chromium's camera can play."""
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        rate = stream.average_rate
        assert rate is not None
        frames = []
        for frame in container.decode(stream):
            if len(frames) >= seconds * rate:
                break
            frames.append(frame.to_ndarray(format="yuv420p"))
        write_y4m(path, frames, frame.width, frame.height, rate.numerator, rate.denominator)
    return path


def write_y4m(
    path: Path,
    frames: list[NDArray[np.uint8]],
    width: int,
    height: int,
    rate: int,
    per: int = 1,
) -> None:
    """Write frames (yuv420p as PyAV gives it, height * 3 / 2 x width) as YUV4MPEG2."""
    with path.open("wb") as file:
        file.write(f"YUV4MPEG2 W{width} H{height} F{rate}:{per} Ip A1:1 C420jpeg\n".encode())
        for frame in frames:
            file.write(b"FRAME\n")
            file.write(np.ascontiguousarray(frame).tobytes())
