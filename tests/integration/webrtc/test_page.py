"""The page in a real browser, against the real server: what comes back is looked at."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.chromium import Chromium, make_camera, picture_of, require_chromium
from tests.support.serving import Serving

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

pytestmark = [pytest.mark.integration, pytest.mark.browser]

SAMPLE = Path(__file__).parents[2] / "media" / "sample.mp4"
# Of the sample, 640x360, as long as the camera plays it: shelves with books, and a space suit.
ROOM = (slice(60, 350), slice(20, 130))
OTHER_ROOM = (slice(60, 250), slice(540, 630))
SUIT = (slice(250, 340), slice(285, 355))
FIRST = """
document.addEventListener("loadeddata", ({ target }) => {
  if (target.id !== "processed" || window.firstPicture) return;
  const canvas = document.createElement("canvas");
  canvas.id = "first";
  [canvas.width, canvas.height] = [target.videoWidth, target.videoHeight];
  canvas.getContext("2d").drawImage(target, 0, 0);
  window.firstPicture = canvas.toDataURL();
}, true);
"""

Picture = NDArray[np.uint8]


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_chromium()
    return make_camera(SAMPLE, tmp_path_factory.mktemp("camera") / "camera.y4m")


@pytest.fixture(scope="module")
def chromium(camera: Path) -> Iterator[Chromium]:
    with Chromium(camera=camera) as browser:
        yield browser


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    require_chromium()
    with Serving() as serving:
        yield serving
    assert serving.said == [], "calls that come and go are nothing to log an error for"


def detail(picture: Picture, part: tuple[slice, slice]) -> float:
    """How much fine detail there is: the variance of the Laplacian."""
    grey = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(grey, cv2.CV_64F)[part].var())


def mean(picture: Picture, part: tuple[slice, slice]) -> NDArray[np.float64]:
    return picture[part].reshape(-1, 3).mean(axis=0)


def start(page: Page) -> None:
    page.get_by_role("button", name="Start").click()
    connected(page)


def connected(page: Page) -> None:
    page.locator("#status", has_text="Connected").wait_for()
    page.locator("#veil").wait_for(state="hidden")


def until(page: Page, fits: Callable[[Picture], Any], what: str, seconds: float = 8.0) -> Picture:
    """Look at the processed picture until it is as it should be; return it."""
    end = time.monotonic() + seconds
    while True:
        picture = picture_of(page, "processed")
        if picture.size and fits(picture):
            return picture
        assert time.monotonic() < end, f"the picture never became {what}"
        page.wait_for_timeout(50)


def is_green(part: tuple[slice, slice]) -> Callable[[Picture], bool]:
    return lambda picture: bool(np.abs(mean(picture, part) - (0, 177, 64)).max() < 30)


def test_background_is_blurred_and_subject_kept_from_the_first_picture(
    chromium: Chromium, server: Serving
) -> None:
    with chromium.page(server.url, script=FIRST) as page:
        start(page)
        page.get_by_label("Before and after").check()
        page.evaluate(
            """(video) => video.videoWidth ||
              new Promise((resolve) => video.addEventListener("loadeddata", resolve))""",
            page.locator("#local").element_handle(),
        )
        before = picture_of(page, "local")
        kept = 0.5 * detail(before, SUIT)
        after = until(page, lambda now: detail(now, SUIT) > kept, "sharp where the subject is")
        assert detail(before, ROOM) > 500, "there is nothing to blur"
        for part in (ROOM, OTHER_ROOM):
            assert detail(after, part) < 0.03 * detail(before, part)
            # blurred, not blackened: the shelves' colours are still there
            assert np.abs(mean(after, part) - mean(before, part)).max() < 30
        assert np.abs(mean(after, SUIT) - mean(before, SUIT)).max() < 25
        first = page.evaluate("window.firstPicture")
        shown = _decode(first)
        assert detail(shown, ROOM) < 0.03 * detail(before, ROOM), "the first picture shows the room"
        assert page.locator("#before figcaption").inner_text().startswith("Before: a local preview")


def test_picture_is_hidden_whole_until_the_model_has_answered(
    chromium: Chromium, models: Path
) -> None:
    with (
        Serving("--model", str(models / "very_slow.pte")) as slow,
        chromium.page(slow.url, script=FIRST) as page,
    ):
        page.get_by_label("Before and after").check()
        start(page)
        before = picture_of(page, "local")
        shown = _decode(page.evaluate("window.firstPicture"))
        for part in (ROOM, OTHER_ROOM, SUIT):
            assert detail(shown, part) < 0.05 * detail(before, part)


def _decode(url: str) -> Picture:
    import base64

    data = np.frombuffer(base64.b64decode(url.split(",")[1]), np.uint8)
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None
    return np.asarray(decoded[:, :, ::-1], np.uint8)


def test_effect_and_strength_follow_the_keyboard(chromium: Chromium, server: Serving) -> None:
    with chromium.page(server.url) as page:
        start(page)
        blurred = until(page, lambda now: detail(now, SUIT) > 100, "sharp where the subject is")
        page.get_by_role("slider", name="Strength").focus()
        page.keyboard.press("Home")
        until(page, lambda now: detail(now, ROOM) > 20 * detail(blurred, ROOM), "sharp at 0")
        page.get_by_role("radio", name="Blur").focus()
        page.keyboard.press("ArrowRight")
        assert page.get_by_role("radio", name="Replace").is_checked()
        green = until(page, is_green(ROOM), "green where the room was")
        assert is_green(OTHER_ROOM)(green)
        assert not is_green(SUIT)(green)
        page.locator("#status", has_text="Connected: Replace").wait_for()
        page.keyboard.press("ArrowRight")
        until(page, lambda now: not is_green(ROOM)(now), "pixelated")
        page.locator("#status", has_text="Connected: Pixelate").wait_for()


def test_own_picture_becomes_the_background_also_after_a_reload(
    chromium: Chromium, server: Serving, tmp_path: Path
) -> None:
    halves = np.zeros((1080, 1920, 3), np.uint8)
    halves[:, :960], halves[:, 960:] = (0, 0, 220), (220, 0, 0)  # BGR: red, blue
    cv2.imwrite(str(tmp_path / "beach.png"), halves)

    def fits(now: Picture) -> bool:
        left, right = mean(now, ROOM), mean(now, OTHER_ROOM)
        return bool(left[0] > 170 and left[2] < 60 and right[2] > 170 and right[0] < 60)

    with chromium.page(server.url) as page:
        page.get_by_role("radio", name="Replace").check()
        page.get_by_label("Own picture").set_input_files(tmp_path / "beach.png")
        page.get_by_text("Your picture is used.").wait_for()
        start(page)
        until(page, fits, "red on the left and blue on the right")
        until(page, lambda now: detail(now, SUIT) > 100, "sharp where the subject is")
        page.reload()
        connected(page)
        assert page.get_by_role("radio", name="Replace").is_checked()
        until(page, fits, "as it was before the page was loaded again")
        (tmp_path / "notes.png").write_text("no picture")
        page.get_by_label("Own picture").set_input_files(tmp_path / "notes.png")
        page.get_by_text("cannot read that file as a picture").wait_for()


def test_effects_are_those_that_the_server_lists_and_the_one_that_it_begins_with(
    chromium: Chromium, server: Serving
) -> None:
    def tell(route: Route) -> None:
        """As a server with an effect that only its operator may have."""
        response = route.fetch()
        config = response.json()
        config["effects"] = ["grayscale", "labels", "mask", "brand-new"]
        config["effect"] = {"name": "per-class", "options": {}}
        config["may_bypass"] = False
        route.fulfill(response=response, json=config)

    def effects() -> list[str]:
        return page.get_by_role("radio").evaluate_all("(all) => all.map(({ value }) => value)")

    offers: list[dict[str, Any]] = []
    with chromium.page(server.url) as page:
        page.locator("input[value=none]").wait_for(state="attached")
        told = page.evaluate("async () => (await fetch('config.json')).json()")["effects"]
        assert sorted(effects()) == sorted(set(told) - {"mask"})
        assert "labels" not in told, "this model classifies nothing"
        page.route("**/config.json", tell)
        page.route(
            "**/offer",
            lambda route: (offers.append(route.request.post_data_json), route.continue_()),
        )
        page.reload()
        start(page)
        assert effects() == ["grayscale", "labels", "per-class", "brand-new"]
        for name in ("By class", "Grey", "By class"):
            page.get_by_role("radio", name=name).check()
            page.locator("#status", has_text=f"Connected: {name}").wait_for()
        assert [offer.get("effect") for offer in offers] == [None, None]
        page.get_by_role("radio", name="Grey").check()
        strength = page.get_by_role("slider", name="Strength")
        assert strength.get_attribute("min") == "100", "the server makes it no weaker"


def test_mask_view_shows_the_subject_white(chromium: Chromium, server: Serving) -> None:
    with chromium.page(server.url) as page:
        start(page)
        page.get_by_label("Mask view").check()
        until(
            page,
            lambda now: mean(now, ROOM).max() < 30 and mean(now, SUIT).min() > 200,
            "a mask",
        )
        page.locator("#status", has_text="Connected: Mask view").wait_for()
        page.get_by_label("Mask view").uncheck()
        until(page, lambda now: mean(now, ROOM).max() > 60, "a picture again")


def test_figures_are_live_and_stop_ends_the_call(chromium: Chromium, server: Serving) -> None:
    with chromium.page(server.url) as page:
        start(page)
        for name, shape in (
            ("fps", r"^\d+$"),
            ("latency", r"^\d+ ms$"),
            ("rtt", r"^\d+ ms$"),
            ("bitrate", r"^\d+\.\d / \d+\.\d Mbit/s$"),
            ("size", "^640 × 360$"),
            ("drops", r"^(none|\d+ .+)$"),
        ):
            page.locator(f"#figure-{name}", has_text=re.compile(shape)).wait_for()
        page.get_by_role("button", name="Stop").click()
        assert page.locator("#status").inner_text().strip() == "Stopped"
        assert page.locator("#veil").is_visible()
        assert page.evaluate("document.getElementById('processed').srcObject") is None


def test_camera_is_listed_by_its_name_and_can_be_chosen_in_the_call(
    chromium: Chromium, server: Serving
) -> None:
    with chromium.page(server.url) as page:
        start(page)
        camera = page.get_by_label("Camera", exact=True)
        named = camera.locator("option").nth(1)
        named.wait_for(state="attached")
        camera.select_option(label=named.inner_text())
        first = page.evaluate("processed.getVideoPlaybackQuality().totalVideoFrames")
        seen = until(page, lambda now: detail(now, SUIT) > 100, "sharp where the subject is")
        assert detail(seen, ROOM) < 100
        page.evaluate(
            """async (first) => {
              while (processed.getVideoPlaybackQuality().totalVideoFrames < first + 10)
                await new Promise((resolve) => setTimeout(resolve, 20));
            }""",
            first,
        )
        assert page.locator("#status").inner_text() == "Connected: Blur"


def test_microphone_is_added_and_sound_comes_back(chromium: Chromium, server: Serving) -> None:
    with chromium.page(server.url) as page:
        start(page)
        page.get_by_label("Microphone").select_option(label="Default microphone")
        page.get_by_label("Hear the returned sound").check()
        assert page.evaluate("document.getElementById('processed').muted") is False
        # The fake microphone beeps: what comes back is measured, not whether a track is there
        loudest = page.evaluate(
            """async () => {
              const stream = document.getElementById("processed").srcObject;
              const context = new AudioContext();
              const meter = context.createAnalyser();
              context.createMediaStreamSource(stream).connect(meter);
              const samples = new Float32Array(meter.fftSize);
              let loudest = 0;
              for (let i = 0; i < 200 && loudest < 0.01; i++) {
                await new Promise((resolve) => setTimeout(resolve, 25));
                meter.getFloatTimeDomainData(samples);
                loudest = Math.max(loudest, ...samples);
              }
              return loudest;
            }"""
        )
        assert loudest > 0.01


def test_page_fits_a_phone_and_both_colour_schemes_can_be_read(
    chromium: Chromium, server: Serving
) -> None:
    for scheme in ("light", "dark"):
        with chromium.page(
            server.url, width=360, height=740, color_scheme=scheme, reduced_motion="reduce"
        ) as page:
            start(page)
            page.get_by_label("Before and after").check()
            overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert overflow <= 0, "the page is wider than the telephone"
            assert page.evaluate(_POOR_CONTRAST) == []
            assert page.evaluate(_NAMELESS) == []
            small = page.evaluate(_SMALL_TARGETS)
            assert small == [], "too small for a finger"


def test_controls_are_reached_in_order_with_a_visible_focus(
    chromium: Chromium, server: Serving
) -> None:
    with chromium.page(server.url) as page:
        reached = []
        for _ in range(8):
            page.keyboard.press("Tab")
            name, outlined = page.evaluate(
                """() => {
                  const at = document.activeElement;
                  const face = at.type === "radio" ? at.nextElementSibling : at;
                  return [at.id || at.value, getComputedStyle(face).outlineStyle !== "none"];
                }"""
            )
            assert outlined, f"{name} has the focus and does not show it"
            reached.append(name)
        expected = ["start", "compare", "mask", "hear", "blur", "strength", "camera", "microphone"]
        assert reached == expected


_POOR_CONTRAST = """
() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const linear = [r, g, b].map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const under = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll("body *")]
    .filter((element) => element.checkVisibility() &&
      [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
    .map((element) => {
      const [a, b] = [light(parse(getComputedStyle(element).color)), light(under(element))];
      const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      return [element.tagName, element.textContent.trim().slice(0, 30), ratio];
    })
    .filter(([, , ratio]) => ratio < 4.5);
}
"""
_NAMELESS = """
() => [...document.querySelectorAll("button, input, select")]
  .filter((element) => !element.labels?.length && !element.textContent.trim())
  .map((element) => element.outerHTML)
"""
_SMALL_TARGETS = """
() => [...document.querySelectorAll("button, input, select")]
  .filter((element) => element.checkVisibility())
  .map((element) => [element.id, (element.closest("label") ?? element).getBoundingClientRect().height])
  .filter(([, height]) => height < 43.5)
"""
