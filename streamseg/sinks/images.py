"""ImageWriter: PNG and JPEG pictures, one file or a numbered sequence, whole or absent.

A sequence is written into a hidden folder beside its place and moved at the end, file by file. If a
move fails, those that were moved are taken back, so that no part of a sequence is left behind.
Numbers count from 0 without gaps, whatever frames were dropped before.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import av.error

from streamseg.errors import SinkOpenError, SinkWriteError
from streamseg.ffmpeg_log import quiet_ffmpeg
from streamseg.frames import Colour
from streamseg.sinks.container import PICTURES
from streamseg.sinks.pixels import Conform, Picture, choose_format, has_alpha, output_colour
from streamseg.sinks.target import Target, move

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamseg.frames import Frame, StreamInfo
    from streamseg.segmentation import Segmentation

__all__ = ["ImageWriter", "is_picture"]

_NUMBER = re.compile(r"%(0?\d*)d")
_JPEG_QSCALE = 2  # of 1 (best) to 31


def is_picture(path: str | os.PathLike[str]) -> bool:
    """Return whether this name is that of pictures rather than of a video."""
    return os.path.splitext(path)[1].lower().removeprefix(".") in PICTURES


class ImageWriter:
    """Writes pictures.

    Args:
        path: One file, or a name with a number in it, for example ``out_%05d.png``.
        overwrite: Whether existing files may be replaced.
    """

    def __init__(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        self.written = 0
        self.notices: list[str] = []
        self._path = Path(path)
        self._overwrite = overwrite
        self._numbers = _NUMBER.findall(self._path.name)
        self._target = Target(path, overwrite=overwrite)
        self._codec = "png" if self._path.suffix.lower() == ".png" else "mjpeg"
        self._encoder: tuple[tuple[Any, ...], Any, Conform] | None = None
        self._stopped = threading.Event()
        self._colour = Colour()
        self._names: list[str] = []

    @property
    def _sequence(self) -> bool:
        return bool(self._numbers)

    def open(self, info: StreamInfo) -> None:
        """Check the target and make the temporary file or folder.

        Raises:
            SinkOpenError: If the pictures cannot be written as asked.
        """
        quiet_ffmpeg()
        self._colour = info.colour
        self._sar = info.sample_aspect_ratio
        shown = self._target.shown
        if len(self._numbers) > 1 or "%" in _NUMBER.sub("", self._path.name):
            raise SinkOpenError(
                f"cannot write {shown}: the name must hold one number such as %05d and no other %"
            )
        self._target.check(info.name)
        existing = self._existing()
        if existing and not self._overwrite:
            raise SinkOpenError(
                f"cannot write {shown}: {existing[0].name} exists; use --overwrite to replace it"
            )
        self._target.create(folder=self._sequence)

    def write(self, frame: Frame, segmentation: Segmentation | None = None) -> None:
        """Encode one picture into the temporary place.

        Raises:
            SinkOpenError: If it has alpha, and JPEG has none.
            SinkWriteError: If it cannot be written.
        """
        if self.written and not self._sequence:
            raise SinkWriteError(
                f"cannot write {self._target.shown}: one picture holds one frame; put a number "
                f"into the name, for example {self._path.stem}_%05d{self._path.suffix}"
            )
        if self._codec == "mjpeg" and has_alpha(frame.pixel_format):
            raise SinkOpenError(
                f"cannot write {self._target.shown}: JPEG holds no alpha channel; "
                "use .png, .webm, .mov or .mkv"
            )
        try:
            data = self._encode(frame.video)
            if not self._sequence:
                _write_all(self._target.fd, data)
            else:
                assert self._target.temporary is not None
                name = self._name(self.written)
                fd = os.open(
                    self._target.temporary / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666
                )
                try:
                    _write_all(fd, data)
                    os.fsync(fd)
                finally:
                    os.close(fd)
                self._names.append(name)
        except Exception as exc:
            raise self._target.error(exc) from exc
        self.written += 1

    def write_packets(self, packets: Sequence[Any]) -> None:
        """Ignore them: pictures have no sound."""

    def finish(self) -> None:
        """Put the pictures in their places.

        Raises:
            SinkWriteError: If that fails; nothing new is then left behind.
        """
        if not self.written:
            raise SinkWriteError(f"cannot write {self._target.shown}: the stream has no frames")
        if not self._sequence:
            self._target.commit()
            return
        assert self._target.temporary is not None
        moved: list[Path] = []
        try:
            for name in self._names:
                if self._stopped.is_set():
                    raise InterruptedError("it was stopped")
                place = self._target.path.with_name(name)
                fresh = not place.exists()
                move(self._target.temporary / name, place, overwrite=self._overwrite)
                if fresh:
                    moved.append(place)
        except FileExistsError as exc:
            _take_back(moved)
            raise SinkWriteError(
                f"cannot write {self._target.shown}: a picture of that name was made by somebody "
                "else meanwhile; use --overwrite to replace it"
            ) from exc
        except OSError as exc:
            _take_back(moved)
            raise self._target.error(exc) from exc
        older = [path for path in self._existing() if path.name not in set(self._names)]
        if older:
            self.notices.append(
                f"{len(older)} pictures of an earlier, longer sequence are still there, "
                f"from {older[0].name}"
            )

    def abort(self) -> None:
        """Remove what is not in its place."""
        self._encoder = None
        self._target.release()

    def stop(self) -> None:
        """Make a running ``finish`` fail."""
        self._stopped.set()

    def _name(self, number: int) -> str:
        return self._path.name % number

    def _existing(self) -> list[Path]:
        if not self._sequence:
            return []
        before, after = _NUMBER.split(self._path.name)[::2]
        pattern = re.compile(re.escape(before) + r"\d+" + re.escape(after))
        with contextlib.suppress(OSError):
            names = sorted(os.listdir(self._target.path.parent))
            return [self._target.path.with_name(n) for n in names if pattern.fullmatch(n)]
        return []

    def _encode(self, video: av.VideoFrame) -> bytes:
        colour = Colour.of(video)
        key = (video.width, video.height, video.format.name, colour)
        if self._encoder is None or self._encoder[0] != key:
            self._encoder = (key, *self._make_encoder(video))
        _, context, conform = self._encoder
        picture = conform.apply(video)
        picture.pts, picture.time_base = self.written, Fraction(1, 25)
        packets = context.encode(picture)
        return b"".join(bytes(packet) for packet in packets)

    def _make_encoder(self, video: av.VideoFrame) -> tuple[Any, Conform]:
        codec = av.Codec(self._codec, "w")
        target, _ = choose_format(video.format.name, codec)
        colour = output_colour(video, self._colour, target)
        context: Any = av.CodecContext.create(codec, "w")
        context.width, context.height, context.pix_fmt = video.width, video.height, target
        context.time_base, context.framerate = Fraction(1, 25), Fraction(25)
        context.color_range, context.colorspace = colour.range, colour.space
        context.sample_aspect_ratio = self._sar
        context.thread_count = 1  # a picture must come out of the call that it went into
        if self._codec == "mjpeg":
            context.qscale, context.global_quality = True, _JPEG_QSCALE
        context.open()
        return context, Conform(Picture(target, video.width, video.height, 0, 0, colour))


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _take_back(paths: list[Path]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()
