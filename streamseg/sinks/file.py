"""FileSink: a video file, or numbered pictures, written whole or not at all.

    async with FileSink("out.mp4") as sink:
        await sink.open(info)
        ...
        await sink.send(frame)
        await sink.send_packets(source.take_packets())
        await sink.finish()
        await sink.commit()

Every frame comes out once, with the presentation time that it came with; audio, subtitles,
chapters and tags are carried over untouched where the container holds them. What had to be
different is said in ``notices``.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from streamseg.sinks.images import ImageWriter, is_picture
from streamseg.sinks.movie import MovieOptions, MovieWriter
from streamseg.sinks.threaded import ThreadedSink, Writer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["FileSink"]


class FileSink(ThreadedSink):
    """Writes frames to a file, encoding in a thread of its own.

    The extension chooses the container: mp4, m4v, mov, mkv, webm, avi, ts, mts, m2ts, flv, gif; or
    pictures: png, jpg, jpeg, with a number in the name (``out_%05d.png``) one for each frame.
    Frames with alpha go into .webm, .mov, .mkv and .png.

    Args:
        path: The file, or the pattern of the pictures' names.
        encoder: FFmpeg's name of a video encoder; None for H.264 (VP9 in .webm). One that needs a
            device that is not there is replaced by the software encoder of its codec.
        crf: Quality on the encoder's own scale (0 to 51 for H.264, less is better); None for a
            default that is hard to tell from the original.
        preset: Speed by the encoder's own names, for example ``veryfast``; None for a fast one.
        encoder_options: Further options of the encoder, by FFmpeg's names.
        audio: Whether audio is carried over.
        side: Whether subtitles, attachments and chapters are carried over.
        overwrite: Whether an existing file may be replaced. It stays as it is until the new one is
            whole.
        protected: Files that may not be overwritten whatever ``overwrite`` says, besides those
            that the source reads; for example a background.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        encoder: str | None = None,
        crf: float | None = None,
        preset: str | None = None,
        encoder_options: Mapping[str, str] | None = None,
        audio: bool = True,
        side: bool = True,
        overwrite: bool = False,
        protected: Iterable[str | os.PathLike[str]] = (),
    ) -> None:
        super().__init__(str(path))
        self._path = path
        self._options = MovieOptions(encoder, crf, preset, encoder_options, audio, side)
        self._overwrite = overwrite
        self._protected = tuple(protected)

    def _make_writer(self) -> Writer:
        path, overwrite, protected = self._path, self._overwrite, self._protected
        if is_picture(path):
            return ImageWriter(path, overwrite=overwrite, protected=protected)
        return MovieWriter(path, self._options, overwrite=overwrite, protected=protected)
