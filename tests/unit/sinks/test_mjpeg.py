from __future__ import annotations

import pytest

from streamseg.errors import ConfigError
from streamseg.sinks.mjpeg import MjpegSink


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("mjpeg://127.0.0.1:8090", "http://127.0.0.1:8090/"),
        ("mjpeg://localhost:81/", "http://localhost:81/"),
        ("mjpeg://[::1]:8090", "http://[::1]:8090/"),
        ("mjpeg://0.0.0.0", "http://0.0.0.0:8090/"),
        ("mjpeg://:9000", "http://127.0.0.1:9000/"),
        ("mjpeg://", "http://127.0.0.1:8090/"),
    ],
)
def test_addresses(url: str, shown: str) -> None:
    assert MjpegSink(url).url == shown


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:80",
        "mjpeg:127.0.0.1",
        "mjpeg://127.0.0.1:99999",
        "mjpeg://host:port",
        "mjpeg://127.0.0.1:80/path",
        "mjpeg://user:secret@127.0.0.1:80",
        "mjpeg://127.0.0.1:80?token=secret",
        "mjpeg://[::1",
    ],
)
def test_other_addresses_are_refused_without_telling_secrets(url: str) -> None:
    with pytest.raises(ConfigError, match=r"expected mjpeg://HOST:PORT") as caught:
        MjpegSink(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("wrong", [{"quality": 0}, {"quality": 101}, {"max_clients": 0}])
def test_wrong_numbers_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        MjpegSink(**wrong)  # type: ignore[arg-type]
