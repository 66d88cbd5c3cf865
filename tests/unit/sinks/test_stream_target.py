"""What a stream's URL means, how it is shown, and how the pictures before it wait."""

from __future__ import annotations

import pytest

from streamseg.errors import ConfigError, SinkOpenError
from streamseg.sinks import stream_target
from streamseg.sinks.stream import StreamSink
from streamseg.sinks.stream_target import SCHEMES, parse_bitrate, shown_url, target_for


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtmp://host/live/hunter2", "rtmp://host/live/***"),
        ("rtmp://host/live/hunter2/", "rtmp://host/live/***"),
        ("rtmps://me:hunter2@host:443/a/b/hunter2?x=1", "rtmps://***@host:443/a/b/***"),
        ("RTMP://host/hunter2", "RTMP://host/***"),
        ("rtmp://host/app playpath=hunter2", "rtmp://host/***"),
        ("rtmp://host", "rtmp://host"),
        ("rtsp://me:hunter2@host/cam", "rtsp://***@host/cam"),
        ("srt://host:9?passphrase=hunter2", "srt://host:9?passphrase=***"),
        ("https://host/in?token=hunter2&x=1", "https://host/in?token=***&x=1"),
        ("udp://239.0.0.1:1234", "udp://239.0.0.1:1234"),
    ],
)
def test_credentials_and_stream_keys_are_never_shown(url: str, shown: str) -> None:
    assert shown_url(url) == shown
    sink = StreamSink(url)
    assert "hunter2" not in repr(sink)
    assert shown in repr(sink)


@pytest.mark.parametrize(
    ("url", "ffmpeg_url", "container"),
    [
        ("rtmp://h/a/b", "rtmp://h/a/b", "flv"),
        ("rtsp://h/a", "rtsp://h/a", "rtsp"),
        ("udp://h:1", "udp://h:1?pkt_size=1316", "mpegts"),
        ("udp://h:1?ttl=3", "udp://h:1?ttl=3&pkt_size=1316", "mpegts"),
        ("udp://h:1?pkt_size=188", "udp://h:1?pkt_size=188", "mpegts"),
        ("tcp://h:1", "tcp://h:1", "mpegts"),
        ("RTMP://h/a/b", "RTMP://h/a/b", "flv"),
    ],
)
def test_scheme_says_what_is_sent(url: str, ffmpeg_url: str, container: str) -> None:
    target = target_for(url)
    assert (target.url, target.container.format, target.relay) == (ffmpeg_url, container, None)
    assert target.host == "h"
    assert "h/a/b" not in repr(target) or "/***" in repr(target)


def test_options_of_the_user_win() -> None:
    assert target_for("rtsp://h/a").options["rtsp_transport"] == "tcp"
    assert target_for("rtsp://h/a", {"rtsp_transport": "udp"}).options["rtsp_transport"] == "udp"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("gopher://h/x", "unsupported scheme; these work: rtmp://"),
        ("out", "unsupported scheme"),
        ("rtmp:///live/x", "has no host"),
        ("tcp://h:99999", "address is not valid"),
        ("tcp://[::1", "address is not valid"),
    ],
)
def test_wrong_address_is_one_line(url: str, words: str) -> None:
    with pytest.raises(SinkOpenError, match=words) as caught:
        target_for(url)
    assert "\n" not in str(caught.value)


def test_srt_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_target, "_ffmpeg_with_srt", lambda: None)
    with pytest.raises(SinkOpenError, match="no ffmpeg with SRT was found; install ffmpeg"):
        target_for("srt://h:1?passphrase=hunter2")
    monkeypatch.setattr(stream_target, "_ffmpeg_with_srt", lambda: "/bin/ffmpeg")
    assert target_for("srt://h:1").relay == "/bin/ffmpeg"
    assert "srt://" in SCHEMES


@pytest.mark.parametrize(
    ("text", "bits"),
    [(2_500_000, 2_500_000), ("2500k", 2_500_000), ("2.5M", 2_500_000), (" 800K ", 800_000)],
)
def test_bitrate(text: int | str, bits: int) -> None:
    assert parse_bitrate(text) == bits


@pytest.mark.parametrize("text", ["", "fast", "-1M", 0, 5, "2G", "1e9"])
def test_wrong_bitrate(text: int | str) -> None:
    with pytest.raises(ConfigError, match="bitrate is"):
        parse_bitrate(text)


@pytest.mark.parametrize("name", ["connect_timeout_s", "reconnect_window_s"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_times_out_of_range(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        StreamSink("tcp://h:1", **{name: value})  # type: ignore[arg-type]
