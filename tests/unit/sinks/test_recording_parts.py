"""What recordings and streams are made of: the gate of side packets, encoder settings, the checks."""

from __future__ import annotations

import os
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import pytest

from streamseg.errors import ConfigError, SinkWriteError
from streamseg.ffmpeg_log import quiet_ffmpeg
from streamseg.priorities import ordinary_priorities
from streamseg.sinks.container import container_for
from streamseg.sinks.encoder import choose_encoder
from streamseg.sinks.live_muxing import PacketGate, tune_for_recording, tune_for_streaming
from streamseg.sinks.recording import RecordingSink
from streamseg.sinks.verify_end import verify_end
from tests.support.clips import make_clip

if TYPE_CHECKING:
    from pathlib import Path


def _packet(ms: int | None) -> av.Packet[Any]:
    packet = av.Packet(b"x")
    packet.pts = packet.dts = ms
    packet.time_base = Fraction(1, 1000)
    return packet


def _taken(gate: PacketGate, until_ms: int) -> list[int | None]:
    return [packet.pts for _, packet in gate.take(Fraction(until_ms, 1000))]


def test_packets_wait_for_their_pictures() -> None:
    gate = PacketGate(Fraction(10))
    gate.put(_packet(ms) for ms in (0, 20, 40, 30, 60))
    assert _taken(gate, 40) == [0, 20, 40, 30]
    assert _taken(gate, 59) == []
    gate.put([_packet(50)])
    assert _taken(gate, 100) == [60, 50]
    assert len(gate) == 0


def test_packets_without_a_time_or_content_are_let_go() -> None:
    gate = PacketGate(Fraction(10))
    gate.put([_packet(None), av.Packet()])
    assert len(gate) == 0


def test_packets_do_not_wait_for_ever() -> None:
    gate = PacketGate(Fraction(1))
    gate.put(_packet(ms) for ms in range(0, 3000, 100))
    assert _taken(gate, 0) == list(range(0, 2000, 100))
    gate.drop_overdue()
    assert len(gate) == 10
    gate.drop_before(Fraction(5, 2))
    assert _taken(gate, 10_000) == list(range(2500, 3000, 100))


def test_recordings_look_ahead_a_little_and_streams_not_at_all() -> None:
    mp4 = container_for("r.mp4")
    recorded = choose_encoder(mp4, "r.mp4")
    tune_for_recording(recorded, Fraction(30))
    assert (recorded.options["g"], recorded.options["rc-lookahead"]) == ("60", "5")
    assert recorded.options["crf"] == "21"
    assert "tune" not in recorded.options
    streamed = choose_encoder(mp4, "r.mp4")
    tune_for_streaming(streamed, Fraction(25), bitrate=1_000_000)
    assert streamed.options["tune"] == "zerolatency"
    assert streamed.options["bf"] == "0"
    assert "crf" not in streamed.options


@pytest.mark.parametrize("encoder", ["libx264", "libx265", "libvpx-vp9", "libsvtav1", "mpeg4"])
def test_tuned_options_are_known_to_the_encoder(encoder: str) -> None:
    quiet_ffmpeg()
    choice = choose_encoder(container_for("r.mkv"), "r.mkv", encoder=encoder)
    tune_for_recording(choice, Fraction(30))
    context: Any = av.CodecContext.create(encoder, "w")
    context.width, context.height, context.pix_fmt = 64, 48, "yuv420p"
    context.time_base = Fraction(1, 30)
    context.options = dict(choice.options)
    with ordinary_priorities():
        context.open()
    assert set(context.options) <= {"bf"}
    # As root SVT-AV1 takes the highest real-time priority for all of its threads.
    policies = {os.sched_getscheduler(int(thread)) for thread in os.listdir("/proc/self/task")}
    assert policies == {os.SCHED_OTHER}


@pytest.mark.parametrize("preset", ["ultrafast", "superfast"])
def test_fastest_presets_keep_their_own_lookahead(preset: str) -> None:
    choice = choose_encoder(container_for("r.mp4"), "r.mp4", preset=preset)
    tune_for_recording(choice, Fraction(30))
    assert "rc-lookahead" not in choice.options


@pytest.mark.parametrize("value", [0, 0.5, -1, float("nan"), float("inf")])
def test_segments_have_a_length(value: float) -> None:
    with pytest.raises(ConfigError, match="segment_s is"):
        RecordingSink("r.mp4", segment_s=value)


def test_end_of_a_file_is_verified(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "c.mp4", frames=150).path
    verify_end(path, "c.mp4", 150, Fraction(149, 25))
    with pytest.raises(SinkWriteError, match="has 150 frames, 151 were written"):
        verify_end(path, "c.mp4", 151, Fraction(149, 25))
    with pytest.raises(SinkWriteError, match=r"its last picture at 5.960 s instead of 8.000 s"):
        verify_end(path, "c.mp4", 150, Fraction(8))
    path.write_bytes(b"nothing")
    with pytest.raises(SinkWriteError, match="cannot be read back"):
        verify_end(path, "c.mp4", 150, Fraction(149, 25))
