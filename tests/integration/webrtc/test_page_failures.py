"""The page where something does not work: what it says, and how it comes back."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.webrtc.test_page import SAMPLE, connected, start
from tests.support.chromium import Chromium, make_camera, require_chromium
from tests.support.serving import Serving

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.integration, pytest.mark.browser]

TOKEN = "correct-horse-battery-staple"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    require_chromium()
    camera = make_camera(SAMPLE, tmp_path_factory.mktemp("camera") / "camera.y4m", seconds=1.0)
    with Chromium(camera=camera) as browser:
        yield browser


def problem(page: Page, words: str) -> None:
    page.get_by_role("alert").filter(has_text=words).wait_for()


@pytest.mark.parametrize(
    ("permission", "words"),
    [("deny", "The camera was refused."), ("grant", "No camera was found.")],
)
def test_camera_that_cannot_be_had_is_explained(
    permission: str, words: str, tmp_path: Path
) -> None:
    require_chromium()
    with Serving() as server:
        camera = make_camera(SAMPLE, tmp_path / "c.y4m", seconds=0.2)
        browser = Chromium(camera=camera if permission == "deny" else None, permission=permission)
        with browser, browser.page(server.url) as page:
            page.get_by_role("button", name="Start").click()
            problem(page, words)
            assert page.locator("#status").inner_text() == "Not connected"
            assert page.get_by_role("button", name="Start").is_enabled()


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
        connected(page)
        assert page.locator("#status").inner_text() == "Connected: Grey"


def test_token_is_asked_for_and_remembered(chromium: Chromium) -> None:
    with (
        Serving(environment={"STREAMSEG_TOKENS": TOKEN}) as server,
        chromium.page(server.url, expected="401") as page,
    ):
        page.get_by_role("button", name="Start").click()
        problem(page, "The server wants an access token.")
        page.get_by_label("Access token").fill(TOKEN)
        page.get_by_role("button", name="Continue").click()
        connected(page)
        page.reload()
        connected(page)
