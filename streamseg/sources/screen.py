"""ScreenSource: the picture of an X display, or a part of it."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import av.error

from streamseg.errors import ConfigError, SourceOpenError, SourceReadError
from streamseg.ffmpeg_log import quiet_ffmpeg
from streamseg.frames import Colour, StreamInfo
from streamseg.sources.description import rate_of, time_base_of
from streamseg.sources.live import Grabber, LiveSource

if TYPE_CHECKING:
    from av.container import InputContainer

__all__ = ["ScreenSource"]

_STALL_S = 5.0
_SPEC = re.compile(r"([^+]*?)(?:\+(\d+),(\d+),(\d+)x(\d+))?")


class ScreenSource(LiveSource):
    """Grabs an X display with FFmpeg's x11grab. Frames are ``bgr0``; the newest wins.

    Args:
        display: X display and screen, such as ``:0.0``; that of the environment if None.
        region: Left, top, width, height in pixels; the whole screen if None.
        fps: Pictures per second, more than 0, at most 240.

    Raises:
        ConfigError: If a value is out of its range.
    """

    def __init__(
        self,
        display: str | None = None,
        *,
        region: tuple[int, int, int, int] | None = None,
        fps: float = 30.0,
    ) -> None:
        if region is not None and not (min(region[:2]) >= 0 and min(region[2:]) >= 2):
            raise ConfigError(
                f"region is {region}, expected left and top of 0 or more, width and height of 2 or "
                "more"
            )
        if not 0 < fps <= 240:
            raise ConfigError(f"fps is {fps}, expected more than 0, at most 240")
        shown = display or os.environ.get("DISPLAY") or ":0.0"
        rate = Fraction(fps).limit_denominator(1001)
        super().__init__(
            lambda: _ScreenGrabber(shown, region, rate),
            name=f"screen:{shown}",
            reconnect=None,
            stall_s=_STALL_S,
        )

    @staticmethod
    def parse(spec: str, *, fps: float = 30.0) -> ScreenSource:
        """Make one from ``screen:``, ``screen::1.0`` or ``screen::1.0+10,20,640x360``.

        Args:
            spec: Display, then left, top, width and height, both optional.
            fps: Pictures per second.

        Raises:
            ConfigError: If it is not written like that.
        """
        scheme, _, rest = spec.partition(":")
        match = _SPEC.fullmatch(rest)
        if scheme != "screen" or match is None:
            raise ConfigError(
                f"{spec} is no screen; expected screen:, screen::1.0 or screen::1.0+10,20,640x360"
            )
        region = None
        if match[2] is not None:
            region = (int(match[2]), int(match[3]), int(match[4]), int(match[5]))
        return ScreenSource(match[1] or None, region=region, fps=fps)


class _ScreenGrabber(Grabber):
    def __init__(
        self, display: str, region: tuple[int, int, int, int] | None, rate: Fraction
    ) -> None:
        self.name = f"screen:{display}"
        self._display = display
        self._region = region
        self._rate = rate
        self._container: InputContainer | None = None
        self._pictures: Iterator[Any] = iter(())

    def open(self) -> StreamInfo:
        if "x11grab" not in av.format.formats_available:
            raise SourceOpenError(
                f"{self.name}: PyAV's FFmpeg was built without x11grab; on macOS and Windows "
                "stream the screen with ffmpeg to tcp://127.0.0.1 and read that"
            )
        loaded = list(sys.modules)
        if "cv2" in loaded and loaded.index("cv2") < loaded.index("av"):
            # Each brings libraries of X11 of its own; in this order FFmpeg ends the process.
            raise SourceOpenError(
                f"{self.name}: cv2 was imported before av, which x11grab does not survive; "
                "import av or streamseg.sources first"
            )
        quiet_ffmpeg()
        options = {"framerate": str(self._rate)}
        url = self._display
        if self._region is not None:
            left, top, width, height = self._region
            options["video_size"] = f"{width}x{height}"
            url += f"+{left},{top}"
        try:
            container: InputContainer = av.open(url, "r", format="x11grab", options=options)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise SourceOpenError(self._refusal()) from error
        self._container = container
        video = container.streams.video[0]
        self._pictures = container.decode(video)
        context = video.codec_context
        return StreamInfo(
            name=self.name,
            width=context.width,
            height=context.height,
            pixel_format=context.pix_fmt or "bgr0",
            time_base=time_base_of(video),
            average_rate=rate_of(video),
            live=True,
            colour=Colour.of(context),
        )

    def _refusal(self) -> str:
        detail = ""
        if self._region is not None:
            left, top, width, height = self._region
            detail = f", or {width}x{height} at {left},{top} is not inside it"
        return (
            f"{self.name} cannot be grabbed: there is no such X display{detail}; check DISPLAY and "
            "xauth (a Wayland desktop shows X programs only)"
        )

    def grab(self) -> av.VideoFrame | None:
        try:
            video = next(self._pictures, None)
        except (av.FFmpegError, OSError) as error:
            reason = getattr(error, "strerror", None) or error
            raise SourceReadError(f"{self.name}: the display is gone: {reason}") from error
        if video is None:
            raise SourceReadError(f"{self.name}: the display is gone")
        picture: av.VideoFrame = video
        return picture

    def close(self) -> None:
        self._pictures = iter(())
        container, self._container = self._container, None
        if container is not None:
            with contextlib.suppress(av.FFmpegError, OSError):
                container.close()
