"""GStreamer as publisher, viewer and caller, with H.264: what it sends and gets is looked at."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from numpy.typing import NDArray
from yarl import URL

from tests.integration.webrtc.test_server import NAVY, share_of
from tests.support.calling import sample_pictures
from tests.support.gstreamer import HEIGHT, WIDTH, GStreamer
from tests.support.namespaces import metric, room_filled
from tests.support.serving import Serving
from tests.support.webrtc_peers import picture, read_number

pytestmark = [pytest.mark.integration, pytest.mark.anyio, pytest.mark.timeout(60)]

COUNT = 50  # pictures that are sent again and again, two seconds of them


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with Serving("--effect", "none") as running:
        yield running
    assert running.said == []


def pattern(number: int) -> NDArray[np.uint8]:
    """A picture with its number and detail, its lower half in two colours; I420."""
    made = picture(WIDTH, HEIGHT, number).to_ndarray()
    blue, red = made[HEIGHT:].reshape(2, HEIGHT // 2, WIDTH // 2)
    blue[HEIGHT // 4 :, : WIDTH // 4] = 90
    red[HEIGHT // 4 :, WIDTH // 4 :] = 170
    return made


def numbered_sample(number: int, sample: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture of a person with its number in the upper eighth; I420."""
    code = picture(WIDTH, HEIGHT, number).to_ndarray()
    return np.concatenate([code[: HEIGHT // 8], sample[HEIGHT // 8 :]])


def write(path: Path, pictures: list[NDArray[np.uint8]]) -> Path:
    path.write_bytes(b"".join(each.tobytes() for each in pictures))
    return path


async def signal(client: aiohttp.ClientSession, url: str, peer: GStreamer, way: str) -> URL:
    """Connect as WHIP and WHEP say; return where it can be ended."""
    offer, head = await peer.offer(), {"Content-Type": "application/sdp"}
    async with client.post(url, data=offer, headers=head) as response:
        answer = await response.text()
        assert response.status == 201, answer
        place = response.url.join(URL(response.headers["Location"]))
    assert " H264/90000" in answer
    assert f"a={way}" in answer
    peer.take_answer(answer)
    return place


async def gone(server: Serving, name: str) -> None:
    async with asyncio.timeout(5):
        while await metric(server.url, name):
            await asyncio.sleep(0.05)


async def test_publishes_and_plays_h264(server: Serving, tmp_path: Path) -> None:
    sent = [pattern(number) for number in range(COUNT)]
    async with (
        GStreamer(pictures=write(tmp_path / "pictures", sent)) as publisher,
        GStreamer(receives=True) as viewer,
        aiohttp.ClientSession() as client,
    ):
        published = await signal(client, f"{server.url}/whip/room", publisher, "recvonly")
        await room_filled(server.url)
        watched = await signal(client, f"{server.url}/whep/room", viewer, "sendonly")

        pictures = await viewer.next_frames(40)
        numbers = [read_number(each) for each in pictures]
        assert None not in numbers
        steps = np.diff(np.array(numbers)) % COUNT
        assert steps.min() > 0  # none twice, none out of order
        assert steps.mean() < 1.5  # and most of them
        for number, seen in list(zip(numbers, pictures, strict=True))[-10:]:
            away = np.abs(seen.to_ndarray().astype(int) - sent[number])
            assert away[:HEIGHT].mean() < 4  # 0.7 where nobody else has the processor
            assert away[HEIGHT:].mean() < 2  # 0.05

        for place in (watched, published):
            async with client.delete(place) as response:
                assert response.status == 200
        await gone(server, "streamseg_rooms")


async def test_call_with_h264_both_ways(server: Serving, tmp_path: Path) -> None:
    samples = sample_pictures(COUNT)
    sent = [numbered_sample(number, each.to_ndarray()) for number, each in enumerate(samples)]
    wish = {"type": "offer", "effect": "replace", "options": {"background": "navy"}}
    async with (
        GStreamer(
            pictures=write(tmp_path / "pictures", sent), receives=True, control=True
        ) as caller,
        aiohttp.ClientSession() as client,
    ):
        offer = {"sdp": await caller.offer(), **wish}
        async with client.post(f"{server.url}/offer", json=offer) as response:
            answer = await response.json()
            assert response.status == 200, answer
        assert " H264/90000" in answer["sdp"]
        caller.take_answer(answer["sdp"])

        async with asyncio.timeout(20):  # whole pictures are hidden until the model is loaded
            while True:
                seen = (await caller.next_frames(1))[0]
                share = share_of(seen.to_ndarray(format="rgb24"), NAVY)
                assert share > 0.4
                if share < 0.9:
                    break
        suit = np.s_[HEIGHT // 2 : HEIGHT - 40, WIDTH // 2 - 80 : WIDTH // 2]  # of luma
        away = [np.abs(seen.to_ndarray()[suit].astype(int) - each[suit]).mean() for each in sent]
        assert min(away) < 6

        assert await caller.ask(bypass=True) == {"bypass": True}
        await caller.next_frames(10)
        pictures = await caller.next_frames(25)
        numbers = [read_number(each) for each in pictures]
        assert None not in numbers
        assert (np.diff(np.array(numbers)) % COUNT).min() > 0
        for number, seen in list(zip(numbers, pictures, strict=True))[-5:]:
            assert np.abs(seen.to_ndarray().astype(int) - sent[number]).mean() < 4
        assert (await caller.figures())["codec"] == "H264"

        async with client.delete(f"{server.url}/session/{answer['session']}") as response:
            assert response.status == 200
        await gone(server, 'streamseg_sessions{kind="call"}')
