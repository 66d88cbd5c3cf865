"""SharedEncoding: each picture of a room is encoded once a codec, not once a viewer.

    SharedEncoding (a room) -> Layer (an encoder, one or two a codec) -> Subscription (a viewer)

What is sent over a connection stays its own: packets, time stamps, encryption, repeated packets.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from streamseg.references import References
from streamseg.webrtc.encoding_layer import Layer, Subscription
from streamseg.webrtc.tuning_encoding import make_encoder
from streamseg.webrtc.viewer_bitrates import share_out

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import av

    from streamseg.webrtc.tuning_encoding import Rates

__all__ = ["EncodingCounts", "SharedEncoding"]

_LOOK_S = 0.5  # how often it is looked whether viewers are to change their layer


@dataclass(frozen=True, slots=True)
class EncodingCounts:
    """What the encoders of a room, or of several, did so far.

    Attributes:
        encoders: How many there are now.
        encoded: Pictures that they encoded, each counted once an encoder.
        keyframes: How many of those were keyframes.
        dropped: Pictures that were not encoded, or did not reach a viewer, by cause:
            ``superseded``, ``failed`` and ``encoder over bitrate`` at an encoder, ``viewer busy``
            and ``no keyframe`` at a viewer.
    """

    encoders: int = 0
    encoded: int = 0
    keyframes: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: EncodingCounts) -> EncodingCounts:
        return EncodingCounts(
            self.encoders + other.encoders,
            self.encoded + other.encoded,
            self.keyframes + other.keyframes,
            dict(Counter(self.dropped) + Counter(other.dropped)),
        )


class SharedEncoding:
    """The encoders of one room. All methods belong to the event loop.

    An encoder exists as long as somebody watches with its codec.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._layers: dict[tuple[str, bool], Layer] = {}  # by codec, and whether it is the low one
        self._viewers: dict[Subscription, None] = {}  # bounded by the cap on a room's viewers
        self._ending: set[asyncio.Task[None]] = set()  # at most one a layer, for one picture
        self._references = References()
        self._ended = EncodingCounts()
        self._looked_s = clock()
        self._closed = False

    def put(self, video: av.VideoFrame) -> None:
        """Encode a picture next, by reference; never waits."""
        if self._closed:
            return
        if self._clock() - self._looked_s >= _LOOK_S:
            self._plan()
        for layer in self._layers.values():
            layer.put(self._references.of(video))

    def join(self, codec: str, rates: Rates, wake: Callable[[], None]) -> Subscription:
        """Return what a viewer with this codec gets from now on.

        Args:
            codec: ``H264`` or ``VP8``.
            rates: Limits of the bitrate; those of its first viewer are the encoder's.
            wake: Called when there is something to take.
        """
        viewer = Subscription(codec, rates, wake, clock=self._clock)
        if not self._closed:
            self._viewers[viewer] = None
            self._layer(viewer).join(viewer)
        return viewer

    def leave(self, viewer: Subscription) -> None:
        """Let a viewer go; may be called twice."""
        if self._viewers.pop(viewer, self) is self:
            return
        viewer.close()
        for layer in (viewer.layer, viewer.next):
            if layer is not None:
                layer.leave(viewer)
        viewer.layer = viewer.next = None
        self._ended += EncodingCounts(dropped=viewer.dropped)
        if not self._closed:
            self._plan()

    def hear_bitrate(self, viewer: Subscription, bitrate: int) -> None:
        """Note what a viewer can take, bits per second."""
        viewer.wanted.bitrate = bitrate
        if not self._closed:
            self._plan()

    def ask_keyframe(self, viewer: Subscription) -> None:
        """Have a keyframe made for a viewer: at most one in half a second for all.

        A viewer who goes on asking has six in a row, and then one in two seconds.
        """
        if viewer.layer is not None and viewer.may_ask():
            viewer.layer.ask_keyframe()

    def close(self) -> None:
        """End all encoders; viewers get nothing more. Never waits."""
        self._closed = True
        for key in list(self._layers):
            self._end(key)

    async def aclose(self) -> None:
        """End all encoders and wait for the pictures that they are at."""
        self.close()
        if self._ending:
            await asyncio.wait(self._ending)

    def counts(self) -> EncodingCounts:
        """Return the counters of this moment."""
        total = self._ended
        for layer in self._layers.values():
            total += _counts(layer, encoders=1)
        for viewer in self._viewers:
            total += EncodingCounts(dropped=viewer.dropped)
        return total

    def load(self) -> tuple[int, float | None]:
        """Return how many pictures the encoders were too slow for, and what the slowest takes."""
        times = [layer.encoder.encode_ms for layer in self._layers.values()]
        return (
            self.counts().dropped.get("superseded", 0),
            max((ms for ms in times if ms is not None), default=None),
        )

    def _plan(self) -> None:
        """Put every viewer where it belongs, set the bitrates, end what nobody needs."""
        self._looked_s = now = self._clock()
        for codec in {viewer.codec for viewer in self._viewers}:
            viewers = [viewer for viewer in self._viewers if viewer.codec == codec]
            main = self._layers.get((codec, False))
            sent = None if main is None else main.bitrate
            bitrates = share_out([viewer.wanted for viewer in viewers], now, sent=sent)
            for viewer in viewers:
                layer = self._layer(viewer)
                if (viewer.next or viewer.layer) is layer:
                    continue
                if viewer.layer is layer:
                    assert viewer.next is not None
                    viewer.next.leave(viewer)  # it has changed its mind before it came
                    viewer.next = None
                else:
                    layer.await_change(viewer)
            for low, bitrate in zip((False, True), bitrates, strict=True):
                found = self._layers.get((codec, low))
                if found is not None and bitrate is not None:
                    found.encoder.target_bitrate = bitrate
        for key in [key for key, layer in self._layers.items() if layer.empty]:
            self._end(key)

    def _layer(self, viewer: Subscription) -> Layer:
        key = (viewer.codec, viewer.wanted.low)
        layer = self._layers.get(key)
        if layer is None:
            layer = Layer(make_encoder(viewer.codec, viewer.rates), clock=self._clock)
            self._layers[key] = layer
        return layer

    def _end(self, key: tuple[str, bool]) -> None:
        layer = self._layers.pop(key)
        layer.close()
        self._ended += _counts(layer, encoders=0)
        if layer.task is not None and not layer.task.done():
            self._ending.add(layer.task)
            layer.task.add_done_callback(self._ending.discard)


def _counts(layer: Layer, *, encoders: int) -> EncodingCounts:
    lost = {
        "superseded": layer.superseded,
        "failed": layer.failed,
        "encoder over bitrate": layer.left_out,
    }
    return EncodingCounts(
        encoders,
        layer.encoded,
        layer.encoder.keyframes,
        {cause: count for cause, count in lost.items() if count},
    )
