"""Decoder: a video stream's packets in, pictures out; damage is counted, not raised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import av

if TYPE_CHECKING:
    from av.video.stream import VideoStream

__all__ = ["Decoder"]

# Packets kept for a second attempt at the end of a damaged file: two groups of pictures, at most so
# many bytes.
_MAX_TAIL_BYTES = 32 * 2**20


class Decoder:
    """Decodes one stream from wherever its demuxer stands, to its end.

    Args:
        video: The stream; its codec context is set up already.
    """

    def __init__(self, video: VideoStream) -> None:
        self._context: Any = video.codec_context
        self._tail = _Tail()
        self._last_pts: int | None = None
        self._errors = 0
        self.packets = 0
        self.pictures = 0

    @property
    def damaged(self) -> int:
        """How many packets no picture came of, as far as the decoder said so."""
        return self._errors

    @property
    def unseen(self) -> int:
        """How many pictures did not come, to be asked at the end of the stream.

        More than ``damaged`` where pictures refer to damaged ones: the decoder leaves them out
        without a word. 0 without damage, because some codecs have packets without a picture.
        """
        return max(self._errors, self.packets - self.pictures) if self._errors else 0

    def decode(self, packet: Any) -> list[av.VideoFrame]:
        """Return the pictures that are ready after this packet, in presentation order.

        Args:
            packet: The next one of the stream, or None at its end, once.
        """
        pictures: list[av.VideoFrame] = []
        try:
            pictures = self._context.decode(packet)
        except av.FFmpegError:
            self._errors += 1
        if pictures and pictures[-1].pts is not None:
            self._last_pts = pictures[-1].pts
        if packet is not None:
            self.packets += 1
            self._tail.add(packet)
        elif self.packets > self.pictures + len(pictures) + self._errors:
            pictures += self._decode_tail()
        self.pictures += len(pictures)
        return pictures

    def close(self) -> None:
        """Let go of the codec and of the packets kept; the counters stay."""
        self._context = None
        self._tail = _Tail()

    def _decode_tail(self) -> list[av.VideoFrame]:
        """Decode the end of the stream once more and return the pictures that were lost.

        A decoder with several threads reports damage late; when that is after the last packet,
        PyAV (18.1) returns or raises at once and cannot be asked for the good pictures behind it.
        A decoder without frame threads reports damage with the packet itself.
        """
        if self._last_pts is None:
            return []
        context: Any = av.CodecContext.create(self._context.codec.name, "r")
        context.extradata = self._context.extradata
        context.thread_type = "SLICE"
        context.options = self._context.options
        pictures: list[av.VideoFrame] = []
        errors = 0
        for packet in [*self._tail.packets, None]:
            try:
                pictures += context.decode(packet)
            except av.FFmpegError:
                errors += 1
        self._errors = max(self._errors, errors)
        return [video for video in pictures if video.pts is not None and video.pts > self._last_pts]


class _Tail:
    """The packets of the last two groups of pictures, as long as they are not too large."""

    def __init__(self) -> None:
        self._groups: list[list[Any]] = []
        self._bytes = 0

    @property
    def packets(self) -> list[Any]:
        return [packet for group in self._groups for packet in group]

    def add(self, packet: Any) -> None:
        if packet.is_keyframe:
            self._groups = [*self._groups[-1:], []]
            self._bytes = sum(kept.size for kept in self.packets)
        elif not self._groups:
            return
        self._groups[-1].append(packet)
        self._bytes += packet.size
        if self._bytes > _MAX_TAIL_BYTES:
            self._groups = []  # nothing is kept until the next key frame
