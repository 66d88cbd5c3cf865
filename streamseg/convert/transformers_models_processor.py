"""What transformers' image processors do before and after a model, as facts for a card.

A processor is asked, not believed: pictures are put through it, and what comes out must be what the
card says. So one that does more (crops, turns channels around, adds bars) is refused, not guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from torch.nn import functional

from streamseg.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    from streamseg.models.card import Triple

__all__ = ["Preprocessing", "Subtask", "check_semantic", "found_subtasks", "read_preprocessing"]

Subtask = Literal["panoptic", "instance", "semantic"]
Resample = Literal["bilinear", "bicubic", "lanczos"]

_SUBTASKS: tuple[Subtask, ...] = ("panoptic", "instance", "semantic")
# Pillow's numbers. Its nearest value is not the one that OpenCV takes, and a card has no box filter.
_RESAMPLE: dict[int, Resample] = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
_LANDSCAPE, _PORTRAIT = (480, 640), (640, 480)
_TRIAL = (211, 157)
_LEVELS = 1.5  # of 255; resizing rounds to whole levels, this way or that
_MAX_SIDE = 4096
_SEED = 20210119


@dataclass(frozen=True)
class Preprocessing:
    """How a model wants its pictures.

    Attributes:
        size: (H, W) in pixels.
        keeps_shape: Whether the processor keeps a picture's shape, so that its sizes differ; the
            exported model has one size.
        mean: Of RGB in [0, 1], a value a channel.
        std: As ``mean``.
        resample: The filter; it is low-pass when the picture becomes smaller.
    """

    size: tuple[int, int]
    keeps_shape: bool
    mean: Triple
    std: Triple
    resample: Resample


def found_subtasks(processor: Any) -> tuple[Subtask, ...]:
    """Return what a processor can make of its model's outputs, in the pipeline's order."""
    return tuple(
        subtask
        for subtask in _SUBTASKS
        if hasattr(processor, f"post_process_{subtask}_segmentation")
    )


def read_preprocessing(processor: Any, size: tuple[int, int] | None) -> Preprocessing:
    """Return what a processor does to a picture.

    Args:
        processor: An image processor of transformers.
        size: (H, W) in pixels that is wanted instead of the processor's own. Some round it up.

    Raises:
        ModelError: If it does something that a card cannot say.
    """
    sizes = [_run(processor, _picture(shape), size).shape[1:] for shape in (_LANDSCAPE, _PORTRAIT)]
    keeps_shape = sizes[0] != sizes[1]
    height, width = sizes[0]
    if max(height, width) > _MAX_SIDE:
        raise ModelError(
            f"its image processor makes pictures of {width}x{height} pixels, "
            f"expected at most {_MAX_SIDE} a side: give a size"
        )
    mean, std = _normalisation(processor)
    resample = _RESAMPLE.get(int(processor.resample)) if _resizes(processor) else "bilinear"
    if resample is None:
        raise ModelError(
            f"its image processor resizes by Pillow's filter {int(processor.resample)}, "
            "expected bilinear, bicubic or Lanczos: change resample in preprocessor_config.json"
        )
    result = Preprocessing((height, width), keeps_shape, mean, std, resample)
    _compare(processor, result, size)
    return result


def check_semantic(processor: Any, outputs: Any, logits: torch.Tensor) -> None:
    """Refuse a processor whose classes are not the largest of the resized logits.

    Args:
        processor: An image processor of transformers.
        outputs: What the model returned; its ``logits`` are replaced.
        logits: Of the same shape as the model's, to try it with.

    Raises:
        ModelError: If so.
    """
    outputs.logits = logits
    found = processor.post_process_semantic_segmentation(outputs, target_sizes=[_TRIAL])[0]
    resized = functional.interpolate(logits, _TRIAL, mode="bilinear", align_corners=False)
    if not torch.equal(found, resized.argmax(1)[0]):
        raise ModelError(
            f"{type(processor).__name__} does more with logits than to resize them and to take "
            "the largest: wrap the model in a module that does it, and export that"
        )


def _compare(processor: Any, found: Preprocessing, size: tuple[int, int] | None) -> None:
    from PIL import Image

    shape = _TRIAL
    if found.keeps_shape:
        # Of the right shape already, it is only made smaller.
        shape = (found.size[0] + found.size[0] // 2, found.size[1] + found.size[1] // 2)
        size = found.size
    made = _run(processor, _picture(shape), size)
    method = getattr(Image.Resampling, found.resample.upper())
    stretched = _picture(shape).resize((found.size[1], found.size[0]), method)
    levels = np.asarray(stretched, np.float32).transpose(2, 0, 1) / 255
    mean, std = (np.array(each, np.float32).reshape(3, 1, 1) for each in (found.mean, found.std))
    if made.shape == levels.shape:
        apart = float(np.abs(made * std + mean - levels).max())
        if apart * 255 <= _LEVELS:
            return
    raise ModelError(
        f"{type(processor).__name__} does more with a picture than to stretch and to normalise it "
        "(it crops, pads, turns channels around, or keeps the shape): "
        "correct preprocessor_config.json, or wrap the model in a module that does it"
    )


def _normalisation(processor: Any) -> tuple[Triple, Triple]:
    """Return the mean and the deviation that a card would have, of RGB in [0, 1]."""
    scale = 255.0 * float(processor.rescale_factor) if _says(processor, "do_rescale") else 255.0
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if _says(processor, "do_normalize"):
        mean, std = _triple(processor.image_mean), _triple(processor.image_std)
    # Factors such as 0.00392156862745098 are 1/255, but for the last digit.
    scale = 1.0 if abs(scale - 1.0) < 1e-6 else scale
    means = tuple(round(each / scale, 9) for each in mean)
    deviations = tuple(round(each / scale, 9) for each in std)
    return cast("Triple", means), cast("Triple", deviations)


def _triple(value: Any) -> Triple:
    values = (
        [float(value)] * 3 if isinstance(value, int | float) else [float(each) for each in value]
    )
    if len(values) != 3:
        raise ModelError(f"its image processor has {len(values)} channels, expected RGB")
    return (values[0], values[1], values[2])


def _says(processor: Any, name: str) -> bool:
    return bool(getattr(processor, name, False))


def _resizes(processor: Any) -> bool:
    return _says(processor, "do_resize")


def _run(processor: Any, picture: Image, size: tuple[int, int] | None) -> NDArray[np.float32]:
    """Return what a processor makes of a picture: (3, H, W) float32."""
    options: dict[str, Any] = {}
    if size is not None:
        options["size"] = {"height": size[0], "width": size[1]}
    try:
        made = processor(images=[picture], return_tensors="pt", **options)["pixel_values"]
    except Exception as exc:  # it may stumble over anything in its configuration
        wanted = f" to {size[1]}x{size[0]}" if size else ""
        raise ModelError(
            f"{type(processor).__name__} cannot process a picture{wanted}: "
            f"{type(exc).__name__}: {next(iter(str(exc).splitlines()), '')}: "
            "check preprocessor_config.json"
        ) from exc
    if made.ndim != 4 or made.shape[:2] != (1, 3):
        raise ModelError(
            f"{type(processor).__name__} makes {list(made.shape)} of a picture, "
            "expected [1, 3, height, width]: this kind of model cannot be exported"
        )
    return np.asarray(made[0].numpy(), np.float32)


def _picture(size: tuple[int, int]) -> Image:
    """Return coloured noise, the same one for each size, coarse enough to survive resizing."""
    from PIL import Image

    levels = np.random.default_rng(_SEED).integers(0, 256, (24, 32, 3), np.uint8)
    return Image.fromarray(levels).resize((size[1], size[0]), Image.Resampling.BICUBIC)
