"""Which files are pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from streamseg.picture_files import MAX_PIXELS, decode, picture_suffixes


@pytest.mark.parametrize(
    "suffix",
    [
        ".png .jpg .jpeg .jfif .webp .gif .bmp .tif .tiff",
        ".ppm .pgm .pbm .pnm",
        ".avif .jp2 .j2k .jpx",
    ],
)
def test_what_is_read_is_found_in_folders(tmp_path: Path, suffix: str) -> None:
    for each in suffix.split():
        assert each in picture_suffixes()
        path = tmp_path / f"a{each}"
        Image.new("1" if each == ".pbm" else "RGB", (16, 16), 1).save(path)
        assert decode(path.read_bytes(), "it", MAX_PIXELS).shape == (16, 16, 3)


def test_what_is_not_read_is_not_found() -> None:
    # Pillow knows them, but here they are refused: other programs, floats, no pictures.
    for suffix in (".eps", ".pfm", ".pdf", ".tga", ".ico", ".mpg", ".txt", ""):
        assert suffix not in picture_suffixes()
