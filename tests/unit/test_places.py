from __future__ import annotations

import pytest

from streamseg.config import LiveSourceConfig, SinkConfig
from streamseg.errors import ConfigError
from streamseg.session.places import make_sink, make_source


@pytest.mark.parametrize(
    ("uri", "kind"),
    [
        ("camera:0", "CameraSource"),
        ("camera:", "CameraSource"),
        ("/dev/video2", "CameraSource"),
        ("screen:", "ScreenSource"),
        ("screen::1.0+10,20,640x360", "ScreenSource"),
        ("test:", "TestSource"),
        ("test:640x360@25", "TestSource"),
        ("pipe:", "StreamSource"),
        ("rtsp://user:secret@host/stream", "StreamSource"),
        ("http://127.0.0.1:8080/live.m3u8", "StreamSource"),
        ("whep:https://host/whep", "WhepSource"),
        ("clip.mp4", "PacedSource"),
        ("C:/clips/clip.mp4", "PacedSource"),
    ],
)
def test_sources_are_told_apart_by_their_uri(uri: str, kind: str) -> None:
    source = make_source(LiveSourceConfig(uri=uri))
    assert type(source).__name__ == kind
    assert "secret" not in repr(source)


@pytest.mark.parametrize(
    ("uri", "kind"),
    [
        ("display", "DisplaySink"),
        ("null", "NullSink"),
        ("virtual-camera", "VirtualCameraSink"),
        ("virtual-camera:/dev/video9", "VirtualCameraSink"),
        ("mjpeg://127.0.0.1:8090", "MjpegSink"),
        ("rtmp://host/app/key", "StreamSink"),
        ("srt://host:9000", "StreamSink"),
        ("whip+https://host/whip", "WhipSink"),
        ("whip:https://host/whip", "WhipSink"),
        ("record.mp4", "RecordingSink"),
        ("./null", "RecordingSink"),
    ],
)
def test_sinks_are_told_apart_by_their_uri(uri: str, kind: str) -> None:
    assert type(make_sink(SinkConfig(uri=uri))).__name__ == kind


@pytest.mark.parametrize("uri", ["test:big", "test:640@x", "screen::0+1,2"])
def test_what_cannot_be_meant_is_an_error(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"expected (test|screen):"):
        make_source(LiveSourceConfig(uri=uri))
