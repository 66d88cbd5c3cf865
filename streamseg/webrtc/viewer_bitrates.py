"""Which viewers of a room share an encoder, and at what bitrate.

Each viewer says what it can take (REMB), and each codec of a room has one encoder or two:

* The *main* one is for all whose bitrate is at least half of the best one's. It has the lowest
  bitrate of theirs, since more than that would be lost on the way to somebody; that costs the best
  at most half of what it could have.
* Who can take less than half of the best has the *low* one, at the lowest bitrate of theirs. So a
  telephone on a poor line does not spoil the picture of everybody else, and a room never costs more
  than two encoders a codec, however far its viewers are apart.

An estimate never goes far above what was received: of pictures that are easy to encode, a browser on
a good line says little. So nobody is sent to the low encoder who can take what the main one really
makes, and who can take half as much again comes back.

Estimates swing, and whoever changes the encoder costs all of its viewers a keyframe. So a viewer
changes only after being on the other side for some seconds, longer upwards than downwards, and comes
back at 0.65 of the best, not at half. What a newcomer says counts after six seconds only: browsers
begin low and have measured something after five. A viewer who is alone has the bitrate that it asks
for, at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["ViewerBitrate", "share_out"]

_DOWN_BELOW = 0.5  # of the best
_UP_FROM = 0.65
_DOWN_S = 2.0
_UP_S = 5.0
_UP_FROM_SENT = 1.5
_NEWCOMER_S = 6.0


@dataclass(slots=True, eq=False)
class ViewerBitrate:
    """What one viewer can take.

    Attributes:
        joined_s: When it came.
        bitrate: What it said last, bits per second; None before it said anything.
        low: Whether it belongs to the low encoder.
        since_s: Since when it would rather be at the other one; None if it would not.
    """

    joined_s: float
    bitrate: int | None = None
    low: bool = False
    since_s: float | None = field(default=None, repr=False)


def share_out(
    viewers: Collection[ViewerBitrate], now: float, *, sent: float | None = None
) -> tuple[int | None, int | None]:
    """Decide who is at which encoder (``low`` is set), and return the bitrates of both.

    Args:
        viewers: All who share a codec in a room.
        now: Seconds, of the clock that ``joined_s`` is of.
        sent: What the main encoder really makes, bits per second; None if that is not known.

    Returns:
        Bits per second of the main and of the low encoder; None where nobody said anything that
        counts: whatever it has stays.
    """
    heard = {
        viewer: viewer.bitrate
        for viewer in viewers
        if viewer.bitrate is not None
        and (len(viewers) == 1 or now - viewer.joined_s >= _NEWCOMER_S)
    }
    if all(viewer.low for viewer in viewers):
        # Those at the main encoder have gone: there is nobody to be kept from spoiling.
        for viewer in viewers:
            viewer.low, viewer.since_s = False, None
    if not heard:
        return None, None
    best = max(heard.values())
    for viewer, bitrate in heard.items():
        belongs_low = bitrate < best * (_UP_FROM if viewer.low else _DOWN_BELOW)
        if sent is not None:
            belongs_low &= bitrate < sent * (_UP_FROM_SENT if viewer.low else 1)
        if belongs_low == viewer.low:
            viewer.since_s = None
        elif viewer.since_s is None:
            viewer.since_s = now
        elif now - viewer.since_s >= (_UP_S if viewer.low else _DOWN_S):
            viewer.low, viewer.since_s = belongs_low, None
    main = [bitrate for viewer, bitrate in heard.items() if not viewer.low]
    low = [bitrate for viewer, bitrate in heard.items() if viewer.low]
    # Whoever is about to leave for the low one does not pull the others down until then.
    return (
        max(min(main), int(_DOWN_BELOW * best)) if main else None,
        min(low) if low else None,
    )
