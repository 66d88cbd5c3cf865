"""RecordingSink: a live stream into files that stay playable whatever happens.

    async with RecordingSink("record.mp4", segment_s=600) as sink:
        await sink.open(info)
        ...
        await sink.send(frame)
        await sink.send_packets(source.take_packets())
        await sink.finish()

Unlike a ``FileSink``, which writes a whole file or none, this one keeps what it has: what was
recorded cannot be recorded again. See docs/decisions/0005-recordings.md.
"""

from __future__ import annotations

import glob
import math
import os
import re
import threading
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamseg.errors import ConfigError, SinkOpenError
from streamseg.ffmpeg_log import quiet_ffmpeg
from streamseg.sinks.container import EXTENSIONS, container_for
from streamseg.sinks.encoder import choose_encoder
from streamseg.sinks.images import is_picture
from streamseg.sinks.live_muxing import PacketGate, frame_time
from streamseg.sinks.recorded_file import RecordedFile
from streamseg.sinks.remux import SideStreams
from streamseg.sinks.target import Protected, printable
from streamseg.sinks.threaded import ThreadedSink, Writer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from streamseg.abc import SinkStatistics
    from streamseg.frames import Frame, StreamInfo
    from streamseg.segmentation import Segmentation

__all__ = ["RecordingSink"]

_UNFIT = frozenset({"avi", "gif"})  # no times of their own for pictures, nothing without an index
_SHORTEST_S = 1.0
_AHEAD_S = Fraction(10)  # of sound before its picture: a slow model takes this long to answer once
_LATE_S = Fraction(
    1
)  # a file is kept open this long after its last picture, for sound that is late


class RecordingSink(ThreadedSink):
    """Records pictures and side streams as they come, at a variable frame rate.

    Each picture keeps its own time, to the container's tick; the first one is at 0. Sound that
    is older than the first picture is left out.

    The file is there from the beginning and is never discarded: closing without ``finish``, an
    error and a full disk leave what was recorded, completed where that is possible. When the
    process is killed, the file plays up to about its last second. ``commit`` has nothing to do.

    Args:
        path: The file: .mp4, .mov, .mkv, .webm, .ts, .mts, .m2ts or .flv.
        segment_s: Begin a new file after this many seconds, at least 1; the files are then named
            ``record_000.mp4``, ``record_001.mp4`` and so on. Each begins with a keyframe at 0; no
            picture is lost or doubled between them. None records into one file.
        encoder: FFmpeg's name of a video encoder; None for H.264 (VP9 in .webm).
        crf: Quality on the encoder's own scale; None for its default.
        preset: Speed by the encoder's own names; None for a fast one.
        audio: Whether audio is recorded.
        overwrite: Whether existing files may be replaced. One is when the first pictures of the new
            one are on the disk, within a second of the first; until then it stays as it is.
        protected: Files that may not be overwritten whatever ``overwrite`` says.

    Raises:
        ConfigError: If ``segment_s`` is too short.
    """

    live_capacity = 30

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        segment_s: float | None = None,
        encoder: str | None = None,
        crf: float | None = None,
        preset: str | None = None,
        audio: bool = True,
        overwrite: bool = False,
        protected: Iterable[str | os.PathLike[str]] = (),
    ) -> None:
        if segment_s is not None and not (math.isfinite(segment_s) and segment_s >= _SHORTEST_S):
            raise ConfigError(f"segment_s is {segment_s}, expected {_SHORTEST_S:g} second or more")
        super().__init__(str(path))
        self._path = path
        self._segment_s = segment_s
        self._asked = {"encoder": encoder, "crf": crf, "preset": preset}
        self._audio = audio
        self._overwrite = overwrite
        self._protected = tuple(protected)
        self._recorder: _RecordingWriter | None = None

    def statistics(self) -> SinkStatistics:
        """Return the counters of this moment; ``dropped`` holds what closing abandoned."""
        recorder = self._recorder
        size = 0 if recorder is None else recorder.bytes_written
        return replace(super().statistics(), bytes_written=size)

    def _make_writer(self) -> Writer:
        self._recorder = _RecordingWriter(
            self._path,
            None if self._segment_s is None else Fraction(self._segment_s),
            self._asked,
            audio=self._audio,
            overwrite=self._overwrite,
            protected=self._protected,
        )
        return self._recorder


class _RecordingWriter:
    """Writes the files; its methods are called in the sink's thread."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        segment_s: Fraction | None,
        asked: dict[str, Any],
        *,
        audio: bool,
        overwrite: bool,
        protected: Sequence[str | os.PathLike[str]],
    ) -> None:
        self.notices: list[str] = []
        self._path = path
        self._segment_s = segment_s
        self._asked = asked
        self._audio = audio
        self._overwrite = overwrite
        self._protected = protected
        self._number = 0
        self._done = 0  # pictures in files that are complete
        self._done_bytes = 0
        self._late = 0
        self._start = Fraction(0)
        self._current: RecordedFile | None = None
        self._previous: RecordedFile | None = None
        self._begun = False
        self._gate = PacketGate(_AHEAD_S)
        self._plan: SideStreams | None = None

    @property
    def written(self) -> int:
        """Pictures that are in the files."""
        files = (self._previous, self._current)
        return self._done + sum(file.written for file in files if file is not None)

    @property
    def bytes_written(self) -> int:
        """Size of the files."""
        files = (self._previous, self._current)
        return self._done_bytes + sum(file.size for file in files if file is not None)

    def open(self, info: StreamInfo) -> None:
        """Make the first file, empty.

        Raises:
            SinkOpenError: If it cannot be written as asked.
        """
        quiet_ffmpeg()
        self._info = info
        shown = printable(self._path)
        container = None if is_picture(self._path) else container_for(self._path)
        if container is None or container.format in _UNFIT:
            fit = ", ".join(
                f".{name}" for name, kind in EXTENSIONS.items() if kind.format not in _UNFIT
            )
            raise SinkOpenError(
                f"cannot record to {shown}: it could not be played after a crash; use one of {fit}"
            )
        self._container = container
        self._identities = Protected((*info.files, *self._protected))
        choose_encoder(container, shown, **self._asked)
        if self._segment_s is not None and not self._overwrite:
            self._refuse_older_segments()
        self._plan = SideStreams(
            [s for s in info.side_streams if s.type in {"audio", "subtitle"}],
            container,
            audio=self._audio,
            chapters=False,
            notices=self.notices,
            stopped=threading.Event(),
        )
        self._current = self._next_file()

    def write(self, frame: Frame, segmentation: Segmentation | None = None) -> None:
        """Write one picture, in a new file if it is time for one.

        Raises:
            SinkError: If it cannot be encoded or written.
        """
        assert self._current is not None
        time = frame_time(frame)
        if not self._begun:
            self._begin(self._current, frame)
            self._begun, self._start = True, time
            self._gate.drop_before(time)
        elif self._segment_s is not None and time - self._current.start >= self._segment_s:
            self._cut(frame)
        self._current.write(frame)
        for when, packet in self._gate.take(time):
            self._route(when, packet)
        if self._previous is not None and time - self._current.start >= _LATE_S:
            self._complete_previous()

    def write_packets(self, packets: Sequence[Any]) -> None:
        """Take side packets; they wait for their pictures.

        Raises:
            SinkWriteError: If they cannot be written.
        """
        assert self._plan is not None
        self._gate.put(packet for packet in packets if self._plan.carries(packet))
        if not self._begun:
            self._gate.drop_overdue()

    def finish(self) -> None:
        """Complete the files and verify them.

        Raises:
            SinkWriteError: If one is not whole.
        """
        assert self._current is not None
        if self._begun:
            for when, packet in self._gate.take(Fraction(1 << 62)):
                self._route(when, packet)
        if self._previous is not None:
            self._complete_previous()
        self._current.finish(sync=True)
        if self._late:
            self.notices.append(
                f"{self._late} audio or subtitle packets came after their file was complete and "
                "are left out"
            )

    def commit(self) -> None:
        """Nothing is left to do: the files have their names."""

    def abort(self) -> None:
        """Complete what is not complete, as far as that goes."""
        for file in (self._previous, self._current):
            if file is not None:
                file.abandon()
        self._gate.clear()
        if self._plan is not None:
            self._plan.close()

    def stop(self) -> None:
        """Nothing: what is being written is kept, and takes as long as one picture."""

    def discard(self) -> None:
        """Nothing: what was recorded stays."""

    def _begin(self, file: RecordedFile, first: Frame) -> None:
        assert self._plan is not None
        file.begin(self._info, first, self._plan.fork(), self._asked, self._note)

    def _note(self, line: str) -> None:
        if line not in self.notices:  # each file says the same
            self.notices.append(line)

    def _cut(self, frame: Frame) -> None:
        """End the file before this picture, and begin the next one with it."""
        if self._previous is not None:
            self._complete_previous()
        assert self._current is not None
        self._current.end_video()
        self._previous, self._current = self._current, self._next_file()
        self._begin(self._current, frame)

    def _complete_previous(self) -> None:
        file, self._previous = self._previous, None
        assert file is not None
        self._done += file.written
        file.finish(sync=False)
        self._done_bytes += file.size

    def _route(self, time: Fraction, packet: Any) -> None:
        """Write a packet into the file of its time."""
        assert self._current is not None
        if time >= self._current.start:
            self._current.write_side(packet)
        elif self._previous is not None:
            self._previous.write_side(packet)
        elif time >= self._start:
            self._late += 1

    def _next_file(self) -> RecordedFile:
        path = Path(self._path)
        if self._segment_s is not None:
            path = path.with_name(f"{path.stem}_{self._number:03d}{path.suffix}")
            self._number += 1
        return RecordedFile(
            path, self._container, overwrite=self._overwrite, protected=self._identities
        )

    def _refuse_older_segments(self) -> None:
        """Fail now rather than at the cut that would meet a file of an earlier recording."""
        path = Path(self._path)
        pattern = f"{glob.escape(str(path.with_name(path.stem)))}_[0-9]*{glob.escape(path.suffix)}"
        number = re.compile(re.escape(f"{path.stem}_") + r"\d{3,}" + re.escape(path.suffix))
        older = [name for name in glob.glob(pattern) if number.fullmatch(Path(name).name)]
        if older:
            raise SinkOpenError(
                f"cannot write {printable(min(older))}: it exists; "
                "use --overwrite to replace it, or another name"
            )
