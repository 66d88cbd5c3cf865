"""Sources and sinks of live streams by their URI.

    camera:0  camera:/dev/video2  /dev/video2  screen:  screen::1.0+10,20,640x360
    test:  test:640x360@25  pipe:  rtsp://...  rtmp://...  http(s)://...  udp://...  clip.mp4
    whep:https://...

    display  virtual-camera  virtual-camera:/dev/video9  mjpeg://127.0.0.1:8090  null
    rtmp://...  rtsp://...  srt://...  udp://...  whip:https://...  record.mp4

Each kind is imported when it is asked for: a preview does not load what a recording needs.
"""

from __future__ import annotations

import difflib
import os
import re
from functools import partial
from typing import TYPE_CHECKING

from streamseg.errors import ConfigError
from streamseg.redact import redact

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streamseg.abc import Sink, Source
    from streamseg.commands import Command
    from streamseg.config import LiveConfig, LiveSourceConfig, SinkConfig

__all__ = ["TOKEN_VARIABLE", "check_targets", "make_sink", "make_source"]

TOKEN_VARIABLE = "STREAMSEG_TOKEN"
"""Environment variable with the bearer token for WHIP and WHEP."""

_TEST = re.compile(r"(?:(?P<width>\d+)x(?P<height>\d+))?(?:@(?P<fps>\d+(?:\.\d+)?))?")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_NAMED_SINKS = ("display", "virtual-camera", "null")
_DEVICE = re.compile(r"/dev/video\d+")


def make_source(config: LiveSourceConfig) -> Source:
    """Return the source that a configuration names, not yet open.

    Raises:
        ConfigError: If the URI is none of those above, or an option does not fit.
    """
    uri = config.uri
    kind, _, rest = uri.partition(":")
    if kind == "camera" or _DEVICE.fullmatch(uri):
        return _camera(config, uri if _DEVICE.fullmatch(uri) else rest)
    if kind == "screen":
        return _screen(config)
    if kind == "test":
        return _test(config, rest)
    if kind == "whep" or kind.startswith("whep+"):
        from streamseg.sources.reconnect import Backoff, Reconnect
        from streamseg.webrtc.client import WhepSource

        plan = Reconnect(give_up_after_s=config.give_up_after_s)
        return WhepSource(
            uri,
            token=os.environ.get(TOKEN_VARIABLE),
            retry=partial(Backoff, plan) if config.reconnect else None,
        )
    if kind == "pipe" or _URL.match(uri):
        from streamseg.sources.reconnect import Reconnect
        from streamseg.sources.stream import StreamSource

        return StreamSource(
            uri,
            options=config.options,
            open_timeout_s=config.open_timeout_s,
            read_timeout_s=config.read_timeout_s,
            reconnect=Reconnect(give_up_after_s=config.give_up_after_s)
            if config.reconnect
            else None,
        )
    from streamseg.sources.paced import PacedSource

    return PacedSource(uri, loop=config.loop)


def check_targets(config: LiveConfig) -> None:
    """Refuse to write two things to one place, or statistics over what is read.

    Raises:
        ConfigError: If that is what the configuration says.
    """
    places: dict[str, str] = {}
    for sink in config.sink:
        if sink.uri in ("null", "display"):  # as many as one likes
            continue
        kind = sink.uri.partition(":")[0]
        is_file = kind != "virtual-camera" and not _URL.match(sink.uri)
        place = os.path.realpath(sink.uri) if is_file else f"{sink.uri} {sink.device}"
        if place in places:
            shown = redact(sink.uri)
            raise ConfigError(f"two sinks write to {shown}: leave one out, or change its name")
        places[place] = "a sink's file"
    read = {
        config.source.uri: "the source",
        config.model.name: "the model",
        str(config.effect.options.get("background")): "the background",
    }
    places |= {os.path.realpath(path): what for path, what in read.items()}
    stats = config.telemetry.stats
    if stats not in (None, "-") and (what := places.get(os.path.realpath(str(stats)))):
        raise ConfigError(f"telemetry.stats is {stats!r}, which is {what}: choose another name")


def make_sink(
    config: SinkConfig,
    *,
    on_command: Callable[[Command], None] | None = None,
    overlay: Callable[[], str] | None = None,
    protected: Sequence[str] = (),
) -> Sink:
    """Return the sink that a configuration names, not yet open.

    Args:
        config: What it is.
        on_command: For a window: called with what the user asks for by a key.
        overlay: For a window: returns what to write over the picture.
        protected: For a recording: files that it may not replace.

    Raises:
        ConfigError: If an option does not fit.
    """
    uri = config.uri
    kind, _, rest = uri.partition(":")
    if uri == "display":
        from streamseg.sinks.display import DisplaySink

        return DisplaySink(on_command=on_command, overlay=overlay)
    if uri == "null":
        from streamseg.sinks.null import NullSink

        return NullSink()
    if kind == "virtual-camera":
        from streamseg.sinks.virtual_camera import VirtualCameraSink

        return VirtualCameraSink(config.device or rest or None)
    if kind == "mjpeg":
        from streamseg.sinks.mjpeg import MjpegSink

        return MjpegSink(uri) if config.quality is None else MjpegSink(uri, quality=config.quality)
    if kind == "whip" or kind.startswith("whip+"):
        from streamseg.sources.reconnect import Backoff, Reconnect
        from streamseg.webrtc.client import WhipSink

        return WhipSink(
            uri, token=os.environ.get(TOKEN_VARIABLE), retry=partial(Backoff, Reconnect())
        )
    if _URL.match(uri):
        from streamseg.sinks.stream import StreamSink

        return StreamSink(
            uri,
            encoder=config.encoder,
            bitrate=config.bitrate,
            preset=config.preset,
            audio=config.audio,
            options=config.options,
        )
    if "." not in uri and (near := difflib.get_close_matches(uri, _NAMED_SINKS, n=1)):
        raise ConfigError(f"there is no sink {uri!r}: did you mean {near[0]!r}?")
    from streamseg.sinks.recording import RecordingSink

    return RecordingSink(
        uri,
        segment_s=config.segment_s,
        encoder=config.encoder,
        crf=config.crf,
        preset=config.preset,
        audio=config.audio,
        overwrite=config.overwrite,
        protected=protected,
    )


def _camera(config: LiveSourceConfig, rest: str) -> Source:
    from streamseg.sources.camera import CameraSource
    from streamseg.sources.reconnect import Reconnect

    if not rest:
        rest = "0"
    return CameraSource(
        int(rest) if rest.isdecimal() else rest,
        width=config.width,
        height=config.height,
        fps=config.fps,
        mirror=config.mirror,
        reconnect=Reconnect(give_up_after_s=config.give_up_after_s) if config.reconnect else None,
    )


def _screen(config: LiveSourceConfig) -> Source:
    from streamseg.sources.screen import ScreenSource

    return ScreenSource.parse(config.uri, fps=config.fps or 30.0)


def _test(config: LiveSourceConfig, rest: str) -> Source:
    from streamseg.sources.synthetic import TestSource

    match = _TEST.fullmatch(rest)
    if match is None:
        raise ConfigError(f"source is {config.uri!r}: expected test: or test:WIDTHxHEIGHT@FPS")
    return TestSource(
        int(match["width"] or config.width or 1280),
        int(match["height"] or config.height or 720),
        float(match["fps"] or config.fps or 30.0),
    )
