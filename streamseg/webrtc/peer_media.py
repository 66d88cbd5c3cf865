"""Media: what a connection sends and receives, and what is counted of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from streamseg.webrtc.audio import OutgoingAudio
from streamseg.webrtc.errors import SignalError
from streamseg.webrtc.peer_sink import OutgoingVideo
from streamseg.webrtc.statistics import PeerStatistics
from streamseg.webrtc.tuning_decoding import VideoInlet
from streamseg.webrtc.tuning_receiving import TunedReceiver
from streamseg.webrtc.tuning_sending import TunedSender

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiortc import RTCRtpTransceiver

    from streamseg.webrtc.peer_watch import Watch
    from streamseg.webrtc.tuning import TunedConnection

__all__ = ["DIRECTIONS", "Media"]

DIRECTIONS = {
    (True, True): "sendrecv",
    (True, False): "sendonly",
    (False, True): "recvonly",
}
"""What a session description says, by whether one sends and whether one receives."""


class Media:
    """The video and the sound of one connection.

    Attributes:
        connection: The connection, once there is one.
    """

    def __init__(self) -> None:
        self.connection: TunedConnection | None = None
        self._video: RTCRtpTransceiver | None = None
        self._sound: RTCRtpTransceiver | None = None

    def agree(self, *, sends: bool, receives: bool) -> None:
        """Say what goes which way.

        Raises:
            SignalError: If there is not one video and at most one sound.
        """
        assert self.connection is not None
        transceivers = self.connection.getTransceivers()
        videos = [each for each in transceivers if each.kind == "video"]
        sounds = [each for each in transceivers if each.kind == "audio"]
        if len(videos) != 1 or len(sounds) > 1:
            raise SignalError("one video and at most one audio section are taken", status=422)
        self._video, self._sound = videos[0], sounds[0] if sounds else None
        for transceiver in (*videos, *sounds):
            transceiver.direction = DIRECTIONS[(sends, receives)]

    def send(
        self, on_failure: Callable[[Exception], None]
    ) -> tuple[OutgoingVideo, OutgoingAudio | None]:
        """Return the tracks that are sent.

        Args:
            on_failure: Called when pictures cannot be encoded for good.
        """
        assert self._video is not None
        sender = self._video.sender
        assert isinstance(sender, TunedSender)
        video, audio = OutgoingVideo(), None
        sender.on_start, sender.on_failure = video.start, on_failure
        sender.replaceTrack(video)
        if self._sound is not None:
            audio = OutgoingAudio()
            self._sound.sender.replaceTrack(audio)
        return video, audio

    @property
    def sound_comes(self) -> bool:
        """Whether the other side may send sound."""
        sound = self._sound
        return sound is not None and sound._offerDirection not in ("sendonly", "inactive")

    def check_answer(self, *, sends: bool, receives: bool) -> None:
        """Look whether the other side agreed.

        Raises:
            SignalError: If the video goes another way than was offered.
        """
        assert self._video is not None
        wanted = DIRECTIONS[(sends, receives)]
        if (self._video.currentDirection or "inactive") != wanted:
            raise SignalError(f"the answer's video is not {wanted}", status=406)

    def receivers(self) -> list[TunedReceiver]:
        """Return what receives, none before there is a connection."""
        if self.connection is None:
            return []
        return [r for r in self.connection.getReceivers() if isinstance(r, TunedReceiver)]

    def inlets(self) -> list[VideoInlet]:
        """Return what decodes video."""
        inlets = [receiver.inlet for receiver in self.receivers()]
        return [inlet for inlet in inlets if isinstance(inlet, VideoInlet)]

    def heard_s(self) -> float | None:
        """Return when the last packet of media came, ``time.monotonic``; None before the first."""
        heard = [r.packets.heard_s for r in self.receivers() if r.packets.heard_s is not None]
        return max(heard, default=None)

    def decoded(self) -> int:
        """Return how many pictures were decoded."""
        return sum(inlet.decoded for inlet in self.inlets())

    def dropped_before_decoding(self) -> dict[str, int]:
        """Return how many pictures were not, by cause."""
        inlets = self.inlets()
        return dict(inlets[0].dropped) if inlets else {}

    def statistics(self, watch: Watch | None, size: tuple[int, int] | None) -> PeerStatistics:
        """Return what the connection is doing.

        Args:
            watch: What looks after it, None before it begins.
            size: Of the newest picture that came; None before the first.
        """
        sender = None if self._video is None else self._video.sender
        encoder = sender.video if isinstance(sender, TunedSender) else None
        codecs: list[Any] = [] if self._video is None else self._video._codecs
        return PeerStatistics(
            rtt_ms=None if watch is None else watch.rtt_ms,
            bitrate_in=0 if watch is None else watch.bitrate_in,
            bitrate_out=0 if watch is None else watch.bitrate_out,
            packets_lost=0 if watch is None else watch.lost,
            packets_recovered=sum(receiver.packets.recovered for receiver in self.receivers()),
            frames_decoded=self.decoded(),
            frames_encoded=0 if encoder is None else encoder.frames,
            encode_ms=None if encoder is None else encoder.encode_ms,
            size=size or (None if encoder is None else encoder.size),
            codec=codecs[0].name.upper() if codecs else None,
        )
