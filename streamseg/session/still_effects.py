"""Effects on still pictures: one picture in, one picture out, read and written as all stills are."""

from __future__ import annotations

import io
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from streamseg.effects.registry import create_effect
from streamseg.errors import SinkOpenError, SinkWriteError
from streamseg.frames import Frame
from streamseg.session.parts import check_effect, mask_filters, segmenter_for, wanted_by
from streamseg.session.still_records import write_bytes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from streamseg.config import Config
    from streamseg.effects.base import VideoEffect
    from streamseg.models.card import Model
    from streamseg.segmentation import Segmentation

__all__ = ["check_picture_name", "effect_on_pictures"]

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


def check_picture_name(path: Path, *, indices: bool) -> None:
    """Refuse a name that is not one of a picture that can be written.

    Args:
        path: The name.
        indices: Whether it holds indices of classes, which must come back as they were.

    Raises:
        SinkOpenError: With the suffixes that are possible.
    """
    possible = (".png",) if indices else tuple(_WRITERS)
    if path.suffix.lower() not in possible:
        raise SinkOpenError(
            f"cannot write {path}: expected a name that ends with {', '.join(possible)}"
        )


@asynccontextmanager
async def effect_on_pictures(
    model: Model, config: Config, classes: Sequence[str]
) -> AsyncIterator[Callable[[Path, Path], Awaitable[None]]]:
    """Load a model and yield what applies the configured effect to a picture and writes the result.

    Args:
        model: Of any task that the effect can use.
        config: Model, masks, effect, and whether existing files are replaced.
        classes: The effect's subject; none means what its options say.

    Raises:
        ConfigError: If model and effect do not fit.
        ModelError: If the model cannot be used.
    """
    from streamseg.tasks.decoding import MAX_PIXELS, decode
    from streamseg.tasks.reading import read_source

    options = dict(config.effect.options)
    if classes:
        options["subject"] = list(classes)

    def made() -> VideoEffect:
        return create_effect(config.effect.name, options)

    effect = await anyio.to_thread.run_sync(made)
    check_effect(config.effect.name, effect, model.card)
    background = options.get("background")
    protected = [background] if isinstance(background, str) else []
    segmenter = segmenter_for(config, wanted_by(effect), model=model)

    def render(frame: Frame, segmentation: Segmentation) -> Frame:
        for mask_filter in mask_filters(config.mask):
            segmentation = mask_filter.apply(frame, segmentation)
        own = (
            made()
        )  # an effect remembers its last picture, which the next one has nothing to do with
        try:
            return own.apply(frame, segmentation)
        finally:
            own.close()

    async with segmenter:

        async def one(source: Path, target: Path) -> None:
            data, name = await read_source(source, timeout_s=config.model.timeout_s)
            pixels = await anyio.to_thread.run_sync(
                lambda: decode(data, name, MAX_PIXELS, alpha=True)
            )
            frame = await anyio.to_thread.run_sync(_frame_of, pixels)
            segmentation = await segmenter.segment(frame)
            shown = await anyio.to_thread.run_sync(render, frame, segmentation)
            content = await anyio.to_thread.run_sync(_encoded, shown, target)
            await anyio.to_thread.run_sync(
                lambda: write_bytes(
                    target,
                    content,
                    overwrite=config.output.overwrite,
                    protected=(source, *protected),
                )
            )

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


def _encoded(frame: Frame, target: Path) -> bytes:
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
        PIL.Image.fromarray(video.to_ndarray(format=form)).save(content, kind, **options)
    except (OSError, ValueError) as exc:  # such as WebP's limit of 16383 pixels a side
        what = " ".join(str(exc).split())
        raise SinkWriteError(f"cannot write {target}: {what}; choose .png") from exc
    return content.getvalue()
