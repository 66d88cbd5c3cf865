"""ImageWriter: PNG and JPEG pictures, one file or a numbered sequence, whole or absent.

A sequence is written into a hidden folder beside its place, checked, and moved at the end, file by
file; older pictures wait in another hidden folder until all are in place. If a move fails, the new
ones are taken back and the older ones return, so that there is one whole sequence or the other.
Numbers count from 0 without gaps, whatever frames were dropped before.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
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
from streamseg.sinks.target import Protected, Target, move, printable, reason, sync_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamseg.frames import Frame, StreamInfo
    from streamseg.segmentation import Segmentation

__all__ = ["ImageWriter", "is_picture"]

_NUMBER = re.compile(r"%(?:0([1-9]\d?))?d")  # the group is the number of digits, or empty
_JPEG_QSCALE = 2  # of 1 (best) to 31


def is_picture(path: str | os.PathLike[str]) -> bool:
    """Return whether this name is that of pictures rather than of a video."""
    return os.path.splitext(path)[1].lower().removeprefix(".") in PICTURES


class ImageWriter:
    """Writes pictures.

    Args:
        path: One file, or a name with a number in it, for example ``out_%05d.png``.
        overwrite: Whether existing files may be replaced.
        protected: Files that may not be written to, besides those that are read.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        protected: Sequence[str | os.PathLike[str]] = (),
    ) -> None:
        self.written = 0
        self.notices: list[str] = []
        self._path = Path(path)
        self._overwrite = overwrite
        self._protected = tuple(protected)
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
                f"cannot write {shown}: the name must hold one number, %d or such as %05d, "
                "and no other %"
            )
        protected = Protected((*info.files, *self._protected))
        self._target.check(protected)
        if self._sequence:
            self._refuse_protected(protected)
        existing = self._existing()
        if existing and not self._overwrite:
            raise SinkOpenError(
                f"cannot write {shown}: {printable(existing[0].name)} exists; use --overwrite to replace it"
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
                f"into the name, for example {printable(self._path.stem)}_%05d{self._path.suffix}"
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
        """Check that the pictures are whole; nothing is in its place yet.

        Raises:
            SinkWriteError: If one is missing or damaged, or something is in the way.
        """
        shown, temporary = self._target.shown, self._target.temporary
        if not self.written:
            raise SinkWriteError(f"cannot write {shown}: the stream has no frames")
        assert temporary is not None
        if self._stopped.is_set():
            raise SinkWriteError(f"cannot write {shown}: it was stopped")
        paths = [temporary / name for name in self._names] if self._sequence else [temporary]
        try:
            empty = sum(not path.stat().st_size for path in paths)
            if empty or len(paths) != self.written:
                raise SinkWriteError(
                    f"cannot write {shown}: {empty or self.written - len(paths)} of "
                    f"{self.written} pictures are empty or missing"
                )
            for path in {paths[0], paths[-1]}:
                self._check_picture(path)
            for name in self._names:
                _refuse_special(self._target.path.with_name(name))
        except Exception as exc:
            raise self._target.error(exc) from exc

    def commit(self) -> None:
        """Put the pictures in their places.

        Raises:
            SinkWriteError: If that fails; everything is then as it was before.
        """
        if not self._sequence:
            self._target.commit()
            return
        temporary = self._target.temporary
        assert temporary is not None
        # Not a .part: should this process be killed now, nobody takes the older pictures for waste.
        older = temporary.with_suffix(".old")
        moved: list[Path] = []
        saved: list[str] = []
        try:
            older.mkdir()
            for name in self._names:
                place = self._target.path.with_name(name)
                found = _refuse_special(place)
                if found is not None and self._overwrite:
                    with contextlib.suppress(OSError):
                        # The new file takes over who may read the old one.
                        os.chmod(temporary / name, stat.S_IMODE(place.stat().st_mode))
                    os.rename(place, older / name)
                    saved.append(name)
                move(temporary / name, place, overwrite=False)
                moved.append(place)
            sync_folder(temporary.parent)
        except OSError as exc:
            kept = _restore(moved, saved, older)
            what = reason(exc)
            if isinstance(exc, FileExistsError):
                what = "a picture of that name was made by somebody else meanwhile"
            if kept:
                what += f"; {kept} older pictures are in {printable(older)} now"
            raise SinkWriteError(f"cannot write {self._target.shown}: {what}") from exc
        shutil.rmtree(older, ignore_errors=True)
        self._target.release()
        names = set(self._names)
        longer = [path for path in self._existing() if path.name not in names]
        if longer:
            self.notices.append(
                f"{len(longer)} pictures of an earlier, longer sequence are still there, "
                f"from {printable(longer[0].name)}"
            )

    def abort(self) -> None:
        """Remove what is not in its place."""
        self._encoder = None
        self._target.release()

    def stop(self) -> None:
        """Make the next ``finish`` fail."""
        self._stopped.set()

    def discard(self) -> None:
        """Remove the temporary files' names while another thread may still write to them."""
        self._target.discard()

    def _name(self, number: int) -> str:
        return self._path.name % number

    def _existing(self) -> list[Path]:
        """Every picture there is whose name this sequence could use."""
        if not self._sequence:
            return []
        with contextlib.suppress(OSError):
            names = sorted(os.listdir(self._target.path.parent))
            return [self._target.path.with_name(n) for n in names if self._may_be_named(n)]
        return []

    def _may_be_named(self, name: str) -> bool:
        if not self._sequence:
            return False
        before, after = _NUMBER.sub("%", self._path.name).split("%")
        digits = int(self._numbers[0] or 1)
        number = rf"(?:\d{{{digits}}}|[1-9]\d{{{digits},}})"
        return bool(re.fullmatch(re.escape(before) + number + re.escape(after), name, re.DOTALL))

    def _refuse_protected(self, protected: Protected) -> None:
        for path in self._existing():
            if path in protected:
                raise self._target.is_read(path.name)
        folder = str(self._target.path.parent)
        for name in protected.paths:
            if os.path.dirname(name) == folder and self._may_be_named(os.path.basename(name)):
                raise self._target.is_read(os.path.basename(name))

    def _check_picture(self, path: Path) -> None:
        shown = self._target.shown
        context: Any = av.CodecContext.create(self._codec, "r")
        context.thread_count = 1
        try:
            packet = av.Packet(path.read_bytes())
            pictures = [*context.decode(packet), *context.decode(None)]
        except av.error.FFmpegError as exc:
            raise SinkWriteError(
                f"cannot write {shown}: a finished picture cannot be read back ({reason(exc)})"
            ) from exc
        if len(pictures) != 1:
            raise SinkWriteError(f"cannot write {shown}: a finished picture cannot be read back")

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


def _refuse_special(place: Path) -> os.stat_result | None:
    """Return what is at a place, None for nothing.

    Raises:
        OSError: If it is a folder, a pipe or a device.
    """
    try:
        found = place.stat()
    except FileNotFoundError:
        return place.lstat() if place.is_symlink() else None
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, f"{printable(place.name)} is a directory")
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, f"{printable(place.name)} is not a regular file")
    return found


def _restore(moved: list[Path], saved: list[str], older: Path) -> int:
    """Undo a half-done commit; return how many older pictures could not be put back."""
    for path in moved:
        with contextlib.suppress(OSError):
            path.unlink()
    lost = 0
    for name in saved:
        try:
            move(older / name, older.with_name(name), overwrite=False)
        except OSError:
            lost += 1
    with contextlib.suppress(OSError):
        older.rmdir()
    return lost
