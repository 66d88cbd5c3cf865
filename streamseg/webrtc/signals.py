"""Checks of a session description before anything parses it.

An SDP is text that a stranger wrote. What is checked here is what can be said without understanding
it: its size, how many sections and candidates it has, and that it has what no WebRTC offer lacks.
The messages repeat nothing of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from streamseg.webrtc.errors import SignalError

__all__ = ["MAX_CANDIDATES", "MAX_SDP_BYTES", "Fragment", "check_offer", "read_fragment"]

MAX_SDP_BYTES = 65_536
"""Browsers' offers have 3 to 8 thousand."""

_MAX_LINES = 2000
_MAX_LINE = 4096
_MAX_MEDIA = 2
_MAX_APPLICATIONS = 1
# For each section: without max-bundle a browser offers all its addresses in each of them.
MAX_CANDIDATES = 20
_CODECS = ("H264", "VP8")
_DIRECTIONS = ("sendrecv", "sendonly", "recvonly", "inactive")
_TOKEN = re.compile(r"[A-Za-z0-9+/=_-]{4,256}")
_PASSWORD = re.compile(r"[A-Za-z0-9+/=_-]{22,256}")
_FINGERPRINT = re.compile(r"[A-Za-z0-9-]{3,10} [0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){15,63}")
_MEDIA = re.compile(r"m=([a-z]+) (\d{1,5})(?:/\d+)? ([A-Za-z0-9/]+)((?: [A-Za-z0-9-]+)+)")
_CANDIDATE = re.compile(
    r"candidate:[A-Za-z0-9+/]{1,32} \d{1,3} (udp|tcp) \d{1,10} [A-Za-z0-9.:%_-]{1,253} \d{1,5} typ "
    r"[a-z]{1,10}( [\x21-\x7e]{1,253}){0,32}",
    re.IGNORECASE,
)
_MID = re.compile(r"[\x21-\x7e]{1,32}")


def check_offer(sdp: str, *, sends: bool, receives: bool) -> None:
    """Check an offer.

    Args:
        sdp: The offer.
        sends: Whether video is to be sent to whoever offers.
        receives: Whether video is to come from there.

    Raises:
        SignalError: 413 if it is too large, 400 if it is no offer of WebRTC, 422 if it is one that
            cannot be served, 406 without a video codec in common.
    """
    session, media = _sections(sdp)
    kinds = [section[0][2:].partition(" ")[0] for section in media]
    applications = kinds.count("application")
    if len(kinds) - applications > _MAX_MEDIA or applications > _MAX_APPLICATIONS:
        raise SignalError(
            f"the offer has {len(kinds) - applications} media and {applications} application "
            f"sections, at most {_MAX_MEDIA} and {_MAX_APPLICATIONS} are taken",
            status=422,
        )
    for section in media:
        _check_section(section)
    _check_transport([line for section in (session, *media) for line in section])
    used = [section for section in media if not _is_rejected(section)]
    videos = [section for section in used if section[0].startswith("m=video ")]
    _check_video(session, videos, sends=sends, receives=receives)


def _sections(sdp: str) -> tuple[list[str], list[list[str]]]:
    """Return the lines of the session and of each media section."""
    if len(sdp) > MAX_SDP_BYTES or len(sdp.encode("utf-8", "replace")) > MAX_SDP_BYTES:
        raise SignalError(f"the offer is over {MAX_SDP_BYTES} bytes", status=413)
    if not sdp.startswith("v=0"):
        raise SignalError("this is no session description: it begins with v=0")
    lines = sdp.replace("\r\n", "\n").rstrip("\n").split("\n")
    if len(lines) > _MAX_LINES:
        raise SignalError(f"the offer has over {_MAX_LINES} lines", status=413)
    session: list[str] = []
    media: list[list[str]] = []
    for line in lines:
        if len(line) > _MAX_LINE:
            raise SignalError(f"the offer has a line of over {_MAX_LINE} letters", status=413)
        if not line.isprintable() or line[1:2] != "=":
            raise SignalError("the offer has a line that is none of a session description")
        if line.startswith("m="):
            media.append([])
        (media[-1] if media else session).append(line)
    if not media:
        raise SignalError("the offer has no media")
    return session, media


def _values(lines: list[str], name: str) -> list[str]:
    prefix = f"a={name}:"
    return [line[len(prefix) :] for line in lines if line.startswith(prefix)]


def _is_rejected(section: list[str]) -> bool:
    port = section[0].split(" ")[1].partition("/")[0]
    return int(port) == 0 and "a=bundle-only" not in section


def _check_section(section: list[str]) -> None:
    if _MEDIA.fullmatch(section[0]) is None:
        raise SignalError("the offer has an m= line that is none")
    candidates = sum(line.startswith("a=candidate:") for line in section)
    if candidates > MAX_CANDIDATES:
        raise SignalError(
            f"the offer has {candidates} candidates in one section, at most {MAX_CANDIDATES} are "
            "taken",
            status=422,
        )
    if any(line.startswith(("a=simulcast:", "a=rid:")) for line in section):
        raise SignalError(
            "the offer has simulcast, which would be reduced to its smallest layer: "
            "offer one encoding",
            status=422,
        )


def _check_transport(lines: list[str]) -> None:
    # Of bundled sections one may speak for all.
    for name, shape in (
        ("ice-ufrag", _TOKEN),
        ("ice-pwd", _PASSWORD),
        ("fingerprint", _FINGERPRINT),
    ):
        found = _values(lines, name)
        if not found:
            raise SignalError(f"the offer has no {name}")
        if not all(shape.fullmatch(value.strip()) for value in found):
            raise SignalError(f"the offer has a {name} that is none")


def _check_video(
    session: list[str], videos: list[list[str]], *, sends: bool, receives: bool
) -> None:
    if not videos:
        raise SignalError("the offer has no video", status=422)
    if len(videos) > 1:
        raise SignalError("the offer has two videos, one is taken", status=422)
    codecs = {
        value.partition(" ")[2].partition("/")[0].strip().upper()
        for value in _values(videos[0], "rtpmap")
    }
    if not codecs & set(_CODECS):
        raise SignalError(
            f"the offer has no video codec in common: {' and '.join(_CODECS)} are taken", status=406
        )
    stated = [
        line[2:] for line in (*session, *videos[0]) if line[:2] == "a=" and line[2:] in _DIRECTIONS
    ]
    direction = stated[-1] if stated else "sendrecv"
    if receives and direction not in ("sendrecv", "sendonly"):
        raise SignalError(f"the offer's video is {direction}: it must be sent", status=422)
    if sends and direction not in ("sendrecv", "recvonly"):
        raise SignalError(f"the offer's video is {direction}: it must be received", status=422)


@dataclass(frozen=True, slots=True)
class Fragment:
    """What a trickle of candidates says (RFC 8840, ``application/trickle-ice-sdpfrag``).

    Attributes:
        user: ICE user name, None if it says none.
        candidates: Pairs of a media section's ``mid`` and a candidate without ``a=``.
        ended: Whether no more candidates come.
    """

    user: str | None
    candidates: tuple[tuple[str, str], ...]
    ended: bool


def read_fragment(text: str) -> Fragment:
    """Return what a fragment of an SDP says.

    Raises:
        SignalError: If it is none, or has too many candidates.
    """
    user = mid = None
    ended = False
    candidates: list[tuple[str, str]] = []
    for line in text.replace("\r\n", "\n").rstrip("\n").split("\n"):
        name, _, value = line.partition(":")
        if not line.isprintable() or line[1:2] != "=":
            raise SignalError("the body is no fragment of a session description")
        if name == "a=ice-ufrag":
            user = value
        elif name == "a=mid":
            if _MID.fullmatch(value) is None:
                raise SignalError("the fragment has a mid that is none")
            mid = value
        elif name == "a=candidate":
            if _CANDIDATE.fullmatch(line[2:]) is None or mid is None:
                raise SignalError("the fragment has a candidate that is none")
            candidates.append((mid, line[2:]))
        elif line == "a=end-of-candidates":
            ended = True
    if len(candidates) > MAX_CANDIDATES:
        raise SignalError(
            f"the fragment has {len(candidates)} candidates, at most {MAX_CANDIDATES} are taken",
            status=422,
        )
    if user is None and not candidates and not ended:
        raise SignalError("the fragment has neither candidates nor the end of them")
    return Fragment(user, tuple(candidates), ended)
