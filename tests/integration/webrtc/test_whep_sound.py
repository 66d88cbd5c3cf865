"""The sound of a room reaches a recording untouched and in time with the pictures."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.support.clips import make_clip, read_frame_number
from tests.support.serving import Serving

pytestmark = pytest.mark.integration

RATE = 25
SECONDS = 12


def numbers_and_times(path: Path) -> list[tuple[int, float]]:
    with av.open(str(path)) as container:
        frames = [(frame, frame.time) for frame in container.decode(video=0)]
    return [(read_frame_number(frame), time) for frame, time in frames if time is not None]


def packets_and_times(path: Path) -> list[tuple[bytes, float]]:
    with av.open(str(path)) as container:
        assert container.streams.audio[0].codec_context.name == "opus"
        packets = [packet for packet in container.demux(audio=0) if packet.size]
        return [(bytes(packet), float(packet.pts * packet.time_base)) for packet in packets]


def test_recording_of_a_room_has_its_sound(tmp_path: Path) -> None:
    clip, record = tmp_path / "clip.mkv", tmp_path / "record.mkv"
    make_clip(
        clip,
        frames=RATE * SECONDS,
        size=(640, 360),
        rate=Fraction(RATE),
        audio_tracks=1,
        audio_codec="libopus",
    )
    with Serving("--source", str(clip), "--room", "lobby", "--loop", "--effect", "none") as server:
        command = [
            "live",
            f"whep:{server.url}/whep/lobby",
            "--sink",
            str(record),
            "--duration",
            "5",
        ]
        done = subprocess.run(
            [sys.executable, "-m", "streamseg", *command, "--effect", "none", "--encoder", "ffv1"],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr

    # The tone is the same in every second, and so are many packets: where in it, that is known.
    sent: dict[bytes, set[float]] = {}
    for data, time in packets_and_times(clip):
        sent.setdefault(data, set()).add(round(time % 1, 2) % 1)
    recorded = packets_and_times(record)
    assert len(recorded) > 0.9 * 4 * 50  # 20 ms each, of at least four seconds
    assert sum(data in sent for data, _ in recorded) > 0.95 * len(recorded)
    times = [time for _, time in recorded]
    assert times == sorted(times)

    known = [(at, time) for data, time in recorded if len(at := sent.get(data, set())) == 1]
    assert len(known) > 20
    of_sound = middle([time - min(at) for at, time in known])
    of_pictures = middle([time - number / RATE for number, time in numbers_and_times(record)])
    assert abs((of_sound - of_pictures + 0.5) % 1 - 0.5) < 0.15


def middle(times: list[float]) -> float:
    """The median of times on a circle of one second."""
    around = np.exp(2j * np.pi * np.array(times))
    turned = np.angle(around * np.conj(around[0]))
    return float(np.median(turned) + np.angle(around[0])) / (2 * np.pi)
