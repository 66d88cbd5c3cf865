"""Layer: one encoder of a room, and the viewers who get what it makes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from dataclasses import replace
from typing import TYPE_CHECKING

from streamseg.webrtc.tuning_encoding import KEYFRAME_S
from streamseg.webrtc.viewer_bitrates import ViewerBitrate

if TYPE_CHECKING:
    from collections.abc import Callable

    import av

    from streamseg.webrtc.tuning_encoding import EncodedPicture, H264Video, Rates, Vp8Video

__all__ = ["Layer", "Subscription"]

_log = logging.getLogger(__name__)

# Encoded pictures that wait for one viewer's connection; a second, 300 kB at 2.5 Mbit/s. A connection
# that is not read from for longer shows nothing that anybody would want to see late.
_QUEUED = 30
# Pictures since the last keyframe that a newcomer is sent at once. While no further keyframe may be
# made they are what it begins with; later ones would take longer to decode than a keyframe is worth.
_GROUP = 20
_GROUP_S = KEYFRAME_S + 0.1
# Keyframes that one viewer may have made in a row, and then in a second. They cost everybody who
# shares the encoder, and who loses so much that it needs more of them sees nothing anyway.
_ASKS = 6.0
_ASKS_PER_S = 0.5
_RATE_S = 1.5
_SAME = 90_000  # 1/90000 s: one encoder is not so far behind another; more is a stream begun anew


class Subscription:
    """What one viewer gets: encoded pictures in their order, each whole, from a keyframe on.

    Args:
        codec: ``H264`` or ``VP8``.
        rates: Limits of the bitrate.
        wake: Called when there is something to ``take``.
        clock: Seconds that only grow.

    Attributes:
        wanted: What it can take.
        layer: Whose pictures it gets; None before it joined and after it left.
        next: The layer that it changes to with that one's next keyframe.
        dropped: Pictures that it did not get, by cause.
    """

    def __init__(
        self,
        codec: str,
        rates: Rates,
        wake: Callable[[], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.codec = codec
        self.rates = rates
        self.wanted = ViewerBitrate(clock())
        self.layer: Layer | None = None
        self.next: Layer | None = None
        self.dropped: Counter[str] = Counter()
        self._wake = wake
        self._clock = clock
        self._asks_left, self._asks_s = _ASKS, clock()
        self._asked_s = -1e9
        self._has_asked = False  # and had no keyframe since
        self._queue: deque[EncodedPicture] = deque()  # bounded by _QUEUED
        self._newest: EncodedPicture | None = None
        self._waiting = True  # for a keyframe
        self._behind = False  # it lost pictures and has not been read from since

    def put(self, picture: EncodedPicture) -> None:
        """Queue a picture, if it can be decoded by whoever has what was queued before."""
        if len(self._queue) >= _QUEUED:
            # All of them: what is left would be late, and the next keyframe needs none of it.
            self.dropped["viewer busy"] += len(self._queue)
            self._queue.clear()
            self._waiting = self._behind = True
        if self._waiting and not picture.keyframe:
            self.dropped["no keyframe"] += 1
            return
        self._waiting = False
        self._has_asked &= not picture.keyframe
        self._newest = picture
        self._queue.append(picture)
        self._wake()

    def change(self, keyframe: EncodedPicture) -> None:
        """Go on with another encoder's pictures, from this keyframe on."""
        newest = self._newest
        if newest is not None and 0 <= newest.pts - keyframe.pts < _SAME:
            # The viewer has seen this picture already: it comes again, a moment later.
            keyframe = replace(keyframe, pts=newest.pts + 1)
        self.put(keyframe)

    def take(self) -> EncodedPicture | None:
        """Return the next picture, None if there is none yet."""
        if self._behind and not self._queue and self.layer is not None:
            # Only now: keyframes for somebody who does not read would cost the others for nothing.
            self._behind = False
            self.layer.ask_keyframe()
        return self._queue.popleft() if self._queue else None

    def may_ask(self) -> bool:
        """Note that the viewer asks for a keyframe; return whether it has not had too many."""
        now = self._clock()
        if now - self._asked_s < KEYFRAME_S:
            return self._has_asked  # the same one again; if it is under way, there is no need
        self._asks_left = min(_ASKS, self._asks_left + (now - self._asks_s) * _ASKS_PER_S)
        self._asks_s = now
        if self._asks_left < 1:
            return False
        self._asks_left -= 1
        self._asked_s, self._has_asked = now, True
        return True

    def close(self) -> None:
        """Let go what waits."""
        self._queue.clear()


class Layer:
    """Encodes the newest picture, in a thread, and hands it to all its viewers.

    All methods belong to the event loop. The task begins with the first picture and ends with
    ``close``, after the picture that it is at.

    Args:
        encoder: Of its own.
        clock: Seconds that only grow.

    Attributes:
        encoded: Pictures so far.
        superseded: Pictures that a newer one took the place of while the encoder was busy.
        failed: Pictures that could not be encoded.
        left_out: Pictures that the encoder left out, to stay within its bitrate.
        bitrate: What it really makes, bits per second of the last second or two; None before.
    """

    def __init__(
        self, encoder: H264Video | Vp8Video, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.encoder = encoder
        self.encoded = 0
        self.superseded = 0
        self.failed = 0
        self.left_out = 0
        self.bitrate: float | None = None
        self._clock = clock
        self._made_s = clock()
        self._made_bits = 0
        self._viewers: dict[Subscription, None] = {}  # bounded by the cap on a room's viewers
        self._coming: dict[Subscription, None] = {}  # those who change to this; likewise
        self._picture: av.VideoFrame | None = None  # one place: what is not taken yet gives way
        self._group: list[EncodedPicture] = []  # since the keyframe; bounded by _GROUP
        self._group_s = 0.0
        self._key_wanted = False
        self._closed = False
        self._ready = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def empty(self) -> bool:
        """Whether nobody is here or about to come."""
        return not self._viewers and not self._coming

    @property
    def task(self) -> asyncio.Task[None] | None:
        """What encodes, to be waited for after ``close``."""
        return self._task

    def put(self, picture: av.VideoFrame) -> None:
        """Encode this next; it is written into, and must be the layer's own reference."""
        if self._closed or not (self._viewers or self._coming):
            return
        self.superseded += self._picture is not None
        self._picture = picture
        self._ready.set()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def join(self, viewer: Subscription) -> None:
        """Let a newcomer in: with what there is since a keyframe just made, or with the next."""
        viewer.layer = self
        self._viewers[viewer] = None
        if self._group and self._clock() - self._group_s < _GROUP_S:
            for picture in self._group:
                viewer.put(picture)
        else:
            self.ask_keyframe()

    def await_change(self, viewer: Subscription) -> None:
        """Take a viewer over from its layer, which it has until there is a keyframe here."""
        if viewer.next is not None:
            viewer.next._coming.pop(viewer, None)
        viewer.next = self
        self._coming[viewer] = None
        self.ask_keyframe()

    def leave(self, viewer: Subscription) -> None:
        """Let a viewer go; it does not matter whether it has come yet."""
        self._viewers.pop(viewer, None)
        self._coming.pop(viewer, None)

    def ask_keyframe(self) -> None:
        """Make the next picture a keyframe, as soon as one may be made again."""
        self._key_wanted = True

    def close(self) -> None:
        """Encode nothing more."""
        self._closed = True
        self._picture = None
        self._group.clear()
        self._ready.set()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._closed:
            picture, self._picture = self._picture, None
            if picture is None:
                self._ready.clear()
                await self._ready.wait()
                continue
            force, self._key_wanted = self._key_wanted, False
            try:
                encoded = await loop.run_in_executor(None, self.encoder.compress, picture, force)
            except Exception as exc:  # of FFmpeg, of any kind; the next picture may do
                if not self.failed:
                    _log.error("pictures of a room cannot be encoded: %s", type(exc).__name__)
                    _log.debug("it failed here:", exc_info=exc)
                self.failed += 1
                self.encoder.reset()
                continue
            if not self._closed:
                self._hand_out(encoded)

    def _hand_out(self, encoded: EncodedPicture) -> None:
        self._count(encoded)
        if not encoded.data:  # libvpx leaves one out rather than be late
            self.left_out += 1
            return
        self.encoded += 1
        self._remember(encoded)
        if encoded.keyframe:
            coming, self._coming = self._coming, {}
        else:
            coming = {}
        for viewer in self._viewers:
            viewer.put(encoded)
        for viewer in coming:
            if viewer.layer is not None:
                viewer.layer.leave(viewer)
            viewer.layer, viewer.next = self, None
            self._viewers[viewer] = None
            viewer.change(encoded)

    def _count(self, encoded: EncodedPicture) -> None:
        self._made_bits += 8 * len(encoded.data)
        span_s = self._clock() - self._made_s
        if span_s >= _RATE_S:
            self.bitrate = self._made_bits / span_s
            self._made_s, self._made_bits = self._clock(), 0

    def _remember(self, encoded: EncodedPicture) -> None:
        if encoded.keyframe:
            self._group, self._group_s = [encoded], self._clock()
        elif self._group:
            self._group.append(encoded)
            if len(self._group) > _GROUP or self._clock() - self._group_s >= _GROUP_S:
                self._group.clear()
