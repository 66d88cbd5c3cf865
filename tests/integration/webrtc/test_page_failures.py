"""The page where something does not work: what it says, and how it comes back."""

from __future__ import annotations

import re
import socket
import time
import urllib.request
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import psutil
import pytest

from tests.integration.webrtc.test_page import (
    ROOM,
    SAMPLE,
    Picture,
    connected,
    is_green,
    mean,
    start,
    until,
)
from tests.support.chromium import Chromium, make_camera, require_chromium
from tests.support.serving import Serving

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

pytestmark = [pytest.mark.integration, pytest.mark.browser]

TOKEN = "correct-horse-battery-staple"
KNOWN_TOKEN = f"""sessionStorage.setItem("streamseg.token", '"{TOKEN}"');"""
PURPLE = (160, 40, 200)
# Each device is opened at once, and handed out when the test says so.
SLOW_DEVICES = """
const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
window.opened = [];
window.holdDevices = () => (window.gate = new Promise((resolve) => (window.letGo = resolve)));
navigator.mediaDevices.getUserMedia = async (wish) => {
  const stream = await open(wish);
  window.opened.push(...stream.getTracks());
  await window.gate;
  return stream;
};
"""
# No candidate but a relay's, and there is no relay: as where UDP is blocked.
UNREACHABLE = """
Math.random = () => 0.5;
window.RTCPeerConnection = class extends RTCPeerConnection {
  constructor(options) {
    super({ ...options, iceTransportPolicy: "relay" });
  }
};
Object.defineProperty(Document.prototype, "hidden", { get: () => Boolean(window.putAway) });
Object.defineProperty(MediaStreamTrack.prototype, "muted", { get: () => Boolean(window.putAway) });
"""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    require_chromium()
    camera = make_camera(SAMPLE, tmp_path_factory.mktemp("camera") / "camera.y4m", seconds=1.0)
    with Chromium(camera=camera) as browser:
        yield browser


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    require_chromium()
    with Serving() as serving:
        yield serving


def problem(page: Page, words: str) -> None:
    page.get_by_role("alert").filter(has_text=words).wait_for()


def becomes(page: Page, condition: str) -> None:
    """Wait until an expression is true in the page."""
    page.evaluate(
        f"""async () => {{
          const end = Date.now() + 5000;
          while (!({condition})) {{
            if (Date.now() > end) throw new Error("it never came");
            await new Promise((resolve) => setTimeout(resolve, 20));
          }}
        }}"""
    )


@pytest.mark.parametrize(
    ("permission", "words"),
    [("deny", "The camera was refused."), ("grant", "No camera was found.")],
)
def test_camera_that_cannot_be_had_is_explained(
    server: Serving, permission: str, words: str, tmp_path: Path
) -> None:
    camera = make_camera(SAMPLE, tmp_path / "c.y4m", seconds=0.2)
    browser = Chromium(camera=camera if permission == "deny" else None, permission=permission)
    with browser, browser.page(server.url) as page:
        page.get_by_role("button", name="Start").click()
        problem(page, words)
        assert page.locator("#status").inner_text() == "Not connected"
        assert page.get_by_role("button", name="Start").is_enabled()


def test_device_that_opens_after_stop_is_closed_at_once(
    chromium: Chromium, server: Serving
) -> None:
    def stop_while_one_opens() -> None:
        becomes(page, f"opened.length > {before}")
        page.get_by_role("button", name="Stop").click()
        page.evaluate("letGo()")
        becomes(page, "opened.every((track) => track.readyState === 'ended')")
        assert page.locator("#status").inner_text().strip() == "Stopped"

    with chromium.page(server.url, script=SLOW_DEVICES) as page:
        start(page)
        before = page.evaluate("holdDevices() && opened.length")
        page.get_by_label("Microphone").select_option(label="Default microphone")
        stop_while_one_opens()
        start(page)
        before = page.evaluate("holdDevices() && opened.length")
        page.get_by_label("Camera", exact=True).select_option(index=1)
        stop_while_one_opens()
        before = page.evaluate("holdDevices() && opened.length")
        page.get_by_role("button", name="Start").click()
        stop_while_one_opens()


def test_call_is_made_though_an_earlier_one_hangs_in_a_request(
    chromium: Chromium, server: Serving
) -> None:
    from playwright.sync_api import Error

    held: list[Route] = []
    with chromium.page(server.url) as page:
        page.route("**/config.json", lambda route: held.append(route))
        page.reload()
        for button in ("Start", "Stop", "Start"):
            wait = page.expect_request("**/config.json") if button == "Start" else nullcontext()
            with wait:
                page.get_by_role("button", name=button).click()
        page.unroute("**/config.json")
        for route in held:
            with suppress(Error):  # of a request that the page has taken back
                route.continue_()
        connected(page)


def test_waits_grow_where_no_connection_can_be_made(chromium: Chromium, server: Serving) -> None:
    with chromium.page(server.url, script=UNREACHABLE) as page:
        status = page.locator("#status")

        def attempt(button: str, path: str, limit_s: float) -> None:
            """Begin an attempt, and let its time pass once it has got as far as this."""
            with page.expect_event("request", lambda asked: asked.url.endswith(path)):
                page.get_by_role("button", name=button).click()
            end = time.monotonic() + 5
            while "Trying again" not in status.inner_text():
                assert time.monotonic() < end, "the attempt does not end"
                page.wait_for_timeout(50)
                page.clock.run_for(limit_s * 1000)

        page.clock.install(time=0)
        page.clock.pause_at(1000)
        page.route("**/config.json", lambda route: None)
        page.reload()
        attempt("Start", "/config.json", 10)
        problem(page, "The server does not answer: no answer after 10 s.")
        page.unroute("**/config.json")
        for wait_s in (1, 2, 4):
            attempt("Try again now", "/offer", 12)
            problem(page, "The connection could not be made.")
            assert f"Trying again in {wait_s} s" in status.inner_text()
        page.evaluate("putAway = true; dispatchEvent(new Event('online'))")
        status.filter(has_text="Paused until this page is shown again").wait_for()
        page.evaluate("putAway = false; document.dispatchEvent(new Event('visibilitychange'))")
        status.filter(has_text="Connecting again").wait_for()


def test_full_server_says_when_it_is_tried_again_and_takes_the_next(chromium: Chromium) -> None:
    with (
        Serving("--max-sessions", "1") as server,
        chromium.page(server.url) as first,
        chromium.page(server.url, expected="503") as second,
    ):
        start(first)
        second.get_by_role("button", name="Start").click()
        problem(second, "The server is full.")
        assert "Trying again in" in second.locator("#status").inner_text()
        # The server said when: neither what a network is guessed to be worth nor its coming back
        # changes that.
        for name, target in (("change", "navigator.connection"), ("online", "window")):
            tell = f"for (let i = 0; i < 10; i++) {target}.dispatchEvent(new Event('{name}'))"
            second.evaluate(f"async () => {{ {tell}; await fetch('healthz'); }}")
            assert "Trying again in" in second.locator("#status").inner_text(), name
        first.get_by_role("button", name="Stop").click()
        # The place is free when the server has heard of it, not when the button was pressed
        second.evaluate("async () => { while (!(await fetch('readyz')).ok); }")
        second.get_by_role("button", name="Try again now").click()
        connected(second)
        assert not second.get_by_role("alert").is_visible()


def test_lost_server_is_found_again_with_the_effect_that_was_chosen(chromium: Chromium) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    with (
        Serving("--port", port) as server,
        chromium.page(server.url, expected="ERR_CONNECTION_REFUSED") as page,
    ):
        page.get_by_role("radio", name="Grey").check()
        start(page)
        server.kill()
        page.locator("#status", has_text="Trying again in").wait_for()
        assert page.locator("#veil").is_visible(), "an old picture is shown as if it were live"
        server.start()
        page.evaluate("dispatchEvent(new Event('online'))")
        connected(page)
        assert page.locator("#status").inner_text() == "Connected: Grey"


def test_killed_browser_leaves_nothing_in_the_server(chromium: Chromium, server: Serving) -> None:
    process = psutil.Process(server.pid)

    def held() -> dict[str, float]:
        with urllib.request.urlopen(f"{server.url}/metrics", timeout=5) as answer:
            found = re.findall(r"^streamseg_sessions\{\S+ (\S+)$", answer.read().decode(), re.M)
        return {
            "sessions": sum(map(float, found)),
            "descriptors": process.num_fds(),
            "threads": process.num_threads(),
        }

    with chromium.another() as browser:
        with browser.page(server.url) as page:
            start(page)  # so that what stays for the next call is there
        seen = [held() for _ in range(3)]
        while seen[0]["sessions"] or any(each != seen[0] for each in seen):
            time.sleep(0.1)
            seen = [*seen[1:], held()]
        before = seen[0]
        before["threads"] += 1  # a worker of the pool stays 10 s for its next task
        with browser.page(server.url) as page:
            start(page)
            during = held()
            assert during["sessions"] == 1
            assert during["descriptors"] > before["descriptors"]
            browser.kill()
    end = time.monotonic() + 10
    now = during
    while any(now[what] > before[what] for what in before):
        assert time.monotonic() < end, f"{now}, before it was {before}"
        time.sleep(0.1)
        now = held()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server with a token and a background of its own."""
    background = tmp_path_factory.mktemp("background") / "beach.png"
    cv2.imwrite(str(background), np.full((360, 640, 3), PURPLE[::-1], np.uint8))
    options = ("--effect", "replace", "--background", str(background))
    with Serving(*options, environment={"STREAMSEG_TOKENS": TOKEN}) as serving:
        yield serving


def test_token_is_asked_for_and_remembered(chromium: Chromium, own: Serving) -> None:
    with chromium.page(own.url, expected="401") as page:
        page.get_by_role("button", name="Start").click()
        problem(page, "The server wants an access token.")
        page.get_by_label("Access token").fill(TOKEN)
        page.get_by_role("button", name="Continue").click()
        connected(page)
        page.reload()
        connected(page)


def test_servers_background_is_kept_and_can_be_had_again(chromium: Chromium, own: Serving) -> None:
    def fits(now: Picture) -> bool:
        return bool(np.abs(mean(now, ROOM) - PURPLE).max() < 30)

    with chromium.page(own.url, script=KNOWN_TOKEN) as page:
        start(page)
        until(page, fits, "the server's picture")
        page.get_by_role("radio", name="Pixelate").check()
        until(page, lambda now: not fits(now), "pixelated")
        page.get_by_role("radio", name="Replace").check()
        until(page, fits, "the server's picture after another effect")
        page.reload()
        connected(page)
        until(page, fits, "the server's picture after the page was loaded again")
        backgrounds = page.get_by_role("combobox", name="Colour or picture")
        assert backgrounds.locator("option:checked").inner_text() == "The server's picture"
        backgrounds.select_option(label="Green")
        until(page, is_green(ROOM), "green")
        backgrounds.select_option(label="The server's picture")
        until(page, fits, "the server's picture after another one")
