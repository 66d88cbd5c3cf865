from __future__ import annotations

from pathlib import Path

import pytest

from streamseg.errors import SinkOpenError
from streamseg.sinks.container import EXTENSIONS, can_hold, canonical_codec, container_for


@pytest.mark.parametrize("name", ["a.mp4", "a.MP4", "b/c.d.mkv", Path("x.webm")])
def test_extension_chooses_the_container(name: str) -> None:
    assert container_for(name).format in {"mp4", "matroska", "webm"}


@pytest.mark.parametrize("name", ["a", "a.txt", ".mp4", "a."])
def test_other_names_are_refused_with_what_works(name: str) -> None:
    with pytest.raises(SinkOpenError, match=r"these work: \.mp4"):
        container_for(name)


def test_defaults_fit_their_containers() -> None:
    for extension, container in EXTENSIONS.items():
        names = [container.encoder, container.audio, container.subtitles]
        names.append(container.alpha[0] if container.alpha else None)
        for name in names:
            assert name is None or can_hold(container, name), (extension, name)


@pytest.mark.parametrize(
    ("extension", "codec", "fits"),
    [
        ("mp4", "libx264", True), ("mp4", "libvpx", False), ("mp4", "opus", True),
        ("mp4", "subrip", False), ("webm", "aac", False), ("webm", "libopus", True),
        ("webm", "libx264", False), ("mov", "libopus", False), ("mov", "prores_ks", True),
        ("mkv", "flac", True), ("ts", "libx264", True), ("ts", "flac", False),
        ("avi", "libx265", False), ("avi", "mp3float", True), ("mkv", "mp3float", True),
        ("gif", "aac", False), ("mkv", "mov_text", False),
    ],
)  # fmt: skip
def test_what_fits_where(extension: str, codec: str, fits: bool) -> None:
    assert can_hold(EXTENSIONS[extension], codec) is fits


def test_canonical_names() -> None:
    assert canonical_codec("libx264") == "h264"
    assert canonical_codec("mp3float") == "mp3"
    assert canonical_codec("no such codec") == "no such codec"
