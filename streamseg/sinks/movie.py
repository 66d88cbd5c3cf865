"""MovieWriter: encodes frames and carries the side streams over, into one verified file.

Runs in the sink's thread. The encoder is chosen with the first picture, which alone says what
pixel format, size and colour there are; everything that can be refused earlier is, in ``open``.
"""

from __future__ import annotations

import math
import os
import threading
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av

from streamseg.errors import SinkWriteError
from streamseg.ffmpeg_log import quiet_ffmpeg
from streamseg.sinks.container import container_for, mp4_time_scale
from streamseg.sinks.encoder import choose_encoder
from streamseg.sinks.muxed_file import MuxedFile, Stopped
from streamseg.sinks.remux import SideStreams, clean_tags, shifted_chapters
from streamseg.sinks.target import Protected, Target
from streamseg.sinks.verify import Expected, verify
from streamseg.sinks.video_track import VideoTrack

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from av.container import OutputContainer
    from av.packet import Packet

    from streamseg.frames import Frame, StreamInfo
    from streamseg.segmentation import Segmentation

__all__ = ["MovieOptions", "MovieWriter"]

_LATE_START_S = 60  # players show a file that starts later than this as minutes of nothing
_BLOCK = 1 << 18  # bytes that the muxer collects before it calls us


@dataclass(frozen=True, slots=True)
class MovieOptions:
    """How a video file is written; what each means is said at ``FileSink``."""

    encoder: str | None = None
    crf: float | None = None
    preset: str | None = None
    encoder_options: Mapping[str, str] | None = None
    audio: bool = True
    side: bool = True


class MovieWriter:
    """Writes one video file.

    Args:
        path: The file; its extension says the container.
        options: How it is written.
        overwrite: Whether an existing file may be replaced.
        protected: Files that may not be written to, besides those that are read.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        options: MovieOptions,
        *,
        overwrite: bool = False,
        protected: Sequence[str | os.PathLike[str]] = (),
    ) -> None:
        self.written = 0
        self.notices: list[str] = []
        self._path = path
        self._target = Target(path, overwrite=overwrite)
        self._asked: dict[str, Any] = {
            "encoder": options.encoder,
            "crf": options.crf,
            "preset": options.preset,
            "options": options.encoder_options,
        }
        self._audio, self._side_wanted = options.audio, options.side
        self._protected = tuple(protected)
        self._stopped = threading.Event()
        self._early: list[Packet[Any]] = []
        self._held: Packet[Any] | None = None
        self._file: MuxedFile | None = None
        self._output: OutputContainer | None = None
        self._side: SideStreams | None = None

    def open(self, info: StreamInfo) -> None:
        """Check all that can be checked without a picture.

        Raises:
            SinkOpenError: If the target cannot be written as asked.
        """
        quiet_ffmpeg()
        self._info = info
        self._container = container_for(self._path)
        self._target.check(Protected((*info.files, *self._protected)))
        # Names, devices and what fits are known now. Whether there is alpha is not, whatever the
        # source says: effects add it and take it away.
        choose_encoder(self._container, self._target.shown, **self._asked)
        streams = [s for s in info.side_streams if self._side_wanted or s.type == "audio"]
        self._side = SideStreams(
            streams,
            self._container,
            audio=self._audio,
            chapters=bool(info.chapters),
            notices=self.notices,
            stopped=self._stopped,
        )
        self._target.create()

    def write(self, frame: Frame, segmentation: Segmentation | None = None) -> None:
        """Encode one picture.

        Raises:
            SinkError: If it cannot be encoded or written.
        """
        try:
            if self._output is None:
                self._start(frame)
            else:
                self._check_change(frame)
            for packet in self._video.encode(frame):
                self._mux(packet)
        except Exception as exc:
            raise self._target.error(exc) from exc

    def write_packets(self, packets: Sequence[Any]) -> None:
        """Write side packets; they are not changed.

        Raises:
            SinkWriteError: If they cannot be written.
        """
        if self._output is None:
            # Bounded by what a source reads before its first picture.
            self._early.extend(packets)
            return
        assert self._side is not None
        try:
            for packet in packets:
                if self._stopped.is_set():
                    raise Stopped
                self._side.mux(packet)
        except Exception as exc:
            raise self._target.error(exc) from exc

    def finish(self) -> None:
        """Flush, write the index, verify.

        Raises:
            SinkWriteError: If the result is not whole.
        """
        if self._output is None:
            raise SinkWriteError(f"cannot write {self._target.shown}: the stream has no frames")
        assert self._side is not None
        try:
            for packet in self._video.flush():
                if self._stopped.is_set():
                    raise Stopped
                self._mux(packet)
            self._mux_last()
            self._side.flush()
            self._output.close()
            self._add_closing_notices()
            assert self._target.temporary is not None
            verify(self._target.temporary, self._expected(), self._stopped)
            if self._stopped.is_set():
                raise Stopped
        except Exception as exc:
            raise self._target.error(exc) from exc

    def commit(self) -> None:
        """Put the file in its place.

        Raises:
            SinkWriteError: If that fails; the target is then as it was before.
        """
        self._target.commit()

    def abort(self) -> None:
        """Remove what is not in its place."""
        self._stopped.set()
        if self._file is not None:
            self._file.closed = True  # PyAV then writes no trailer when the container goes
        self._early.clear()
        self._held = None
        if self._side is not None:
            self._side.close()
        self._output = None
        self._target.release()

    def stop(self) -> None:
        """Make the next write of the muxer, or the next packet, fail."""
        self._stopped.set()

    def discard(self) -> None:
        """Remove the temporary file's name while another thread may still write to it."""
        self._target.discard()

    def _start(self, frame: Frame) -> None:
        info, container = self._info, self._container
        self._video = VideoTrack(
            info, container, self._target.shown, self._asked, frame, self.notices
        )
        shift_s = self._shift(frame)
        self._clock = self._video.start_clock(frame, shift_s)
        assert self._side is not None
        assert self._target.temporary is not None
        self._file = MuxedFile(self._target.fd, self._target.temporary, self._stopped)
        output = av.open(
            self._file,
            "w",
            format=container.format,
            container_options=self._container_options(),
            buffer_size=_BLOCK,
        )
        self._video.attach(output)
        self._side.attach(output, shift_s)
        output.metadata.update(clean_tags(info.metadata))
        if self._side_wanted and container.chapters and info.chapters:
            output.set_chapters(shifted_chapters(info.chapters, shift_s))
        output.start_encoding()
        self._output = output
        early, self._early = self._early, []
        self.write_packets(early)

    def _shift(self, frame: Frame) -> Fraction:
        """How far the whole timeline is moved: not at all, but for late and negative starts."""
        pts = frame.pts
        if pts is None:
            return Fraction(0)
        start = pts * frame.time_base
        if start < 0:
            # Edit lists cut what lies before 0, Matroska cannot say it.
            self.notices.append(
                f"the video starts at {float(start):.3f} s; all streams start later"
            )
            return -start
        if self._container.is_mp4:
            times = [p.pts * p.time_base for p in self._early if p.pts is not None and p.time_base]
            whole = math.floor(min([start, *times]))
            if whole > _LATE_START_S:
                # Whole seconds are whole ticks of every time base: nothing is rounded.
                self.notices.append(
                    f"the timeline starts at {float(start):.3f} s; all streams start {whole} s earlier"
                )
                return Fraction(-whole)
        return Fraction(0)

    def _container_options(self) -> dict[str, str]:
        container = self._container
        if container.is_mp4:
            assert self._side is not None
            scale = mp4_time_scale(self._clock.time_base, self._side.sample_rates)
            return {"movflags": "+faststart", "movie_timescale": scale}
        if container.format == "mpegts":
            blu_ray = str(self._path).lower().endswith(".m2ts")  # packets of 192 bytes
            return {
                "mpegts_copyts": "1",
                "avoid_negative_ts": "disabled",
                "mpegts_m2ts_mode": "1" if blu_ray else "0",
            }
        if container.format in {"matroska", "webm", "avi"}:
            # The priming of AAC lies before 0: Matroska can say so, AVI takes no notice; nothing
            # need be moved for it.
            return {"avoid_negative_ts": "disabled"}
        return {}

    def _mux(self, packet: Packet[Any]) -> None:
        assert self._output is not None
        held, self._held = self._held, packet
        if held is not None:
            self._output.mux_one(held)
        self.written += 1

    def _mux_last(self) -> None:
        """Write the packet that was held back, with the duration that ends the track."""
        packet, self._held = self._held, None
        assert packet is not None
        assert self._output is not None
        if self._container.is_mp4:
            self._video.end_with(packet)
        self._output.mux_one(packet)

    def _check_change(self, frame: Frame) -> None:
        line = self._video.change(frame)
        if line is not None and line not in self.notices:
            self.notices.append(line)

    def _add_closing_notices(self) -> None:
        assert self._side is not None
        if self._clock.moved:
            self.notices.append(
                f"{self._clock.moved} frames had the time of the frame before and are one step later"
            )
        if self._clock.rounded:
            self.notices.append(
                f"{self._container.format} holds a constant rate only: {self._clock.rounded} "
                "frames are moved to the nearest step of it"
            )
        for line in self._side.damage():
            self.notices.append(line)
        if self._side.repaired:
            self.notices.append(
                f"{self._side.repaired} audio or subtitle packets were out of order and are one "
                "step later"
            )

    def _expected(self) -> Expected:
        assert self._side is not None
        assert self._clock.last_pts is not None
        assert self._clock.first_pts is not None
        span = (self._clock.last_pts - self._clock.first_pts) * self._clock.time_base
        return Expected(
            shown=self._target.shown,
            frames=self.written,
            span_s=span,
            side=self._side.indices,
            exact=self._container.exact_packets,
        )
