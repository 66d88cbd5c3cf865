"""The process of one connection: gets encoded packets on standard input, sends them to a URL.

FFmpeg's protocols can wait for a peer for ever, in calls that nothing in the same process can end.
A process can be killed, at any moment and from every state.

Standard input carries a line of JSON (url, format, options, host, relay, header), then ``header``
bytes of NUT that describe the streams, then packets: ``HEADER`` and data. Standard output carries a
line for each event: ``open``, ``sent`` for each picture, ``end``, or ``failed`` with JSON (reason,
errno). No URL is ever written.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import struct
import subprocess
import sys
import time
from fractions import Fraction
from typing import Any

import av
import av.error

from streamseg.parent_death import die_with_parent

__all__ = ["HEADER", "KEY", "NO_TIME", "main"]

HEADER = struct.Struct("<IHHqqqII")
"""Bytes of data, stream, flags, pts, dts, duration, and the time base as a fraction."""
KEY = 1
NO_TIME = -(1 << 63)

_INTERLEAVE_US = "200000"  # how long a picture waits for sound that does not come
_NULL_PACKET = bytes([0x47, 0x1F, 0xFF, 0x10]) + b"\xff" * 184
# A receiver of SRT gets nothing more of what it still holds back when the connection is closed.
_SRT_LATENCY_S = 0.5


def main() -> None:
    """Run until standard input ends or the connection breaks."""
    die_with_parent()
    stdin = sys.stdin.buffer
    pump: subprocess.Popen[bytes] | None = None
    try:
        config = json.loads(stdin.readline())
        streams = av.open(io.BytesIO(stdin.read(config["header"])), format="nut")
        if config["host"]:
            socket.getaddrinfo(config["host"], None)
        target: Any = config["url"]
        if config["relay"]:
            pump = _start_pump(config["relay"], config["url"])
            target = pump.stdin
        options = {
            "flush_packets": "1",
            "max_interleave_delta": _INTERLEAVE_US,
            **config["options"],
        }
        output = av.open(
            target, "w", format=config["format"], container_options=options, buffer_size=1316
        )
        outputs = [output.add_stream_from_template(s, opaque=True) for s in streams.streams]
        output.start_encoding()
        _say("open")
        while len(head := stdin.read(HEADER.size)) == HEADER.size:
            size, index, flags, pts, dts, duration, numerator, denominator = HEADER.unpack(head)
            packet = av.Packet(stdin.read(size))
            packet.time_base = Fraction(numerator, denominator)
            packet.pts = None if pts == NO_TIME else pts
            packet.dts = None if dts == NO_TIME else dts
            packet.duration = duration
            packet.is_keyframe = bool(flags & KEY)
            packet.stream = outputs[index]
            output.mux_one(packet)
            if outputs[index].type == "video":
                _say("sent")
        output.close()
        if pump is not None and pump.stdin is not None:
            time.sleep(_SRT_LATENCY_S)
            pump.stdin.close()
            pump.wait(timeout=3)
        _say("end")
    except (OSError, ValueError, av.error.FFmpegError, subprocess.SubprocessError) as exc:
        reason, number = _reason(exc)
        if pump is not None:
            reason = _pump_reason(pump) or reason
        _say("failed " + json.dumps({"reason": reason, "errno": number}))
    finally:
        # At once: closing the container would write to the broken connection again.
        sys.stdout.flush()
        if pump is not None:
            pump.kill()
        os._exit(0)


def _say(line: str) -> None:
    with contextlib.suppress(OSError):
        os.write(sys.stdout.fileno(), line.encode() + b"\n")


def _reason(exc: BaseException) -> tuple[str, int]:
    if isinstance(exc, socket.gaierror):
        return "the host's name is not known", 0
    text = getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
    return " ".join(str(text).split()), int(getattr(exc, "errno", None) or 0)


def _start_pump(ffmpeg: str, url: str) -> subprocess.Popen[bytes]:
    """Start an FFmpeg that carries bytes, and wait until it is connected.

    Raises:
        OSError: If it does not connect.
    """
    pump = subprocess.Popen(
        [
            *(ffmpeg, "-hide_banner", "-nostats", "-loglevel", "info"),
            *("-raw_packet_size", "1316", "-f", "data", "-i", "pipe:0", "-map", "0"),
            *("-c", "copy", "-flush_packets", "1", "-f", "data", url),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert pump.stdin is not None
    assert pump.stderr is not None
    # It reads before it connects. Null packets are what MPEG-TS fills gaps with.
    pump.stdin.write(_NULL_PACKET * 7)
    pump.stdin.flush()
    for line in pump.stderr:
        if line.startswith(b"Output #0"):
            # Few lines follow, and the pipe holds 64 KB of them.
            return pump
    pump.wait()
    raise ConnectionError("the connection was refused or not answered")


def _pump_reason(pump: subprocess.Popen[bytes]) -> str | None:
    return None if pump.poll() is None else "the connection was closed"
