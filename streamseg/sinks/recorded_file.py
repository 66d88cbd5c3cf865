"""RecordedFile: one file of a recording, playable at every moment from its first second on.

MP4 and MOV are written as fragments of half a second; completing the file puts the usual index at
its end and turns it into an ordinary, seekable one (FFmpeg's ``hybrid_fragmented``). Matroska and
MPEG-TS are playable while they grow by nature. Every packet that the muxer lets go is with the
operating system at once, so that it outlives the process.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av

from streamseg.errors import SinkWriteError
from streamseg.sinks.container import mp4_time_scale
from streamseg.sinks.live_muxing import KEY_INTERVAL_S, frame_time, tune_for_recording
from streamseg.sinks.muxed_file import MuxedFile
from streamseg.sinks.remux import clean_tags
from streamseg.sinks.target import Protected, Target, move, reason, sync_folder
from streamseg.sinks.verify_end import verify_end
from streamseg.sinks.video_track import VideoTrack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from av.container import OutputContainer
    from av.packet import Packet

    from streamseg.frames import Frame, StreamInfo
    from streamseg.sinks.container import Container
    from streamseg.sinks.remux import SideStreams

__all__ = ["RecordedFile"]

_FRAGMENT_S = Fraction(1, 2)
_INTERLEAVE_S = Fraction(1, 2)  # how long a picture waits for sound that does not come
_BLOCK = 1 << 18  # bytes that the muxer collects before it calls us
_FINEST = Fraction(1, 1_000_000)  # MP4 has 32 bits for the time between two pictures


class RecordedFile:
    """One file, under its own name as soon as nothing older is lost by it.

    Args:
        path: The file.
        container: Its kind.
        overwrite: Whether an older file may be replaced; it is when the first pictures of the new
            one are on the disk.
        protected: What must not be written to.

    Raises:
        SinkOpenError: If it cannot be made.
        SinkWriteError: If somebody else made it meanwhile.

    Attributes:
        start: Time of the first picture on the source's timeline; 0 in the file.
        written: Pictures in the file.
        complete: Whether the file is finished.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        container: Container,
        *,
        overwrite: bool,
        protected: Protected,
    ) -> None:
        self.start = Fraction(0)
        self.written = 0
        self.complete = False
        self._container = container
        self._target = Target(path, overwrite=overwrite)
        self._target.check(protected)
        self._target.create()
        self._output: OutputContainer | None = None
        self._side: SideStreams | None = None
        self._held: Packet[Any] | None = None
        self._video_ended = False
        self._last_key = Fraction(0)
        self._broken = False  # whether a write failed
        self._good = 0  # bytes up to which the file is sound
        self._header = 0  # bytes before the first picture
        # Never set: a recording that is stopped is still completed.
        self._stopped = threading.Event()
        self._published = False
        if not self._target.path.exists():
            try:
                self._publish()
            except BaseException:
                self._target.release()
                raise

    @property
    def shown(self) -> str:
        """The path for messages."""
        return self._target.shown

    @property
    def path(self) -> Path:
        """Where it is."""
        return self._target.path

    @property
    def size(self) -> int:
        """Bytes that are in it for good."""
        return self._good

    def begin(
        self,
        info: StreamInfo,
        first: Frame,
        side: SideStreams,
        asked: Mapping[str, Any],
        note: Callable[[str], None],
    ) -> None:
        """Start the container for pictures like this one.

        Args:
            info: The stream.
            first: The first picture; still to be written.
            side: The side streams, for this file alone.
            asked: What the user asked of the encoder.
            note: Gets a line for everything that is not stored as it came.

        Raises:
            SinkOpenError: If it cannot be encoded as asked.
        """
        self.start = self._last_key = frame_time(first)
        lines: list[str] = []
        self._video = VideoTrack(
            info, self._container, self.shown, asked, first, lines, tune=tune_for_recording
        )
        for line in lines:
            note(line)
        clock = self._video.start_clock(first, -self.start, finest=_FINEST)
        name = self._target.temporary or self.path
        self._file = MuxedFile(self._target.fd, name, self._stopped)
        output = av.open(
            self._file,
            "w",
            format=self._container.format,
            container_options=self._options(clock.time_base, side.sample_rates),
            buffer_size=_BLOCK,
        )
        self._video.attach(output)
        side.attach(output, -self.start)
        output.metadata.update(clean_tags(info.metadata))
        self._output, self._side, self._note = output, side, note
        try:
            with self._writing():
                output.start_encoding()
        except Exception as exc:
            raise self._failed(exc) from exc
        self._good = self._header = self._size()

    def write(self, frame: Frame) -> None:
        """Encode one picture.

        Raises:
            SinkError: If it cannot be encoded or written.
        """
        time = frame_time(frame)
        key = time - self._last_key >= KEY_INTERVAL_S
        if key:
            self._last_key = time
        try:
            if (line := self._video.change(frame)) is not None:
                self._note(line)
            for packet in self._video.encode(frame, key=key):
                self._mux(packet)
        except Exception as exc:
            raise self._failed(exc) from exc

    def write_side(self, packet: Packet[Any]) -> None:
        """Write a side packet; it is not changed.

        Raises:
            SinkError: If it cannot be written.
        """
        assert self._side is not None
        try:
            with self._writing():
                self._side.mux(packet)
            self._settle()
        except Exception as exc:
            raise self._failed(exc) from exc

    def end_video(self) -> None:
        """Write the pictures that the encoder still holds; packets may follow, pictures not.

        Raises:
            SinkError: If they cannot be written.
        """
        if self._video_ended or self._output is None:
            return
        self._video_ended = True
        try:
            for packet in self._video.flush():
                self._mux(packet)
            if self._held is not None:
                if self._container.is_mp4:
                    self._video.end_with(self._held)
                self._mux_now(self._held)
                self._held = None
        except Exception as exc:
            raise self._failed(exc) from exc

    def finish(self, *, sync: bool) -> None:
        """Complete the file and verify its end.

        Args:
            sync: Whether to wait until the disk has it.

        Raises:
            SinkWriteError: If it is not whole; what was written before stays playable.
        """
        if self._output is None or self._side is None:
            raise SinkWriteError(f"cannot write {self.shown}: the stream has no frames")
        self.end_video()
        try:
            with self._writing():
                self._side.flush()
                self._output.close()
            self._settle()
            for line in self._side.damage():
                self._note(line)
            self.complete = True
            if not self._published:
                self._publish()
            if sync:
                os.fsync(self._target.fd)
                sync_folder(self.path.parent)
            assert self._video.clock.last_pts is not None
            assert self._video.clock.first_pts is not None
            span = (self._video.clock.last_pts - self._video.clock.first_pts) * (
                self._video.clock.time_base
            )
            verify_end(self.path, self.shown, self.written, span)
        except Exception as exc:
            raise self._failed(exc) from exc
        finally:
            self._let_go()

    def abandon(self) -> None:
        """Complete the file as far as that goes; remove it if no picture is in it. Never fails."""
        if self._output is not None and not self.complete:
            with contextlib.suppress(Exception):
                self.finish(sync=False)
        empty = not self.complete and self._good <= self._header
        if empty and self._published and self._target.fd >= 0:
            with contextlib.suppress(OSError):
                if os.path.samestat(os.fstat(self._target.fd), os.stat(self.path)):
                    os.unlink(self.path)
        self._let_go()

    def _mux(self, packet: Packet[Any]) -> None:
        # One packet is held back, because the last one ends the track. And where sound ends a
        # fragment, the MP4 muxer has the next one begin when its last picture's duration is over.
        held, self._held = self._held, packet
        if held is not None:
            if self._container.is_mp4 and held.dts is not None and packet.dts is not None:
                held.duration = packet.dts - held.dts
            self._mux_now(held)

    def _mux_now(self, packet: Packet[Any]) -> None:
        assert self._output is not None
        with self._writing():
            self._output.mux_one(packet)
        self.written += 1
        self._settle()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._broken = True
            raise

    def _settle(self) -> None:
        """Note up to where the file is sound, and give it its name once there are pictures in it."""
        self._good = self._size()
        if not self._published and self._good > self._header:
            self._publish()

    def _size(self) -> int:
        return os.fstat(self._target.fd).st_size

    def _publish(self) -> None:
        target = self._target
        assert target.temporary is not None
        try:
            with contextlib.suppress(OSError):
                if target.overwrite and target.path.exists():
                    os.fchmod(target.fd, stat.S_IMODE(target.path.stat().st_mode))
            move(target.temporary, target.path, overwrite=target.overwrite)
        except FileExistsError as exc:
            raise SinkWriteError(
                f"cannot write {target.shown}: it was made by somebody else meanwhile; "
                "use --overwrite to replace it"
            ) from exc
        except OSError as exc:
            raise SinkWriteError(f"cannot write {target.shown}: {reason(exc)}") from exc
        target.temporary = None
        self._published = True

    def _failed(self, exc: BaseException) -> BaseException:
        """Return our error; if it is the file's, leave that as it was after the last good write.

        What the encoder refuses is no reason to leave the file without its index.
        """
        error = self._target.error(exc)
        if self._target.fd >= 0 and not self.complete and self._broken:
            if self._output is not None:
                self._file.closed = True  # PyAV then writes no index
                self._output = None
            with contextlib.suppress(OSError):
                if self._good:
                    os.ftruncate(self._target.fd, self._good)
        return error

    def _let_go(self) -> None:
        if self._output is not None:
            self._file.closed = True
            self._output = None
        if self._side is not None:
            self._side.close()
        self._target.release()

    def _options(self, time_base: Fraction, sample_rates: list[int]) -> dict[str, str]:
        container = self._container
        options = {
            "flush_packets": "1",
            "max_interleave_delta": str(int(_INTERLEAVE_S * 1_000_000)),
        }
        if container.is_mp4:
            # delay_moov: the index of an AAC stream with ADTS headers is known with its first
            # packet only, and edit lists need the first packets as well.
            options["movflags"] = "+hybrid_fragmented+delay_moov"
            options["frag_duration"] = str(int(_FRAGMENT_S * 1_000_000))
            options["movie_timescale"] = mp4_time_scale(time_base, sample_rates)
        elif container.format in {"matroska", "webm"}:
            options["cluster_time_limit"] = str(int(_FRAGMENT_S * 1000))
            options["avoid_negative_ts"] = "disabled"
        elif container.format == "mpegts":
            blu_ray = self.path.suffix.lower() == ".m2ts"  # packets of 192 bytes
            options["mpegts_m2ts_mode"] = "1" if blu_ray else "0"
        return options
