"""What is changed in session descriptions on their way to and from aiortc."""

from __future__ import annotations

import ipaddress

__all__ = ["for_aiortc", "usable_candidate", "with_bitrate"]

_DIRECTIONS = ("a=sendrecv", "a=sendonly", "a=recvonly", "a=inactive")


def for_aiortc(sdp: str) -> str:
    """Return a remote description as aiortc can take it.

    Candidates that it could not use are left out: TCP ones, names under ``.local`` (it would ask for
    them by multicast and make the answer wait; the other side's checks tell its address anyway).
    What means that no more candidates come is left out for the same reason. Directions are written
    into each section, where aiortc looks for them.
    """
    lines = sdp.replace("\r\n", "\n").rstrip("\n").split("\n")
    heads = [index for index, line in enumerate(lines) if line.startswith("m=")]
    first = heads[0] if heads else len(lines)
    common = [line for line in lines[:first] if line in _DIRECTIONS] or ["a=sendrecv"]
    result = [line for line in lines[:first] if line not in _DIRECTIONS]
    for begin, end in zip(heads, [*heads[1:], len(lines)], strict=True):
        section = [line for line in lines[begin:end] if _usable(line)]
        result += section
        if section[0].startswith(("m=audio", "m=video")) and not set(section) & set(_DIRECTIONS):
            result.append(common[-1])
    return "\r\n".join(result) + "\r\n"


def _usable(line: str) -> bool:
    if line == "a=end-of-candidates":
        return False
    return not line.startswith("a=candidate:") or usable_candidate(line[2:])


def usable_candidate(candidate: str) -> bool:
    """Whether aiortc can use ``candidate:...``: UDP, to an address."""
    words = candidate.split()
    if len(words) < 8 or words[2].lower() != "udp" or words[1] != "1":
        return False
    try:
        ipaddress.ip_address(words[4])
    except ValueError:
        return False
    return True


def with_bitrate(sdp: str, start: int, maximum: int) -> str:
    """Return a description that tells Chromium and others of libwebrtc what to send.

    Without a start they begin with 300 kbit/s and a quarter of the picture, and stay there for long;
    without a maximum they take 2 Mbit/s for one, and begin with less than 720p more often.

    Args:
        sdp: An answer of aiortc's.
        start: Bits per second.
        maximum: Bits per second.
    """
    wish = f"x-google-start-bitrate={start // 1000};x-google-max-bitrate={maximum // 1000}"
    result: list[str] = []
    video = False
    lines = sdp.rstrip("\r\n").split("\r\n")
    told = {
        line[len("a=fmtp:") :].partition(" ")[0] for line in lines if line.startswith("a=fmtp:")
    }
    for line in lines:
        if line.startswith("m="):
            video = line.startswith("m=video")
        tells = video and line.startswith("a=fmtp:") and "apt=" not in line
        result.append(f"{line};{wish}" if tells else line)
        if video and line.startswith("a=rtpmap:"):
            kind, _, codec = line[len("a=rtpmap:") :].partition(" ")
            if kind not in told and not codec.lower().startswith("rtx"):
                result.append(f"a=fmtp:{kind} {wish}")
    return "\r\n".join(result) + "\r\n"
