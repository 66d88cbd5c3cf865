from __future__ import annotations

import pytest

from streamseg.redact import redact, redacted_url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("rtsp://camera.local:554/main", "rtsp://camera.local:554/main"),
        ("rtsp://alice:s3cret@camera.local/main", "rtsp://***@camera.local/main"),
        ("rtsp://alice@camera.local/main", "rtsp://***@camera.local/main"),
        ("rtsp://alice:s3:cr/et@camera.local/main", "rtsp://***@camera.local/main"),
        ("rtsp://alice:s3#cret@camera.local/main", "rtsp://***@camera.local/main"),
        ("http://[::1]:80/a@b", "http://[::1]:80/a@b"),
        ("http://host:80/a@b?c=d@e", "http://host:80/a@b?c=d@e"),
        ("http://host/x?token=t0ken&size=2", "http://host/x?token=***&size=2"),
        ("http://host/x?a=1&Access_Token=t0ken", "http://host/x?a=1&Access_Token=***"),
        ("https://host/x?X-Amz-Signature=ab%2Fcd#t", "https://host/x?X-Amz-Signature=***#t"),
        ("https://host/x?api%5Fkey=abc", "https://host/x?api%5Fkey=***"),
        ("https://host/x?%74oken=abc", "https://host/x?%74oken=***"),
        ("srt://host:9000?passphrase=abcdefghij&mode=caller", "srt://host:9000?passphrase=***&mode=caller"),
        ("rtmp://live.example/app/stream-key", "rtmp://live.example/app/***"),
        ("RTMPS://u:p@live.example:443/app/x/key?a=1", "RTMPS://***@live.example:443/app/x/***?a=1"),
        ("rtmp://live.example/app", "rtmp://live.example/app"),
        ("rtmp://live.example/app/", "rtmp://live.example/app/"),
        ("srt://host:9000?streamid=publish:a:user:word", "srt://host:9000?streamid=***"),
        ("rtsp://cam/user=admin_password=word_channel=1", "rtsp://cam/user=admin_password=***"),
        ("rtsp://cam/user=admin&password=word&channel=1", "rtsp://cam/user=admin&password=***&channel=1"),
        ("http://host/x?design=1&author=me", "http://host/x?design=1&author=me"),
        ("pipe:", "pipe:"),
        ("no url", "no url"),
    ],
)  # fmt: skip
def test_credentials_are_hidden_and_nothing_else(url: str, expected: str) -> None:
    assert redacted_url(url) == expected


def test_urls_are_found_in_a_text() -> None:
    text = "opening 'rtsp://alice:s3cret@a/b', then http://h/?key=k1 failed (tcp://u:p@h:1)"
    assert redact(text) == "opening 'rtsp://***@a/b', then http://h/?key=*** failed (tcp://***@h:1)"


def test_a_password_with_blanks_or_quotes_is_hidden_in_a_url_alone() -> None:
    assert redacted_url("rtsp://alice:pass word'x@host/a") == "rtsp://***@host/a"
    assert redacted_url("http://host/?password=two words&a=b") == "http://host/?password=***&a=b"


def test_a_url_for_messages_is_one_printable_line() -> None:
    assert redacted_url("http://host/a\nb\x1b[31m") == "http://host/a\ufffdb\ufffd[31m"


def test_it_is_idempotent() -> None:
    once = redact("rtsp://alice:s3cret@a/b?token=x")
    assert redact(once) == once
