"""PeerSink: pictures that go out over a connection."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import anyio
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from streamseg.abc import Sink, SinkStatistics
from streamseg.references import References
from streamseg.webrtc.audio import AudioRelay, OutgoingAudio

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import av

    from streamseg.frames import Frame, StreamInfo
    from streamseg.segmentation import Segmentation
    from streamseg.webrtc.encoding_layer import Subscription
    from streamseg.webrtc.shared_encoding import SharedEncoding
    from streamseg.webrtc.tuning_encoding import EncodedPicture, H264Video, Vp8Video

__all__ = ["OutgoingVideo", "PeerSink"]


class OutgoingVideo(MediaStreamTrack):
    """A track that sends the newest picture it was given, at the pace of its encoder.

    After ``share`` it sends what is encoded for all viewers of a room instead, beginning when the
    connection stands.
    """

    kind = "video"

    def __init__(self) -> None:
        super().__init__()
        self._taken = 0
        self._unsent = 0
        self._picture: av.VideoFrame | None = None  # one place: what is not taken yet gives way
        self._ready = asyncio.Event()
        self._encoder: H264Video | Vp8Video | None = None
        self._encoding: SharedEncoding | None = None
        self._subscription: Subscription | None = None

    def start(self, encoder: H264Video | Vp8Video) -> None:
        """Note that the connection stands, and with which codec; ``recv`` follows."""
        self._encoder = encoder

    def share(self, encoding: SharedEncoding) -> None:
        """Send what is encoded for all."""
        self._encoding = encoding
        self._let_go()
        self._ready.set()

    @property
    def shares(self) -> bool:
        """Whether its pictures are encoded for all."""
        return self._encoding is not None

    @property
    def watching(self) -> bool:
        """Whether it shares, and the connection stands."""
        return self._subscription is not None

    @property
    def written(self) -> int:
        """Pictures that went out."""
        encoder = self._encoder
        return self._taken - (0 if encoder is None else encoder.left_out + encoder.failed)

    @property
    def dropped(self) -> Mapping[str, int]:
        """Pictures that waited here and did not go out, by cause."""
        dropped = Counter() if self._subscription is None else self._subscription.dropped.copy()
        dropped["not connected"] += self._unsent
        if self._encoder is not None:
            dropped["encoder over bitrate"] += self._encoder.left_out
            dropped["failed"] += self._encoder.failed
        return +dropped

    def put(self, picture: av.VideoFrame) -> bool:
        """Send a picture; return whether one that waited gave way for it."""
        superseded = self._picture is not None
        self._picture = picture
        self._ready.set()
        return superseded

    async def recv(self) -> Any:
        """Return the next picture for aiortc, an ``av.VideoFrame`` or an `EncodedPicture`."""
        while (picture := self._take()) is None:
            if self.readyState != "live":
                raise MediaStreamError
            self._ready.clear()
            await self._ready.wait()
        self._taken += 1
        return picture

    def _take(self) -> av.VideoFrame | EncodedPicture | None:
        encoding = self._encoding
        if encoding is None or self.readyState != "live":
            picture, self._picture = self._picture, None
            return picture
        if self._subscription is None:
            self._subscription = self._join(encoding)
        return self._subscription.take()

    def _join(self, encoding: SharedEncoding) -> Subscription:
        encoder = self._encoder
        assert encoder is not None  # aiortc asks for pictures after that
        subscription = encoding.join(encoder.codec, encoder.rates, self._ready.set)
        encoder.on_bitrate = lambda bitrate: encoding.hear_bitrate(subscription, bitrate)
        encoder.on_keyframe = lambda: encoding.ask_keyframe(subscription)
        return subscription

    @property
    def encode_ms(self) -> float | None:
        """What its own encoder took for the last pictures, milliseconds each."""
        return None if self._encoder is None else self._encoder.encode_ms

    def stop(self) -> None:
        """End the track; who waits in ``recv`` is woken."""
        super().stop()
        self._let_go()
        if self._encoding is not None and self._subscription is not None:
            self._encoding.leave(self._subscription)
        if self._encoder is not None:
            self._encoder.on_bitrate = self._encoder.on_keyframe = None
        self._ready.set()

    def _let_go(self) -> None:
        self._unsent += self._picture is not None
        self._picture = None


class PeerSink(Sink):
    """What a connection sends. It belongs to its `Peer`, which makes it and ends it.

    ``send`` never waits: the newest picture is encoded when the encoder is free, and one that waited
    until then gives way and is counted as ``superseded``. Pictures sent before the connection stands
    or after it ended are counted as ``not connected``; that it ended is said by the peer. After
    ``share`` the pictures that are sent are counted only: whoever shares them has them encoded.
    """

    live_capacity = 1

    def __init__(self, name: str) -> None:
        self.name = name
        self.video: OutgoingVideo | None = None
        self.audio: OutgoingAudio | None = None
        self._playing: AudioRelay | None = None
        self._references = References()
        self._accepted = 0
        self._dropped: Counter[str] = Counter()
        self._open = False
        self._closed = False
        self._opus: int | None = None  # index of the side stream whose packets go out
        self._notices: list[str] = []

    async def open(self, info: StreamInfo) -> None:
        """Prepare for this stream; the connection itself is the peer's business.

        Sound among the side streams goes out if it is Opus already.

        Raises:
            anyio.ClosedResourceError: If it was closed.
        """
        if self._closed:
            raise anyio.ClosedResourceError
        self._open = True
        sounds = [stream for stream in info.side_streams if stream.type == "audio"]
        for stream in sounds:
            if stream.codec_context.name in ("opus", "libopus"):
                self._opus = stream.index
                break
        if sounds and self._opus is None:
            self._notices.append(f"{self.name}: the sound is not Opus and is left out")

    async def send(self, frame: Frame, segmentation: Segmentation | None = None) -> None:
        """Take a picture, by reference; the newest one goes out.

        Raises:
            anyio.ClosedResourceError: If the sink is closed or was never opened.
        """
        if self._closed or not self._open:
            raise anyio.ClosedResourceError
        self._accepted += 1
        track = self.video
        if track is None or track.readyState != "live" or (track.shares and not track.watching):
            self._dropped["not connected"] += 1
        elif track.shares:
            return
        elif track.put(self._references.of(frame.video)):
            self._dropped["superseded"] += 1
        await asyncio.sleep(0)

    async def send_packets(self, packets: Sequence[Any]) -> None:
        """Send sound that is Opus; the rest of the side streams is left out."""
        if self.audio is None or self._opus is None:
            return
        for packet in packets:
            if packet.stream_index == self._opus and packet.pts is not None:
                seconds = packet.pts * packet.time_base
                self.audio.put(bytes(packet), int(seconds * 48_000))

    def share(self, encoding: SharedEncoding) -> None:
        """Send what is encoded for all viewers of a room, from now on."""
        if self.video is not None and not self._closed:
            self.video.share(encoding)

    def play(self, audio: AudioRelay | None) -> None:
        """Send the sound of a connection, this one's or another's, as it is; None for silence."""
        if self._playing is not None:
            self._playing.leave(self._hear)
        self._playing = audio
        if audio is not None and not self._closed:
            audio.listen(self._hear)

    async def finish(self) -> None:
        """Nothing is left to write: what was not sent by now would come too late.

        Raises:
            anyio.ClosedResourceError: If the sink is closed or was never opened.
        """
        if self._closed or not self._open:
            raise anyio.ClosedResourceError
        self._open = False

    async def commit(self) -> None:
        """Do nothing: what was sent was seen."""

    async def aclose(self) -> None:
        """Send nothing more; the connection stays until its peer is closed."""
        self.end()

    def end(self) -> None:
        """Send nothing more; never waits."""
        self._closed = True
        self.play(None)
        for track in (self.video, self.audio):
            if track is not None:
                track.stop()

    @property
    def notices(self) -> Sequence[str]:
        """What the user should know, a line each."""
        return tuple(self._notices)

    def statistics(self) -> SinkStatistics:
        """Return the counters of this moment."""
        return SinkStatistics(
            accepted=self._accepted,
            written=0 if self.video is None else self.video.written,
            dropped=dict(self._dropped + Counter({} if self.video is None else self.video.dropped)),
        )

    def encoding(self) -> tuple[int, float | None]:
        """Return how many pictures its own encoder was too slow for, and what the last ones took."""
        return self._dropped["superseded"], None if self.video is None else self.video.encode_ms

    def _hear(self, data: bytes, pts: int) -> None:
        if self.audio is not None:
            self.audio.put(data, pts)

    def __repr__(self) -> str:
        return f"<PeerSink {self.name}>"
