"""MaskSink: writes what the model saw instead of the picture.

The name chooses the form:

- a video (``mask.mkv``, ``mask.mp4``): the mask as a grey video, full range, with the time stamps
  of the frames; FFV1, thus lossless, in .mkv, near-lossless H.264 or VP9 elsewhere;
- pictures (``mask_%05d.png``): 8 bits grey, one for each frame;
- ``masks.jsonl``: one JSON object a line for each frame, masks as COCO run lengths at the picture's
  size, thresholded at 0.5, which pycocotools reads.

A frame without a segmentation is a black mask, or an empty list, so that frames and masks stay one
to one.

Source: run lengths as in the COCO API (pycocotools), https://cocodataset.org/#format-data
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import av
import cv2
import numpy as np

from streamseg.errors import SinkOpenError, SinkWriteError
from streamseg.frames import luma_plane
from streamseg.sinks.container import EXTENSIONS, container_for
from streamseg.sinks.images import ImageWriter, is_picture
from streamseg.sinks.movie import MovieOptions, MovieWriter
from streamseg.sinks.target import Protected, Target, printable
from streamseg.sinks.threaded import ThreadedSink, Writer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from streamseg.frames import Frame, StreamInfo
    from streamseg.segmentation import Segmentation

__all__ = ["MaskSink"]

THRESHOLD = 0.5
_FULL_RANGE = 2
_ENCODERS: dict[str, tuple[str | None, float | None]] = {
    "matroska": ("ffv1", None),
    "mp4": (None, 10.0),
    "mov": (None, 10.0),
    "webm": (None, 12.0),
}


class MaskSink(ThreadedSink):
    """Writes the masks of the frames.

    Args:
        path: A video, a numbered sequence of pictures, or a .jsonl file.
        labels: Which labels; the video and the pictures show all of them together. None for all
            that the segmentation has masks of.
        overwrite: Whether existing files may be replaced.
        protected: Files that may not be overwritten whatever ``overwrite`` says, besides those
            that the source reads.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        labels: Iterable[str] | None = None,
        overwrite: bool = False,
        protected: Iterable[str | os.PathLike[str]] = (),
    ) -> None:
        super().__init__(str(path))
        self._path = path
        self._labels = None if labels is None else tuple(labels)
        self._overwrite = overwrite
        self._protected = tuple(protected)

    def _make_writer(self) -> Writer:
        path, overwrite, protected = self._path, self._overwrite, self._protected
        if _extension(path) == "jsonl":
            return _LinesWriter(path, self._labels, overwrite=overwrite, protected=protected)
        if is_picture(path):
            inner: Writer = ImageWriter(path, overwrite=overwrite, protected=protected)
        elif _extension(path) not in EXTENSIONS:
            known = ", ".join(f".{name}" for name in ("jsonl", "png", *EXTENSIONS))
            raise SinkOpenError(f"cannot write masks to {printable(path)}: these work: {known}")
        else:
            kind = container_for(path)
            encoder, crf = _ENCODERS.get(kind.format, (None, None))
            options = MovieOptions(encoder=encoder, crf=crf, audio=False, side=False)
            inner = MovieWriter(path, options, overwrite=overwrite, protected=protected)
        return _MaskPictures(inner, self._labels)


def _extension(path: str | os.PathLike[str]) -> str:
    return os.path.splitext(path)[1].lower().removeprefix(".")


def _wanted(segmentation: Segmentation, labels: tuple[str, ...] | None) -> tuple[str, ...]:
    """The labels to write, in a stable order.

    Raises:
        SinkWriteError: If one was asked for that the model does not give.
    """
    if labels is None:
        return tuple(segmentation.masks)
    for label in labels:
        if label not in segmentation.masks:
            known = ", ".join(segmentation.masks) or "none"
            raise SinkWriteError(f"there is no mask of '{label}'; the model gives: {known}")
    return labels


def _at_picture_size(mask: NDArray[np.float32], frame: Frame) -> NDArray[np.float32]:
    if mask.shape == (frame.height, frame.width):
        return mask
    size = (frame.width, frame.height)
    scaled: NDArray[np.float32] = cv2.resize(mask, size, interpolation=cv2.INTER_LINEAR)
    return scaled


class _MaskPictures:
    """Turns each segmentation into a grey picture for another writer."""

    def __init__(self, inner: Writer, labels: tuple[str, ...] | None) -> None:
        self._inner = inner
        self._labels = labels

    @property
    def written(self) -> int:
        return self._inner.written

    @property
    def notices(self) -> list[str]:
        return self._inner.notices

    def open(self, info: StreamInfo) -> None:
        self._inner.open(replace(info, pixel_format="gray", side_streams=(), chapters=()))

    def write(self, frame: Frame, segmentation: Segmentation | None) -> None:
        grey = av.VideoFrame(frame.width, frame.height, "gray")
        picture = luma_plane(grey)
        labels = () if segmentation is None else _wanted(segmentation, self._labels)
        if segmentation is None or not labels:
            picture[:] = 0
        else:
            # 8 bits before scaling: a quarter of the memory to move, at most half a step off.
            small = cv2.convertScaleAbs(segmentation.mask_of(labels), alpha=255.0)
            size = (frame.width, frame.height)
            picture[:] = cv2.resize(small, size, interpolation=cv2.INTER_LINEAR)
        grey.color_range = _FULL_RANGE
        self._inner.write(frame.with_video(grey), None)

    def write_packets(self, packets: Sequence[Any]) -> None:
        """Masks have no sound."""

    def finish(self) -> None:
        self._inner.finish()

    def commit(self) -> None:
        self._inner.commit()

    def abort(self) -> None:
        self._inner.abort()

    def stop(self) -> None:
        self._inner.stop()

    def discard(self) -> None:
        self._inner.discard()


class _LinesWriter:
    """Writes one JSON object a line."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        labels: tuple[str, ...] | None,
        *,
        overwrite: bool,
        protected: Sequence[str | os.PathLike[str]],
    ) -> None:
        self.written = 0
        self.notices: list[str] = []
        self._labels = labels
        self._target = Target(path, overwrite=overwrite)
        self._protected = protected
        self._file: Any = None
        self._stopped = threading.Event()

    def open(self, info: StreamInfo) -> None:
        self._target.check(Protected((*info.files, *self._protected)))
        self._target.create()
        self._file = os.fdopen(self._target.fd, "wb", buffering=1 << 16, closefd=False)

    def write(self, frame: Frame, segmentation: Segmentation | None) -> None:
        line = json.dumps(self._line(frame, segmentation), separators=(",", ":"))
        try:
            self._file.write(line.encode() + b"\n")
        except OSError as exc:
            raise self._target.error(exc) from exc
        self.written += 1

    def write_packets(self, packets: Sequence[Any]) -> None:
        """Masks have no sound."""

    def finish(self) -> None:
        if not self.written:
            raise SinkWriteError(f"cannot write {self._target.shown}: the stream has no frames")
        try:
            self._file.flush()
        except OSError as exc:
            raise self._target.error(exc) from exc
        if self._stopped.is_set():
            raise SinkWriteError(f"cannot write {self._target.shown}: it was stopped")

    def commit(self) -> None:
        self._target.commit()

    def abort(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError:  # what was buffered had no room; the file goes anyway
                self._stopped.set()
        self._target.release()

    def stop(self) -> None:
        self._stopped.set()

    def discard(self) -> None:
        self._target.discard()

    def _line(self, frame: Frame, segmentation: Segmentation | None) -> dict[str, Any]:
        from streamseg.masks.rle import encode_rle

        masks = []
        labels = () if segmentation is None else _wanted(segmentation, self._labels)
        for label in labels:
            assert segmentation is not None
            scaled = _at_picture_size(segmentation.masks[label], frame)
            binary = scaled >= THRESHOLD
            rle = encode_rle(binary)
            masks.append(
                {
                    "label": label,
                    "size": [int(side) for side in rle["size"]],
                    "counts": rle["counts"],
                    "area": int(np.count_nonzero(binary)),
                }
            )
        base = frame.time_base
        return {
            "index": frame.index,
            "pts": frame.pts,
            "time_base": f"{base.numerator}/{base.denominator}",
            "time_s": frame.pts_s,
            "width": frame.width,
            "height": frame.height,
            "masks": masks,
        }
