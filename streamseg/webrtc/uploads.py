"""Uploads: background pictures of users.

What is sent is decoded by FFmpeg, as the one format that its first bytes say, and written anew at
the size of a screen: what an effect opens later is always a file that was made here. Names are
unguessable; a picture can be used by whoever knows its name.
"""

from __future__ import annotations

import asyncio
import io
import secrets
import tempfile
from collections import OrderedDict
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import av
import av.error
from av.video.frame import VideoFrame

from streamseg.abc import Resource
from streamseg.webrtc.refusal import Refusal

__all__ = ["MAX_UPLOAD_BYTES", "Uploads", "normalise_picture", "sniff"]

MAX_UPLOAD_BYTES = 5_000_000
MAX_PIXELS = 20_000_000
_LONGEST_SIDE = 1920  # what is kept; larger than any picture that is sent back
_DECODE_S = 10.0
_CLOSE_S = 1.0
_AT_ONCE = 2  # pictures decoded at once: 200 MB each at the most
# Progressive JPEGs have about ten scans. One of 34 bytes can take 2 ms, and 5 MB of them minutes. In
# 5 MB of anything else there are about 80 such marks by chance.
_MAX_SCANS = 200
_SCAN = b"\xff\xda"
_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", 0, "png_pipe", "png"),
    (b"\xff\xd8\xff", 0, "jpeg_pipe", "mjpeg"),
    (b"WEBP", 8, "webp_pipe", "webp"),
)


@dataclass(frozen=True, slots=True)
class _Upload:
    path: Path
    address: str


class Uploads(Resource):
    """Keeps pictures in a folder of its own, which goes with it.

    Args:
        most: How many are kept in all.
        most_per_address: How many of one address; a newer one replaces its oldest.
    """

    def __init__(self, *, most: int, most_per_address: int) -> None:
        self._most = most
        self._most_per_address = most_per_address
        self._kept: OrderedDict[str, _Upload] = OrderedDict()  # bounded by `most`
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._coming = 0
        # Each is a thread that cannot be stopped: it keeps its place until it has ended.
        self._decoding: set[asyncio.Task[bytes]] = set()  # bounded by _AT_ONCE
        self._places = anyio.Semaphore(_AT_ONCE)

    def __len__(self) -> int:
        return len(self._kept)

    async def __aenter__(self) -> Uploads:
        self._folder = await anyio.to_thread.run_sync(_make_folder)
        return self

    def path(self, name: str) -> Path | None:
        """Return the file of a picture, None if there is none of this name."""
        upload = self._kept.get(name)
        return None if upload is None else upload.path

    async def add(self, data: bytes, address: str) -> str:
        """Keep a picture and return its name.

        Args:
            data: PNG, JPEG or WebP; at most 5 MB and 20 megapixels.
            address: Who sent it, for counting.

        Raises:
            Refusal: 413, 415 or 422 if it is none of that, 503 if no more are kept.
        """
        kind = sniff(data)
        if self._folder is None:
            raise anyio.ClosedResourceError
        own = sum(upload.address == address for upload in self._kept.values())
        if len(self._kept) + self._coming >= self._most and own < self._most_per_address:
            raise _full()
        self._coming += 1
        try:
            picture = await self._decode(data, kind)
        finally:
            self._coming -= 1
        if self._folder is None:  # closed meanwhile
            raise anyio.ClosedResourceError
        name = f"bg-{secrets.token_urlsafe(18)}"
        path = Path(self._folder.name) / f"{name}.png"
        own_names = [key for key, upload in self._kept.items() if upload.address == address]
        replaced = own_names[: max(0, len(own_names) - self._most_per_address + 1)]
        if len(self._kept) - len(replaced) >= self._most:
            raise _full()
        for key in replaced:
            await self._remove(key)
        self._kept[name] = _Upload(path, address)
        try:
            await anyio.to_thread.run_sync(path.write_bytes, picture)
        except BaseException as exc:
            self._kept.pop(name, None)
            if isinstance(exc, OSError):
                raise _full() from exc
            raise
        return name

    async def _decode(self, data: bytes, kind: tuple[str, str]) -> bytes:
        with anyio.move_on_after(_DECODE_S) as waiting:
            await self._places.acquire()
        if waiting.cancelled_caught:
            raise _busy("other pictures are being decoded", 10)
        with anyio.move_on_after(_DECODE_S):
            decoding = asyncio.create_task(anyio.to_thread.run_sync(normalise_picture, data, kind))
            self._decoding.add(decoding)
            decoding.add_done_callback(self._decoded)
            return await asyncio.shield(decoding)
        raise Refusal(422, f"decoding the picture took more than {_DECODE_S:g} s")

    def _decoded(self, decoding: asyncio.Task[bytes]) -> None:
        self._decoding.discard(decoding)
        self._places.release()
        if not decoding.cancelled():
            decoding.exception()  # nobody may wait for it any more

    async def _remove(self, name: str) -> None:
        # Effects that show it have it in memory.
        upload = self._kept.pop(name)
        await anyio.to_thread.run_sync(lambda: upload.path.unlink(missing_ok=True))

    async def aclose(self) -> None:
        """Remove the folder; wait a moment for what is being decoded."""
        self._kept.clear()
        folder, self._folder = self._folder, None
        with anyio.CancelScope(shield=True):
            if self._decoding:
                await asyncio.wait(tuple(self._decoding), timeout=_CLOSE_S)
            if folder is not None:
                await anyio.to_thread.run_sync(folder.cleanup)


def _make_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="streamseg-backgrounds-", ignore_cleanup_errors=True)


def _full() -> Refusal:
    return _busy("as many backgrounds are kept as there is room for", 60)


def _busy(reason: str, retry_s: int) -> Refusal:
    return Refusal(503, f"{reason}; try again later", headers={"Retry-After": str(retry_s)})


def sniff(data: bytes) -> tuple[str, str]:
    """Return FFmpeg's demuxer and decoder for a picture, by its first bytes.

    Raises:
        Refusal: 413 if it is too large, 415 if it is no PNG, JPEG or WebP.
    """
    if len(data) > MAX_UPLOAD_BYTES:
        raise Refusal(413, f"the picture is over {MAX_UPLOAD_BYTES} bytes")
    for signature, place, demuxer, decoder in _SIGNATURES:
        if data[place : place + len(signature)] == signature:
            return demuxer, decoder
    raise Refusal(415, "the picture is neither PNG nor JPEG nor WebP")


def normalise_picture(data: bytes, kind: tuple[str, str]) -> bytes:
    """Decode one picture and return it as a PNG of at most 1920 pixels a side. Blocks.

    Args:
        data: The picture.
        kind: As ``sniff`` says.

    Raises:
        Refusal: 422 if it cannot be decoded, has too many pixels, or would take long.
    """
    demuxer, decoder = kind
    if decoder == "mjpeg" and data.count(_SCAN) > _MAX_SCANS:
        raise Refusal(422, f"the picture has more than {_MAX_SCANS} scans: save it in another way")
    # Not av.open: no probing, no protocol, no other file, whatever the content says.
    try:
        context: Any = av.CodecContext.create(decoder, "r")
        context.thread_type, context.thread_count = "NONE", 1
        context.options = {"max_pixels": str(MAX_PIXELS)}
        frame = _first(context, data, demuxer)
    except (av.error.FFmpegError, OSError, ValueError, MemoryError) as exc:
        raise Refusal(422, _UNREADABLE) from exc
    if frame is None or not 0 < frame.width * frame.height <= MAX_PIXELS:
        raise Refusal(422, _UNREADABLE)
    try:
        return _encode(frame)
    except (av.error.FFmpegError, ValueError, MemoryError) as exc:
        raise Refusal(422, _UNREADABLE) from exc


_UNREADABLE = (
    f"the picture cannot be decoded, or has more than {MAX_PIXELS // 1_000_000} million pixels"
)


def _first(context: Any, data: bytes, demuxer: str) -> VideoFrame | None:
    with av.open(
        io.BytesIO(data),
        "r",
        format=demuxer,
        options={"max_pixels": str(MAX_PIXELS)},
        metadata_errors="replace",
    ) as container:
        for packet in container.demux(container.streams.video[0]):
            for frame in context.decode(packet):
                assert isinstance(frame, VideoFrame)
                return frame
    return None


def _encode(frame: VideoFrame) -> bytes:
    scale = min(1.0, _LONGEST_SIDE / max(frame.width, frame.height))
    width = max(2, round(frame.width * scale))
    height = max(2, round(frame.height * scale))
    small = frame.reformat(width, height, "rgb24", interpolation="AREA")
    encoder: Any = av.CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "rgb24"
    encoder.time_base = Fraction(1, 25)
    small.pts = 0
    packets = [*encoder.encode(small), *encoder.encode(None)]
    return b"".join(bytes(packet) for packet in packets)
