"""Effects on still pictures: one picture in, one picture out, read and written as all stills are."""

from __future__ import annotations

import io
import time
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from streamseg.effects.registry import create_effect
from streamseg.errors import SinkOpenError, SinkWriteError
from streamseg.frames import Frame
from streamseg.session.parts import check_effect, mask_filters, segmenter_for, wanted_by
from streamseg.session.still_reading import read_pixels
from streamseg.tasks.threads import Watched, in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from streamseg.config import Config
    from streamseg.effects.base import VideoEffect
    from streamseg.models.card import Model
    from streamseg.segmentation import Segmentation
    from streamseg.session.pictures import Item
    from streamseg.session.still_files import ResultWriter
    from streamseg.tasks.threads import Check

__all__ = ["PICTURE_ENDINGS", "effect_on_pictures"]

# Suffix -> Pillow's name of the format, and how it is written: without visible loss.
_WRITERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".webp": ("WEBP", {"lossless": True}),
    ".bmp": ("BMP", {}),
    ".tif": ("TIFF", {"compression": "tiff_deflate"}),
    ".tiff": ("TIFF", {"compression": "tiff_deflate"}),
}
_WITH_ALPHA = frozenset({"PNG", "WEBP", "TIFF"})
# All colours at full resolution: a picture is no video, which every player must take.
_TO_YUV = "out_color_matrix=bt709:out_range=pc:flags=accurate_rnd+full_chroma_int"
_TO_RGB = "flags=accurate_rnd+full_chroma_int"

PICTURE_ENDINGS: tuple[str, ...] = tuple(_WRITERS)
"""What the names of pictures that can be written end with."""


@asynccontextmanager
async def effect_on_pictures(
    model: Model, config: Config, writer: ResultWriter
) -> AsyncIterator[Callable[[Item], Awaitable[None]]]:
    """Load a model and yield what applies the configured effect to a picture and writes the result.

    Args:
        model: Of any task that the effect can use.
        config: Model, masks and effect.
        writer: Writes the results.

    Raises:
        ConfigError: If model and effect do not fit.
        ModelError: If the model cannot be used.
    """
    name, options = config.effect.name, config.effect.options

    def made() -> VideoEffect:
        return create_effect(name, options)

    effect = await anyio.to_thread.run_sync(made)
    check_effect(name, effect, model.card)
    segmenter = segmenter_for(config, wanted_by(effect), model=model)

    def finish(frame: Frame, segmentation: Segmentation, target: Path, check: Check) -> None:
        for mask_filter in mask_filters(config.mask):
            segmentation = mask_filter.apply(frame, segmentation)
            check()
        own = made()  # it remembers its last picture, which the next one has nothing to do with
        try:
            shown = own.apply(frame, segmentation)
        finally:
            own.close()
        check()
        content = _encoded(shown, target, check)
        writer.write(target, lambda file: file.write(content), check)

    async with segmenter:

        async def one(item: Item) -> None:
            target = item.target
            assert target is not None
            await in_thread(lambda check: writer.check(target))
            pixels = await read_pixels(item.source, alpha=True)
            frame = await in_thread(lambda check: _frame_of(pixels))
            segmentation = await segmenter.segment(frame)
            await in_thread(partial(finish, frame, segmentation, target))

        yield one


def _frame_of(pixels: NDArray[np.uint8]) -> Frame:
    """Return a frame of RGB or RGBA pixels, in planes, which effects work in."""
    import av

    from streamseg.effects.graph import FilterGraph

    rgb, planes = ("rgba", "yuva444p") if pixels.shape[2] == 4 else ("rgb24", "yuv444p")
    video = av.VideoFrame.from_ndarray(pixels, format=rgb)
    video = FilterGraph([("scale", _TO_YUV), ("format", planes)]).process(video)
    video.pts = 0
    return Frame(video, 0, time.monotonic())


def _encoded(frame: Frame, target: Path, check: Check) -> bytes:
    """Return a frame as a file of the format that the target's name says.

    Raises:
        SinkOpenError: If it has alpha, and the format has none.
        SinkWriteError: If the format does not hold it, for another reason.
    """
    import PIL.Image

    from streamseg.effects.graph import FilterGraph

    kind, options = _WRITERS[target.suffix.lower()]
    alpha = any(component.is_alpha for component in frame.video.format.components)
    if alpha and kind not in _WITH_ALPHA:
        raise SinkOpenError(
            f"cannot write {target}: {kind} holds no alpha channel; use .png, .webp or .tif"
        )
    grey = frame.pixel_format == "gray"
    form = "gray" if grey else "rgba" if alpha else "rgb24"
    video = FilterGraph([("scale", _TO_RGB), ("format", form)]).process(frame.video)
    content = io.BytesIO()
    try:
        image = PIL.Image.fromarray(video.to_ndarray(format=form))
        image.save(Watched(content, check), kind, **options)  # type: ignore[arg-type]
    except (OSError, ValueError) as exc:  # such as WebP's limit of 16383 pixels a side
        what = " ".join(str(exc).split())
        raise SinkWriteError(f"cannot write {target}: {what}; choose .png") from exc
    return content.getvalue()
