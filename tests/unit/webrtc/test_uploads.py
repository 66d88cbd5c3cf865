from __future__ import annotations

import io
import os
import struct
import threading
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import anyio
import av
import numpy as np
import pytest
from PIL import Image

from streamseg.effects.registry import create_effect
from streamseg.webrtc import uploads as uploads_module
from streamseg.webrtc.refusal import Refusal
from streamseg.webrtc.uploads import MAX_UPLOAD_BYTES, Uploads, normalise_picture, sniff

pytestmark = pytest.mark.anyio


def picture(codec: str = "png", width: int = 64, height: int = 48) -> bytes:
    """A real picture: red above, blue below."""
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[: height // 2, :, 0] = 255
    rgb[height // 2 :, :, 2] = 255
    formats = {"png": "rgb24", "mjpeg": "yuvj420p", "libwebp": "yuv420p"}
    frame = av.VideoFrame.from_ndarray(rgb, "rgb24").reformat(format=formats[codec])
    encoder: Any = av.CodecContext.create(codec, "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, formats[codec]
    encoder.time_base = Fraction(1, 25)
    frame.pts = 0
    if codec == "libwebp":
        return webp(b"".join(bytes(p) for p in [*encoder.encode(frame), *encoder.encode(None)]))
    return b"".join(bytes(p) for p in [*encoder.encode(frame), *encoder.encode(None)])


def webp(data: bytes) -> bytes:
    if data[:4] == b"RIFF":
        return data
    chunk = b"VP8 " + struct.pack("<I", len(data)) + data + b"\x00" * (len(data) % 2)
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def decode(data: bytes) -> np.ndarray[Any, Any]:
    context: Any = av.CodecContext.create("png", "r")
    frames = context.decode(av.Packet(data)) + context.decode(None)
    return frames[0].to_ndarray(format="rgb24")


def bomb(width: int, height: int) -> bytes:
    """A small PNG that says it is huge, its rows all alike."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(b"\x00" * (1 + width // 8) * min(height, 20_000), 9)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def progressive(more_scans: int) -> bytes:
    """A progressive JPEG whose last scan comes more often than it has to."""
    out = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(out, "JPEG", progressive=True)
    data = out.getvalue()
    begin, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    return data[:end] + data[begin:end] * more_scans + data[end:]


async def refused(uploads: Uploads, data: bytes) -> int:
    with pytest.raises(Refusal) as caught:
        await uploads.add(data, "a")
    return caught.value.status


@pytest.mark.parametrize("codec", ["png", "mjpeg", "libwebp"])
async def test_pictures_become_pngs_that_replace_can_show(codec: str) -> None:
    async with Uploads(most=4, most_per_address=2) as uploads:
        name = await uploads.add(picture(codec), "a")
        path = uploads.path(name)
        assert path is not None
        rgb = decode(path.read_bytes()).astype(int)
        assert rgb.shape == (48, 64, 3)
        assert rgb[4, 30, 0] > 200 > 60 > rgb[4, 30, 2]
        assert rgb[44, 30, 2] > 200 > 60 > rgb[44, 30, 0]
        create_effect("replace", {"background": path}).close()
    assert not path.parent.exists()


async def test_nobody_else_can_read_the_folder() -> None:
    async with Uploads(most=4, most_per_address=2) as uploads:
        path = uploads.path(await uploads.add(picture(), "a"))
        assert path is not None
        assert os.stat(path.parent).st_mode & 0o077 == 0


async def test_large_pictures_are_made_small() -> None:
    large = await anyio.to_thread.run_sync(picture, "mjpeg", 4000, 1000)
    async with Uploads(most=4, most_per_address=2) as uploads:
        path = uploads.path(await uploads.add(large, "a"))
        assert path is not None
        assert decode(path.read_bytes()).shape == (480, 1920, 3)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 415),
        (b"GIF89a" + b"\x00" * 100, 415),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415),
        (b"#EXTM3U\nfile:///etc/passwd\n", 415),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", 415),
        (b"\x89PNG\r\n\x1a\n" + b"\x00" * 100, 422),
        (b"\xff\xd8\xff" + b"#EXTM3U\nfile:///etc/passwd\n", 422),
        (b"RIFF\x00\x00\x00\x00WEBP" + b"VP8 " * 20, 422),
        (b"\x89PNG\r\n\x1a\n" + b"\x00" * MAX_UPLOAD_BYTES, 413),
        (bomb(30_000, 30_000), 422),
        (bomb(5001, 4000), 422),
        (picture()[:-60], 422),
    ],
    ids=str,
)
async def test_what_is_no_picture_is_refused(data: bytes, status: int) -> None:
    async with Uploads(most=4, most_per_address=2) as uploads:
        assert await refused(uploads, data) == status
        assert len(uploads) == 0


def test_jpegs_have_as_many_scans_as_pictures_have_and_not_thousands() -> None:
    assert normalise_picture(progressive(0), sniff(progressive(0)))
    assert normalise_picture(progressive(100), sniff(progressive(100)))
    for scans in (1000, 100_000):
        data = progressive(scans)
        with pytest.raises(Refusal, match="scans") as caught:
            normalise_picture(data, sniff(data))
        assert caught.value.status == 422


async def test_a_decoder_that_takes_long_keeps_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    running: list[bytes] = []

    def slow(data: bytes, kind: tuple[str, str]) -> bytes:
        running.append(data)
        gate.wait(20)
        return data

    monkeypatch.setattr(uploads_module, "normalise_picture", slow)
    monkeypatch.setattr(uploads_module, "_DECODE_S", 0.1)
    statuses: list[int] = []
    try:
        async with Uploads(most=9, most_per_address=9) as uploads:

            async def add() -> None:
                statuses.append(await refused(uploads, picture()))

            async with anyio.create_task_group() as group:
                for _ in range(5):
                    group.start_soon(add)
            assert len(running) == 2
            assert sorted(statuses) == [422] * 2 + [503] * 3
            assert await refused(uploads, picture()) == 503
            gate.set()
            monkeypatch.setattr(uploads_module, "_DECODE_S", 10)
            assert uploads.path(await uploads.add(picture(), "a"))
            assert len(running) == 3
            assert len(uploads) == 1
    finally:
        gate.set()


def test_mutated_pictures_are_refused_and_nothing_worse() -> None:
    chance = np.random.default_rng(1)
    taken = 0
    for codec in ("png", "mjpeg", "libwebp"):
        good = np.frombuffer(picture(codec), np.uint8)
        for _ in range(100):
            data = good.copy()
            data[chance.integers(12, len(data), 8)] = chance.integers(0, 256, 8)
            try:
                taken += bool(normalise_picture(data.tobytes(), sniff(data.tobytes())))
            except Refusal:
                continue
    assert taken > 20


async def test_names_are_unguessable_and_others_are_none() -> None:
    async with Uploads(most=4, most_per_address=4) as uploads:
        names = {await uploads.add(picture(), "a") for _ in range(3)}
        assert len(names) == 3
        assert all(len(name) > 24 for name in names)
        for name in ("", "bg-", "../etc/passwd", "/etc/passwd", str(uploads.path(names.pop()))):
            assert uploads.path(name) is None


async def test_an_address_replaces_its_own_oldest_and_nobody_elses() -> None:
    async with Uploads(most=3, most_per_address=2) as uploads:
        first = await uploads.add(picture(), "a")
        other = await uploads.add(picture(), "b")
        path = uploads.path(first)
        second = await uploads.add(picture(), "a")
        third = await uploads.add(picture(), "a")
        assert uploads.path(first) is None
        assert path is not None
        assert not path.exists()
        assert None not in (uploads.path(second), uploads.path(third), uploads.path(other))
        with pytest.raises(Refusal) as caught:
            await uploads.add(picture(), "c")
        assert caught.value.status == 503
        assert "Retry-After" in caught.value.headers


async def test_uploads_at_once_stay_within_the_caps() -> None:
    async with Uploads(most=4, most_per_address=3) as uploads:
        statuses: list[int] = []

        async def add(address: str) -> None:
            try:
                await uploads.add(picture(), address)
            except Refusal as exc:
                statuses.append(exc.status)

        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(add, f"address {number}")
        assert len(uploads) == 4
        assert statuses == [503] * 6
        assert len(list(folder(uploads).iterdir())) == 4


async def test_closed_uploads_take_nothing() -> None:
    uploads = Uploads(most=1, most_per_address=1)
    with pytest.raises(anyio.ClosedResourceError):
        await uploads.add(picture(), "a")
    async with uploads:
        await uploads.aclose()
    with pytest.raises(anyio.ClosedResourceError):
        await uploads.add(picture(), "a")


def folder(uploads: Uploads) -> Path:
    assert uploads._folder is not None
    return Path(uploads._folder.name)
