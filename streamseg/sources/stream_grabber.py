"""StreamGrabber: one connection to a stream; blocking."""

from __future__ import annotations

import contextlib
import errno
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import av.error
from av.stream import Discard, Disposition

from streamseg.errors import SourceOpenError, SourceReadError
from streamseg.ffmpeg_log import quiet_ffmpeg
from streamseg.frames import Colour, StreamInfo
from streamseg.redact import redact, redacted_url
from streamseg.sources.byte_reader import ByteReader
from streamseg.sources.description import rate_of, time_base_of
from streamseg.sources.live import Grabber
from streamseg.sources.pacing import Pacer
from streamseg.sources.relay import Relay
from streamseg.sources.stream_errors import clean, explain
from streamseg.sources.stream_options import SCHEMES, options_for

if TYPE_CHECKING:
    from av.container import InputContainer

__all__ = ["Progress", "StreamGrabber"]

# Formats without time stamps; the demuxer makes them up from a rate of 25 a second.
_WITHOUT_TIME = frozenset(
    {"mpjpeg", "mjpeg", "h264", "hevc", "vvc", "m4v", "mpegvideo", "obu", "image2pipe", "jpeg_pipe"}
)
_IN_PIECES = frozenset({"hls", "dash"})
# Whoever sends a file by RTMP states the file's length, and begins at 0 each time that he comes.
_STATES_LENGTH_OF_OTHERS = frozenset({"rtmp", "rtmps"})
# A stream that ended so close to its stated length was played to its end.
_END_S = 1.0
# Reads in a row that may fail because of damaged data before the connection counts as broken.
_MAX_DAMAGED = 50
# Packets before the first key frame, which no picture can be made of. There are streams without
# any (intra refresh): after so many the decoder gets them as they are.
_MAX_WITHOUT_KEY = 300


@dataclass(slots=True)
class Progress:
    """What connections to one stream pass on to the next.

    Attributes:
        live: Whether the first connection's end was not known beforehand; None before it.
        reached: The last picture's time on the stream's clock, where that begins anew each time.
    """

    live: bool | None = None
    reached: Fraction | None = None


class StreamGrabber(Grabber):
    """Opens a URL, demuxes and decodes.

    Args:
        url: With credentials.
        options: The user's options for FFmpeg.
        open_timeout_s: How long opening may take, in seconds.
        read_timeout_s: How long there may be no data, in seconds.
        progress: Of the source's connections before this one; written to.
    """

    def __init__(
        self,
        url: str,
        *,
        options: Mapping[str, str],
        open_timeout_s: float,
        read_timeout_s: float,
        progress: Progress,
    ) -> None:
        self.name = redacted_url(url)
        self._url = url
        self._scheme = url.partition(":")[0].lower() if ":" in url else ""
        self._options = options
        self._open_timeout_s = open_timeout_s
        self._read_timeout_s = read_timeout_s
        self._progress = progress
        self._container: InputContainer | None = None
        self._video: Any = None
        self._sides: list[Any] = []
        self._relay: Relay | None = None
        self._reader: ByteReader | None = None
        self._pacer = Pacer()
        self._paced = False
        self._length_s = 0.0
        self._finite = False
        self._reached = Fraction(0)
        self._packets: deque[Any] = deque()  # bounded by `take_packets` after every picture
        self._pictures: deque[av.VideoFrame] = deque()
        self._source: Iterator[Any] = iter(())
        self._damaged = 0
        self._lost = 0
        self._skip_to: Fraction | None = None
        self._has_time = True
        self._without_key: int | None = 0
        self._ended = False

    # ---- opening ----

    def open(self) -> StreamInfo:
        """Connect and look for the video.

        Raises:
            SourceOpenError: If it cannot be had, or has no video.
        """
        if self._scheme not in SCHEMES:
            raise SourceOpenError(
                f"{self.name}: streams with {self._scheme or 'no scheme'} are not supported; there "
                f"are {', '.join(SCHEMES)}; give a file by its path"
            )
        quiet_ffmpeg()
        failure = None
        try:
            container = self._container = self._open()
        except (av.FFmpegError, OSError, ValueError) as error:
            failure = error
        # Out of the handler, so that the foreign error, which has the URL in it, is not kept.
        if failure is not None:
            raise self._refused(failure) from clean(failure)
        self._choose(container)
        return self._describe(container)

    def _open(self) -> InputContainer:
        options = options_for(self._scheme, self._options, open_timeout_s=self._open_timeout_s)
        if self._scheme == "pipe":
            self._reader = ByteReader(self._descriptor(), timeout_s=self._open_timeout_s)
        elif self._scheme == "srt":
            self._relay = Relay(self._url, name=self.name, timeout_s=self._open_timeout_s)
            self._reader = self._relay.reader
        what: Any = self._url if self._reader is None else self._reader
        container: InputContainer = av.open(
            what,
            "r",
            options=options,
            timeout=(self._open_timeout_s, self._read_timeout_s),
            metadata_errors="replace",
        )
        if self._reader is not None:
            self._reader.timeout_s = self._read_timeout_s
        return container

    def _descriptor(self) -> int:
        number = self._url[len("pipe:") :]
        if not number:
            return sys.stdin.fileno()
        if not number.isdecimal():
            raise SourceOpenError(
                f"{self.name}: expected pipe: for the standard input, or pipe:3 for descriptor 3"
            )
        return int(number)

    def _refused(self, error: Exception) -> SourceOpenError:
        said = redact(self._reader.said) if self._relay is not None and self._reader else ""
        if said:
            return SourceOpenError(f"{self.name}: ffmpeg could not connect: {said}")
        why = explain(error, self._url, timeout_s=self._open_timeout_s)
        return SourceOpenError(f"{self.name}: {why}")

    def _choose(self, container: InputContainer) -> None:
        """Pick the best video and its sound; nothing else is fetched or read."""
        playable = [
            stream
            for stream in container.streams.video
            if stream.codec_context is not None
            and not stream.disposition & Disposition.attached_pic
        ]
        if not playable:
            kinds = sorted({stream.type for stream in container.streams})
            raise SourceOpenError(
                f"{self.name} has no video that can be decoded, only "
                f"{' and '.join(kinds) or 'nothing'}; give a stream with video"
            )
        best = container.streams.best("video")
        self._video = next((stream for stream in playable if stream is best), playable[0])
        # An HLS playlist has the same sound once for each quality.
        sound = container.streams.best("audio", related=self._video)
        several = container.format.name in _IN_PIECES
        for stream in container.streams:
            if stream is self._video:
                continue
            if stream.type == "audio" and (stream is sound or not several):
                self._sides.append(stream)
            else:
                stream.discard = Discard.all
        context = self._video.codec_context
        context.thread_type = "SLICE"  # frame threads hold back a picture each
        context.thread_count = 0
        self._has_time = container.format.name not in _WITHOUT_TIME
        self._begin(container)

    def _begin(self, container: InputContainer) -> None:
        progress, pieces = self._progress, container.format.name in _IN_PIECES
        self._length_s = max(0, container.duration or 0) / av.time_base
        self._finite = self._length_s > 0 and self._scheme not in _STATES_LENGTH_OF_OTHERS
        self._paced = pieces or self._scheme == "pipe"
        self._paced |= self._finite and self._scheme in ("http", "https")
        self._paced &= self._has_time
        if progress.live is None:
            progress.live = not self._finite
        elif pieces and progress.live and self._finite:
            self._ended = True  # the playlist was finished while we were away from it
        elif self._finite and progress.reached is not None:
            with contextlib.suppress(av.FFmpegError):
                container.seek(max(0, int(progress.reached * av.time_base)))
                self._skip_to = progress.reached
        self._source = container.demux(self._video, *self._sides)

    def _describe(self, container: InputContainer) -> StreamInfo:
        video, context = self._video, self._video.codec_context
        ratio = video.sample_aspect_ratio or context.sample_aspect_ratio or Fraction(1)
        return StreamInfo(
            name=self.name,
            width=context.width,
            height=context.height,
            pixel_format=context.pix_fmt or "yuv420p",
            time_base=time_base_of(video),
            average_rate=rate_of(video) if self._has_time else None,
            live=True,
            duration_s=self._length_s if self._finite else None,
            sample_aspect_ratio=ratio if Fraction(1, 100) < ratio < 100 else Fraction(1),
            colour=Colour.of(context),
            side_streams=tuple(self._sides),
            metadata=dict(container.metadata),
            video_metadata=dict(video.metadata),
        )

    # ---- reading ----

    def grab(self) -> av.VideoFrame | None:
        """Return the next picture; None at the end of a stream that has one.

        Raises:
            SourceReadError: If the connection broke.
        """
        while True:
            while not self._pictures:
                if self._ended:
                    return None
                self._read()
            video = self._pictures.popleft()
            if not self._has_time:
                video.pts = None
            if video.pts is None or video.time_base is None:
                return video
            moment = video.pts * video.time_base
            if self._skip_to is not None and moment <= self._skip_to:
                continue
            self._reached = moment
            if self._finite:
                self._progress.reached = moment
            if self._paced and not self._pacer.wait(moment):
                raise SourceReadError(f"{self.name}: reading was ended")
            return video

    def _read(self) -> None:
        """Read one packet, and decode it if it is video."""
        failure = None
        try:
            packet = next(self._source, None)
        except (av.FFmpegError, OSError) as error:
            failure = error
        if failure is not None:
            self._bear(failure)
            return
        if packet is None:
            self._end()
        elif packet.stream_index != self._video.index:
            self._packets.append(packet)
        elif packet.size:
            self._damaged = 0
            if self._is_usable(packet):
                self._decode(packet)

    def _is_usable(self, packet: Any) -> bool:
        if self._without_key is None:
            return True
        self._without_key += 1
        if packet.is_keyframe or self._without_key > _MAX_WITHOUT_KEY:
            self._without_key = None
        return self._without_key is None

    def _decode(self, packet: Any) -> None:
        try:
            self._pictures += self._video.codec_context.decode(packet)
        except av.FFmpegError:
            self._lost += 1

    def _bear(self, error: Exception) -> None:
        """Go on after damaged data; anything else means that the connection broke."""
        assert self._container is not None
        self._damaged += 1
        if isinstance(error, av.error.InvalidDataError) and self._damaged < _MAX_DAMAGED:
            self._source = self._container.demux(self._video, *self._sides)
            return
        if isinstance(error, av.error.ExitError | TimeoutError):
            why = f"nothing came for {self._read_timeout_s:g} s"
        elif getattr(error, "errno", None) == errno.EIO:
            why = "the connection ended"
        else:
            why = redact(getattr(error, "strerror", None) or str(error) or type(error).__name__)
        raise SourceReadError(f"{self.name}: {why}") from clean(error)

    def _end(self) -> None:
        whole = 0 < self._length_s < self._reached + _END_S
        if not (self._finite or whole or self._scheme == "pipe"):
            said = redact(self._reader.said) if self._reader is not None else ""
            raise SourceReadError(
                f"{self.name}: the sender closed the connection" + (f" ({said})" if said else "")
            )
        self._decode(None)
        self._ended = True

    def take_packets(self) -> list[Any]:
        """Return the packets of sound read so far."""
        packets = list(self._packets)
        self._packets.clear()
        return packets

    def take_lost(self) -> int:
        """Return how many pictures could not be decoded."""
        lost, self._lost = self._lost, 0
        return lost

    def close(self) -> None:
        """Disconnect."""
        self._source = iter(())
        self._pictures.clear()
        self._packets.clear()
        self._video = None
        self._sides.clear()
        container, self._container = self._container, None
        if container is not None:
            with contextlib.suppress(av.FFmpegError, OSError):
                container.close()
        if self._relay is not None:
            self._relay.close()
        elif self._reader is not None:
            self._reader.close()

    def interrupt(self) -> None:
        """End a wait for a pipe or for a picture's time; FFmpeg's own waits end by their timeout."""
        self._pacer.stop()
        if self._reader is not None:
            self._reader.interrupt()
