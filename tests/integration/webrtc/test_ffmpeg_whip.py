"""FFmpeg's own WHIP muxer publishes into a room; its numbered pictures and its sound are watched."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import pytest
from cryptography.hazmat.primitives.serialization import PrivateFormat

from streamseg.errors import SourceOpenError
from streamseg.webrtc.client import WhepSource
from tests.support.certificates import write_certificate
from tests.support.namespaces import UnalteredServing, metric
from tests.support.webrtc_peers import read_number

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]

ROOT = Path(__file__).parents[3]

# In a process of its own: while PyAV writes a header it holds the interpreter's lock.
PUBLISHER = """
import sys, time
from fractions import Fraction
import av, numpy as np
from tests.support.webrtc_peers import picture

url, *options = sys.argv[1:]
with av.open(url, "w", format="whip", options=dict(o.split("=", 1) for o in options)) as out:
    video = out.add_stream("libx264", rate=25)
    video.width, video.height, video.pix_fmt, video.gop_size = 640, 360, "yuv420p", 25
    video.options = {"profile": "baseline", "preset": "ultrafast", "tune": "zerolatency", "bf": "0"}
    audio = out.add_stream("libopus", rate=48_000)
    audio.layout, audio.bit_rate = "stereo", 64_000
    out.start_encoding()
    print("connected", flush=True)
    begun = time.monotonic()
    noise = np.random.default_rng(1)
    for number in range(25 * 40):
        time.sleep(max(0.0, begun + number / 25 - time.monotonic()))
        frame = picture(640, 360, number)
        frame.pts, frame.time_base = number, Fraction(1, 25)
        out.mux(video.encode(frame))
        for part in range(2):
            samples = noise.integers(-8000, 8000, (1, 1920), dtype=np.int16)
            sound = av.AudioFrame.from_ndarray(samples, format="s16", layout="stereo")
            sound.sample_rate, sound.pts = 48_000, 960 * (2 * number + part)
            out.mux(audio.encode(sound))
"""


@pytest.fixture(scope="module")
def server() -> Iterator[UnalteredServing]:
    if "whip" not in av.formats_available:
        pytest.skip("this FFmpeg has no WHIP muxer")
    with UnalteredServing("--effect", "none") as running:
        yield running


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options of the muxer with a certificate on P-256."""
    folder = tmp_path_factory.mktemp("certificate")
    cert, key = write_certificate(folder, "publisher", form=PrivateFormat.TraditionalOpenSSL)
    return [f"cert_file={cert}", f"key_file={key}"]


@contextmanager
def publishing(url: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", PUBLISHER, url, *options],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.anyio
async def test_publishes_into_a_room(server: UnalteredServing, certificate: list[str]) -> None:
    with publishing(f"{server.url}/whip/ffmpeg", *certificate) as process:
        assert process.stdout is not None
        line = await asyncio.to_thread(process.stdout.readline)
        assert line == "connected\n", process.communicate()[1]
        async with asyncio.timeout(20):
            viewer = await watching(f"whep:{server.url}/whep/ffmpeg")
        async with viewer:
            seen, sounds = [], 0
            begun_s = time.monotonic()
            async with asyncio.timeout(10):
                while len(seen) < 50:
                    seen.append(read_number((await viewer.receive()).video))
                    sounds += len(viewer.take_packets())
            assert 1.0 < time.monotonic() - begun_s < 5.0
            assert None not in seen
            assert seen == sorted(set(seen))
            assert seen[-1] - seen[0] < 60  # hardly one was left out
            assert sounds > 50
        process.kill()
        # It said nothing: that no media comes tells.
        async with asyncio.timeout(10):
            while await metric(server.url, "streamseg_rooms"):
                await asyncio.sleep(0.1)


async def watching(url: str) -> WhepSource:
    """Return a viewer; the room is there when the publisher's first picture is."""
    while True:
        try:
            viewer = WhepSource(url)
            await viewer.open()
            return viewer
        except SourceOpenError as exc:
            if "409" not in str(exc):
                raise
            await asyncio.sleep(0.1)


@pytest.mark.anyio
async def test_certificate_on_a_curve_that_is_not_webrtcs(tmp_path: Path) -> None:
    """What FFmpeg with GnuTLS makes by itself; the operator reads what to do."""
    with UnalteredServing("--effect", "none") as running:
        with publishing(f"{running.url}/whip/ffmpeg") as process:
            assert process.stdout is not None
            assert process.stderr is not None
            if await asyncio.to_thread(process.stdout.readline) == "connected\n":
                pytest.skip("this FFmpeg makes its certificate on P-256")
            errors = await asyncio.to_thread(process.stderr.read)
    said = "".join(running.said)
    assert "secp224r1" in said
    assert "cert_file" in said
    assert "Input/output error" in errors
