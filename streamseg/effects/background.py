"""Backgrounds of ``replace``: one colour, a picture, or a video that starts over at its end.

A video is decoded as it is needed and opened anew at its end, so memory holds two of its frames
whatever its length. It runs by the pipeline's time at its own speed: if frames of the pipeline are
dropped, it skips as much; if the pipeline jumps by more than can be decoded at once, or back, it
goes on from where it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

import av
import av.error

from streamseg.effects.colours import COLOUR_NAMES, parse_colour, yuv_samples
from streamseg.effects.fitting import Fitter
from streamseg.effects.graph import Port
from streamseg.effects.options import nearest
from streamseg.effects.planes import bit_depth, fill, new_picture
from streamseg.errors import ConfigError, EffectError
from streamseg.frames import Colour

if TYPE_CHECKING:
    from collections.abc import Iterator

    from av.container import InputContainer

__all__ = ["Background", "open_background"]

_MAX_PIXELS = 50_000_000
_MAX_DECODED_AT_ONCE = 120
_SLACK_S = 1e-4  # times are floats, and containers round to a millisecond
# What makes FFmpeg open, or wait for, something else than the file; and text, shown as a terminal.
_REFUSED_FORMATS = frozenset(
    {"concat", "dash", "hls", "imf", "mpjpeg", "rtp", "rtsp", "sap", "sdp", "tedcaptions"}
    | {"adf", "bin", "idf", "tty", "xbin"}
)


class Background(ABC):
    """What stands behind the subject."""

    @abstractmethod
    def picture(self, like: av.VideoFrame, time_s: float) -> av.VideoFrame:
        """Return the background in the size, format and colour of a picture.

        Args:
            like: Planar YUV in its working format.
            time_s: Presentation time of that picture, in seconds.

        Returns:
            A picture that stays valid until the next call; it may be the one of the last call.

        Raises:
            EffectError: If it cannot be decoded or converted any more.
        """

    @abstractmethod
    def close(self) -> None:
        """Release files, graphs and pictures; ``picture`` opens them again."""


def open_background(value: str, fit: str) -> Background:
    """Return the background for a colour, or for the path of a picture or a video.

    Args:
        value: Colour name, ``#rrggbb``, or path.
        fit: ``cover`` (fills the frame, cut at the sides) or ``contain`` (whole, on black).

    Raises:
        ConfigError: If it is no colour and no readable picture or video, or has more than 50
            million pixels.
    """
    if value.startswith("#") or value.strip().lower() in COLOUR_NAMES:
        return _Colour(parse_colour(value))
    if not Path(value).is_file():
        hint = nearest(value, tuple(COLOUR_NAMES))
        raise ConfigError(f"background {value!r} is neither a file that exists nor a colour{hint}")
    media = _Media(value)
    try:
        first, second = media.next(), media.next()
        if first is None:
            raise ConfigError(f"background {value!r} has no picture that can be decoded")
    finally:
        media.close()
    return _Still(first, fit) if second is None else _Loop(value, fit)


class _Colour(Background):
    def __init__(self, rgb: tuple[int, int, int]) -> None:
        self._rgb = rgb
        self._port: Port | None = None
        self._picture: av.VideoFrame | None = None

    def picture(self, like: av.VideoFrame, time_s: float) -> av.VideoFrame:
        port = Port.of(like)
        if self._picture is None or port != self._port:
            colour = Colour.of(like).resolved(like.height, like.format.name)
            self._picture, self._port = new_picture(like), port
            fill(self._picture, yuv_samples(self._rgb, colour, bit_depth(like)))
        return self._picture

    def close(self) -> None:
        self._picture = self._port = None


class _Still(Background):
    def __init__(self, source: av.VideoFrame, fit: str) -> None:
        self._source = source
        self._fitter = Fitter(fit, scaler="bicubic+accurate_rnd")

    def picture(self, like: av.VideoFrame, time_s: float) -> av.VideoFrame:
        return self._fitter.fit(self._source, like)

    def close(self) -> None:
        self._fitter.close()


class _Loop(Background):
    def __init__(self, path: str, fit: str) -> None:
        self._media = _Media(path)
        self._fitter = Fitter(fit, scaler="bilinear")  # half the time of bicubic
        self._now: av.VideoFrame | None = None
        self._next: av.VideoFrame | None = None
        self._next_s = 0.0  # when _next begins, on the background's own endless timeline
        self._origin_s = 0.0  # the pipeline's time at 0 of that timeline
        self._last_s = 0.0

    def picture(self, like: av.VideoFrame, time_s: float) -> av.VideoFrame:
        if self._now is None:
            self._now, self._next = self._media.next(again=True), self._media.next(again=True)
            self._next_s, self._origin_s = self._media.start_s, time_s
        elif time_s < self._last_s:
            self._origin_s += time_s - self._last_s
        decoded = 0
        while time_s - self._origin_s >= self._next_s - _SLACK_S:
            if decoded == _MAX_DECODED_AT_ONCE:
                self._origin_s = time_s - self._next_s
            self._now, self._next = self._next, self._media.next(again=True)
            self._next_s = self._media.start_s
            decoded += 1
        self._last_s = time_s
        assert self._now is not None
        return self._fitter.fit(self._now, like)

    def close(self) -> None:
        self._media.close()
        self._fitter.close()
        self._now = self._next = None


def _open(path: str) -> InputContainer:
    """Open a local file and nothing else, whatever its name and content say."""
    options = {
        "format_whitelist": ",".join(sorted(av.format.formats_available - _REFUSED_FORMATS)),
        "protocol_whitelist": "file",
        "max_pixels": str(_MAX_PIXELS),
        "pattern_type": "none",  # a "%" in a picture's name is a "%"
    }
    return av.open(f"file:{path}", options=options, metadata_errors="replace")


class _Media:
    """Decodes the first video stream of a file, frame by frame, over and over."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._container: InputContainer | None = None
        self._frames: Iterator[av.VideoFrame] | None = None
        self._step_s = 1 / 25
        self._first_s: float | None = None
        self._loop_s = 0.0
        self._end_s = 0.0
        self.start_s = 0.0
        """When the newest frame begins, in seconds since the first frame of the first round."""

    def next(self, *, again: bool = False) -> av.VideoFrame | None:
        """Return the next frame, None at the end; with ``again`` the first frame follows the last.

        Raises:
            ConfigError: If the file cannot be opened as a picture or a video.
            EffectError: If ``again`` finds nothing to decode.
        """
        for _ in range(2):
            if self._frames is None:
                self._open()
            assert self._frames is not None
            try:
                frame = next(self._frames, None)
            except av.error.FFmpegError:
                frame = None  # damage at the end of a file is an end as well
            if frame is not None:
                self._stamp(frame)
                return frame
            self._release()
            if not again:
                return None
            self._loop_s, self._first_s = self._end_s, None
        raise EffectError(f"background {self._path!r} cannot be decoded any more")

    def close(self) -> None:
        """Close the file; the next frame is then the first one, at time 0."""
        self._release()
        self._first_s = None
        self._loop_s = self._end_s = self.start_s = 0.0

    def _stamp(self, frame: av.VideoFrame) -> None:
        base = float(frame.time_base) if frame.time_base is not None else 0.0
        at = None if frame.pts is None else frame.pts * base
        if self._first_s is None:
            self._first_s = at or 0.0
            self.start_s = self._loop_s
        elif at is not None and self._loop_s + at - self._first_s > self.start_s:
            self.start_s = self._loop_s + at - self._first_s
        else:
            self.start_s += self._step_s
        lasts = frame.duration * base if frame.duration else 0.0
        self._end_s = self.start_s + (lasts if 0.0 < lasts < 60.0 else self._step_s)

    def _open(self) -> None:
        try:
            self._container = _open(self._path)
            stream = next(iter(self._container.streams.video), None)
            if stream is None:
                raise ConfigError(f"background {self._path!r} has no picture in it")
            pixels = stream.codec_context.width * stream.codec_context.height
            if pixels > _MAX_PIXELS:
                raise ConfigError(
                    f"background {self._path!r} has {pixels} pixels, at most {_MAX_PIXELS} are taken"
                )
            rate = stream.average_rate or stream.guessed_rate
            self._step_s = 1 / float(rate) if rate else 1 / 25
            stream.thread_type = "NONE"
            stream.codec_context.options = {"max_pixels": str(_MAX_PIXELS)}
            self._frames = self._container.decode(stream)
        except av.error.ArgumentError as exc:  # not in format_whitelist
            self._release()
            raise ConfigError(
                f"background {self._path!r} is a playlist, a session description or text, "
                "no picture or video"
            ) from exc
        except (av.error.FFmpegError, OSError, ValueError) as exc:
            self._release()
            reason = getattr(exc, "strerror", None) or exc
            raise ConfigError(f"background {self._path!r} cannot be read: {reason}") from exc
        except ConfigError:
            self._release()
            raise

    def _release(self) -> None:
        self._frames = None
        if self._container is not None:
            self._container.close()
            self._container = None
