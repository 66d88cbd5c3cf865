"""Opening a file, an image or a numbered sequence of images with libavformat.

What can be said about a path is said before FFmpeg sees it, in words; FFmpeg's own messages name
its parts, not the user's file. PyAV keeps FFmpeg's log away from the terminal unless somebody asks
for it; it must stay so here, because its bridge to ``logging`` takes the GIL from decoder threads.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
from av.stream import Disposition

from streamseg.errors import SourceOpenError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.stream import Stream
    from av.video.stream import VideoStream

__all__ = ["MAX_PIXELS", "Opened", "open_media", "readable_name"]

MAX_PIXELS = 2**28
"""Largest picture that is decoded, 16384x16384: a header can ask for any amount of memory."""

_NUMBER = re.compile(r"%(?:0(\d+))?d")
# Playlists and session descriptions: they make FFmpeg open, or wait for, something else (one that
# names an unreachable server never returns). And text, which it would "play" as terminal art.
_REFUSED_FORMATS = frozenset(
    {"concat", "dash", "hls", "imf", "mpjpeg", "rtp", "rtsp", "sap", "sdp", "tedcaptions"}
    | {"adf", "bin", "idf", "tty", "xbin"}
)
_CHAPTER_TRACK = "bin_data"


@dataclass(slots=True)
class Opened:
    """An open container and the streams that are read from it.

    Attributes:
        container: libavformat's demuxer.
        video: The stream whose pictures are decoded.
        sides: Streams whose packets are passed on.
        still: Whether it is a single image.
        files: Real paths of all files that are read.
        notices: What the user should know.
    """

    container: InputContainer
    video: VideoStream
    sides: list[Stream]
    still: bool = False
    files: tuple[str, ...] = ()
    notices: list[str] = field(default_factory=list)


def readable_name(path: str) -> str:
    """Return a path for messages: one line, valid UTF-8."""
    text = os.fsencode(path).decode("utf-8", "replace")
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def open_media(path: str, *, rate: Fraction | None, side_streams: bool, threads: int) -> Opened:
    """Open a file for reading; blocks.

    Args:
        path: A file, or a pattern of numbered images with one ``%d`` or ``%05d``.
        rate: Frames per second of an image or image sequence; 25 if None.
        side_streams: Whether packets of other streams than the video are wanted.
        threads: How many threads the video decoder may use.

    Raises:
        SourceOpenError: If it cannot be read as video; the message says what to try.
    """
    name = readable_name(path)
    options = {
        "format_whitelist": ",".join(sorted(av.format.formats_available - _REFUSED_FORMATS)),
        # A file that names others must not have them fetched from the network.
        "protocol_whitelist": "file",
        "max_pixels": str(MAX_PIXELS),
    }
    format_name = None
    notices: list[str] = []
    numbered = not os.path.lexists(path) and _NUMBER.search(Path(path).name)
    files = [path]
    if numbered:
        first, files, gap = _sequence(path)
        format_name = "image2"
        options |= {"pattern_type": "sequence", "start_number": str(first)}
        if gap is not None:
            notices.append(f"{name}: image number {gap} is missing, the sequence ends before it")
    else:
        _check_file(path, name)
    if rate is not None or numbered:
        options["framerate"] = str(rate or 25)
    # "file:" keeps a colon or a leading dash in the path from being taken for something else, but
    # image2 would look for a "%" in it.
    if not numbered and "%" in path and Path(path).suffix.lower() in _IMAGE_SUFFIXES:
        options["pattern_type"] = "none"
    try:
        container = av.open(
            f"file:{path}", "r", format=format_name, options=options, metadata_errors="replace"
        )
    except (av.FFmpegError, ValueError, OSError) as error:
        raise _refused(name, error) from error
    try:
        opened = _choose(container, name, side_streams=side_streams, threads=threads)
    except BaseException:
        container.close()
        raise
    opened.notices = notices + opened.notices
    opened.files = tuple(map(os.path.realpath, files))
    return opened


_IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".exr", ".ppm", ".pgm", ".jp2"}
)


def _sequence(pattern: str) -> tuple[int, list[str], int | None]:
    """Return a sequence's lowest number, its files, and the first number that is missing in it."""
    place = Path(pattern)
    name = readable_name(pattern)
    if len(_NUMBER.findall(place.name)) != 1 or "%" in str(place.parent):
        raise SourceOpenError(
            f"{name}: a pattern of numbered images has one %d or %05d, in the file's name"
        )
    match = _NUMBER.search(place.name)
    assert match is not None
    width = int(match[1] or 0)
    digits = r"([0-9]+)"
    expected = re.compile(
        re.escape(place.name[: match.start()]) + digits + re.escape(place.name[match.end() :])
    )
    try:
        entries = os.listdir(place.parent)
    except OSError as error:
        raise SourceOpenError(f"{name}: cannot look into the folder: {error.strerror}") from error
    found = [hit[1] for hit in map(expected.fullmatch, entries) if hit]
    # FFmpeg writes a number with exactly as many zeros as the pattern asks for.
    numbers = sorted(int(digits) for digits in found if f"{int(digits):0{width}d}" == digits)
    if not numbers:
        raise SourceOpenError(f"{name}: no image matches this pattern; check the name and digits")
    files: list[str] = []
    for expected_number, number in enumerate(numbers, numbers[0]):
        if number != expected_number:
            return numbers[0], files, expected_number
        file_name = f"{place.name[: match.start()]}{number:0{width}d}{place.name[match.end() :]}"
        files.append(os.path.join(place.parent, file_name))
    return numbers[0], files, None


def _check_file(path: str, name: str) -> None:
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise SourceOpenError(
                f"{name} is a folder; for numbered images give a pattern: {name}/image_%05d.png"
            )
        if not stat.S_ISREG(status.st_mode):
            raise SourceOpenError(f"{name} is not a regular file; copy it to one first")
        with open(path, "rb"):
            pass
    except FileNotFoundError as error:
        raise SourceOpenError(f"{name}: there is no such file; check the path") from error
    except PermissionError as error:
        raise SourceOpenError(f"{name}: no permission to read it; check its mode") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SourceOpenError(f"{name}: cannot be opened: {reason}") from error
    if not status.st_size:
        raise SourceOpenError(f"{name} is empty; was it copied or downloaded completely?")


def _refused(name: str, error: Exception) -> SourceOpenError:
    if isinstance(error, av.InvalidDataError):
        return SourceOpenError(
            f"{name} cannot be read as video: it is another kind of file, or damaged, or was never "
            "finished (an MP4 has its index at the end); does another player open it?"
        )
    if isinstance(error, av.ArgumentError):  # not in format_whitelist
        return SourceOpenError(
            f"{name} is a playlist, a session description or text, not video; give the video file"
        )
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return SourceOpenError(f"{name} cannot be opened: {reason}")


def _choose(container: InputContainer, name: str, *, side_streams: bool, threads: int) -> Opened:
    """Pick the video stream and its companions; everything else is left to the demuxer to skip."""
    covers = [s for s in container.streams.video if s.disposition & Disposition.attached_pic]
    videos = [s for s in container.streams.video if s not in covers]
    playable = [s for s in videos if s.codec_context is not None]
    if not playable:
        if videos:
            raise SourceOpenError(
                f"{name}: there is no decoder for its video; convert it to H.264 first"
            )
        kinds = sorted({stream.type for stream in container.streams if stream not in covers})
        raise SourceOpenError(
            f"{name} has no video, only {' and '.join(kinds) or 'nothing'}; give a file with video"
        )
    best = container.streams.best("video")
    video = next((stream for stream in playable if stream is best), playable[0])
    _check_size(name, video.codec_context.width, video.codec_context.height)

    notices = []
    others = [stream for stream in videos if stream is not video]
    if others:
        which = ", ".join(f"#{stream.index}" for stream in others)
        notices.append(f"only video stream #{video.index} is used, not {which}")
    if covers:
        notices.append("the cover picture is not carried over")
    sides = []
    for stream in container.streams:
        wanted = side_streams and stream.type in ("audio", "subtitle", "data", "attachment")
        # MP4 keeps its chapters in a hidden text track as well; they travel as chapters.
        if stream.type == "data" and stream.name == _CHAPTER_TRACK:
            wanted = False
        if wanted:
            sides.append(stream)
        elif stream is not video:
            stream.discard = av.stream.Discard.all
    context = video.codec_context
    context.thread_type = "AUTO"
    context.thread_count = threads
    context.options = {"max_pixels": str(MAX_PIXELS)}
    still = container.format.name.endswith("_pipe") or (
        container.format.name == "image2" and (video.duration or 1) <= 1
    )
    return Opened(container, video, sides, still=still, notices=notices)


def _check_size(name: str, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise SourceOpenError(
            f"{name}: its pictures are {width}x{height}, more than {MAX_PIXELS} pixels; scale it "
            "down first"
        )
