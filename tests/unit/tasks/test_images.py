"""Every kind of picture, and everything that is none."""

from __future__ import annotations

import base64
import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image, ImageOps

from streamseg.errors import FileReadFailedError, InvalidUserInputError
from streamseg.tasks.images import load_image

pytestmark = pytest.mark.anyio

SIZE = (6, 8)
RED, GREEN = (200, 30, 40), (20, 180, 60)


def picture() -> Image.Image:
    """Red above green, so that a turn shows."""
    pixels = np.empty((*SIZE, 3), np.uint8)
    pixels[: SIZE[0] // 2], pixels[SIZE[0] // 2 :] = RED, GREEN
    return Image.fromarray(pixels)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def a_header_that_promises(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(name + body))
        return struct.pack(">I", len(body)) + name + body + crc

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows)


EXACT = {
    "png": encoded(picture()),
    "bmp": encoded(picture(), "BMP"),
    "ppm": encoded(picture(), "PPM"),
    "tiff": encoded(picture(), "TIFF"),
    "webp": encoded(picture(), "WEBP", lossless=True),
    "gif": encoded(picture(), "GIF"),
    "palette": encoded(picture().quantize(4)),
    "palette with alpha": encoded(picture().quantize(4), transparency=bytes([0, 128, 255, 255])),
    "RGBA": encoded(picture().convert("RGBA")),
    "animated": encoded(picture(), "GIF", save_all=True, append_images=[ImageOps.flip(picture())]),
    "several pages": encoded(
        picture(), "TIFF", save_all=True, append_images=[ImageOps.flip(picture())]
    ),
}


@pytest.mark.parametrize("kind", EXACT)
async def test_a_file_of_any_kind_is_rgb(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "picture"
    path.write_bytes(EXACT[kind])

    loaded = await load_image(path)

    np.testing.assert_array_equal(loaded.pixels, np.asarray(picture()))
    assert loaded.pixels.dtype == np.uint8
    assert loaded.pixels.flags.c_contiguous
    assert loaded.size == SIZE


@pytest.mark.parametrize("kind", ["JPEG", "JPEG of CMYK", "AVIF"])
async def test_lossy_files_are_rgb(kind: str) -> None:
    image = picture().convert("CMYK") if "CMYK" in kind else picture()

    loaded = await load_image(encoded(image, kind.split()[0], quality=95))

    for row, colour in ((0, RED), (-1, GREEN)):
        assert loaded.pixels[row].mean(axis=0) == pytest.approx(colour, abs=12)


async def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    path = tmp_path / "turned.png"
    picture().save(path, exif=exif)

    expected = np.rot90(np.asarray(picture()), -1)
    np.testing.assert_array_equal((await load_image(path)).pixels, expected)
    with Image.open(path) as image:
        np.testing.assert_array_equal((await load_image(image)).pixels, expected)


async def test_sixteen_bits_keep_their_brightness() -> None:
    grey = np.array([[0, 0x7FFF, 0xFFFF]], np.uint16)

    loaded = await load_image(encoded(Image.fromarray(grey)))

    assert loaded.pixels[0].tolist() == [[0] * 3, [127] * 3, [255] * 3]


@pytest.mark.parametrize("form", ["path", "Path", "file", "data", "base64", "lines", "bytes"])
async def test_every_source_gives_the_same_picture(tmp_path: Path, form: str) -> None:
    path = tmp_path / "a pïcture #1.png"
    path.write_bytes(encoded(picture()))
    text = base64.b64encode(path.read_bytes()).decode()
    lines = "\n".join(text[at : at + 76] for at in range(0, len(text), 76))
    sources = {
        "path": str(path),
        "Path": path,
        "file": path.as_uri(),
        "data": f"data:image/png;base64,{text}",
        "base64": text.rstrip("="),
        "lines": lines,
        "bytes": path.read_bytes(),
    }

    loaded = await load_image(sources[form])

    np.testing.assert_array_equal(loaded.pixels, np.asarray(picture()))


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "RGB", "CMYK", "1", "YCbCr", "PA"])
async def test_pillow_images_of_any_mode(mode: str) -> None:
    image = picture().quantize(4).convert(mode) if mode == "PA" else picture().convert(mode)

    loaded = await load_image(image)

    np.testing.assert_array_equal(loaded.pixels, np.asarray(image.convert("RGB")))


async def test_arrays() -> None:
    rgb = np.asarray(picture())
    grey = rgb[:, :, 0]

    assert (await load_image(rgb)).pixels is rgb  # not copied
    for source, expected in (
        (rgb[:, ::-1], rgb[:, ::-1]),
        (np.dstack([rgb, grey]), rgb),
        (grey, np.dstack([grey] * 3)),
        (grey[:, :, None], np.dstack([grey] * 3)),
    ):
        loaded = await load_image(source)
        np.testing.assert_array_equal(loaded.pixels, expected)
        assert loaded.pixels.flags.c_contiguous


@pytest.mark.parametrize(("space", "full"), [(1, False), (1, True), (5, False)])
async def test_frames_are_converted_with_their_own_colours(space: int, full: bool) -> None:
    """The colour comes back only with the matrix and the range that it was made with."""
    shown = np.full((32, 48, 3), (200, 60, 40), np.uint8)
    weights = (0.2126, 0.0722) if space == 1 else (0.299, 0.114)
    red, green, blue = (float(value) / 255 for value in shown[0, 0])
    luma = weights[0] * red + (1 - sum(weights)) * green + weights[1] * blue
    chroma = ((blue - luma) / (2 - 2 * weights[1]), (red - luma) / (2 - 2 * weights[0]))
    samples = [255 * luma if full else 16 + 219 * luma]
    samples += [128 + (255 if full else 224) * value for value in chroma]
    video = av.VideoFrame(48, 32, "yuv444p")
    for plane, sample in zip(video.planes, samples, strict=True):
        plane.update(bytes([round(sample)]) * (plane.line_size * plane.height))
    video.colorspace, video.color_range = space, 2 if full else 1

    loaded = await load_image(video)

    assert loaded.size == (32, 48)
    np.testing.assert_allclose(loaded.pixels, shown, atol=3)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", "is empty"),
        (b"no picture at all, but some text", "is no picture that can be read"),
        (encoded(picture())[:60], "the picture is damaged"),
        (encoded(picture(), "JPEG")[:400], "is damaged|is no picture"),
        ("", "path is empty"),
        ("there/is/no/such/file.jpg", "no such file"),
        ("data:image/png;base64", "no comma"),
        ("data:image/png;base64,???", "not valid base64"),
        ("data:text/plain,hello", "is no picture that can be read"),
        ("ftp://example.org/a.png", "ftp:// cannot be read"),
        ("file://elsewhere/a.png", "on another computer"),
        ("file:///there/is/none.png", "no such file"),
        (base64.b64encode(bytes(range(64))).decode(), "is no picture that can be read"),
        ("a\0b", "no such file"),
        ("x" * 5000 + "!", "no such file"),
        ("/dev/zero", "no regular file"),
        (".", "no regular file"),
    ],
)
async def test_what_cannot_be_read(source: Any, message: str) -> None:
    with pytest.raises(FileReadFailedError, match=message) as caught:
        await load_image(source)
    assert caught.value.code == 114
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "NoneType is no picture"),
        (3, "int is no picture"),
        ([1, 2], "list is no picture"),
        (np.zeros((0, 5, 3), np.uint8), "has no pixels, its size is 5x0"),
        (np.zeros((5, 5, 3), np.float32), r"\[5, 5, 3\] float32 is no picture"),
        (np.zeros((5, 5, 2), np.uint8), r"\[5, 5, 2\] uint8 is no picture"),
        (np.zeros((1, 5, 5, 3), np.uint8), r"\[1, 5, 5, 3\] uint8 is no picture"),
        (np.broadcast_to(np.uint8(0), (9000, 9000, 3)), "9000x9000 pixels, expected at most"),
        (np.broadcast_to(np.uint8(0), (1, 40000, 3)), "40000x1 pixels, expected .* a side"),
        (Image.new("F", (4, 4)), "32 bits"),
        (Image.new("RGB", (0, 4)), "has no pixels"),
        (a_header_that_promises(9000, 9000), "9000x9000 pixels, expected at most 64000000"),
        (a_header_that_promises(12_000, 8_000), "too large"),
        (a_header_that_promises(60_000, 60_000), "too large"),
    ],
)
async def test_what_is_no_picture_for_a_model(source: Any, message: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InvalidUserInputError, match=message) as caught:
            await load_image(source)
    assert caught.value.code == 117
    assert "\n" not in str(caught.value)


async def test_the_limit_of_pixels_can_be_chosen() -> None:
    assert (await load_image(encoded(picture()), max_pixels=48)).size == SIZE
    with pytest.raises(InvalidUserInputError, match="8x6 pixels, expected at most 47"):
        await load_image(encoded(picture()), max_pixels=47)


async def test_a_truncated_pillow_image_is_a_damaged_picture() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    with Image.open(io.BytesIO(encoded(Image.fromarray(noise), "JPEG")[:2000])) as image:
        with pytest.raises(FileReadFailedError, match=r"damaged: .*truncated"):
            await load_image(image)


async def test_a_broken_exif_is_no_reason_to_refuse_or_to_warn() -> None:
    exif = Image.Exif()
    exif[0x0112] = 1
    data = bytearray(encoded(picture(), "JPEG", exif=exif, quality=95))
    at = data.index(b"Exif\0\0") + 6
    data[at + 8 : at + 10] = b"\xff\xff"  # so many entries that there are not

    assert (await load_image(bytes(data))).size == SIZE
