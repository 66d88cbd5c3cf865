"""Between a picture's size and a model's: stretching it there, and the model's maps back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

# Before cv2: the other way round, FFmpeg's x11grab crashes the process.
import av  # noqa: F401
import cv2
import numpy as np

from streamseg.errors import InvalidUserInputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from streamseg.models.card import Card
    from streamseg.tasks.images import Picture
    from streamseg.tasks.threads import Check

__all__ = [
    "check_memory",
    "content_box",
    "enlarge_classes",
    "enlarge_mask",
    "enlarge_masks",
    "fit",
    "is_quick",
]

_CV2 = {
    "nearest": cv2.INTER_NEAREST,
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "lanczos": cv2.INTER_LANCZOS4,
}
_BAR = 114  # the grey of the bars that detectors are trained with
_QUICK_PIXELS = 640 * 512
_MAX_BYTES = 4 << 30  # of the probabilities of one picture


def fit(picture: Picture, card: Card, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a picture in a model's size.

    Args:
        picture: Of any size.
        card: Says how: ``resample``, ``antialias``, ``letterbox`` and ``sampling``.
        size: (H, W) of the model's input in pixels.

    Returns:
        (H, W, 3) uint8 RGB, C-contiguous; the picture's own array where nothing has to be done.
    """
    if not card.letterbox:
        return _stretched(picture.pixels, card, size)
    top, left, bottom, right = content_box(picture.size, card, size)
    framed = np.full((*size, 3), _BAR, np.uint8)
    framed[top:bottom, left:right] = _stretched(picture.pixels, card, (bottom - top, right - left))
    return framed


def is_quick(picture: Picture, card: Card, size: tuple[int, int]) -> bool:
    """Tell whether ``fit`` takes less time than handing it to a thread does: 0.1 to 0.2 ms.

    Args:
        picture: See ``fit``, as the others.
        card: The model's.
        size: (H, W) of the model's input in pixels.
    """
    height, width = picture.size
    plain = card.resample in ("nearest", "bilinear") and not card.antialias
    return plain and max(height * width, size[0] * size[1]) <= _QUICK_PIXELS


def content_box(
    picture_size: tuple[int, int], card: Card, size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Return where in the model's input the picture lies.

    Args:
        picture_size: (H, W) in pixels.
        card: The model's; without ``letterbox`` the picture fills the input.
        size: (H, W) of the model's input in pixels.

    Returns:
        (top, left, bottom, right) in pixels of the input, the last two exclusive. With
        ``letterbox`` the picture lies in the middle; of an odd rest the larger part is at the
        bottom and at the right.
    """
    if not card.letterbox:
        return (0, 0, *size)
    scale = min(size[0] / picture_size[0], size[1] / picture_size[1])
    height = min(size[0], max(1, round(picture_size[0] * scale)))
    width = min(size[1], max(1, round(picture_size[1] * scale)))
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return (top, left, top + height, left + width)


def check_memory(count: int, picture_size: tuple[int, int], instead: str) -> None:
    """Refuse probabilities in a picture's size that would fill the memory.

    Args:
        count: Of how many classes.
        picture_size: (H, W) in pixels.
        instead: What to try, for the message.

    Raises:
        InvalidUserInputError: If they take over 4 GiB.
    """
    height, width = picture_size
    if count * height * width * 4 > _MAX_BYTES:
        raise InvalidUserInputError(
            f"{count} classes of {width}x{height} pixels take over {_MAX_BYTES >> 30} GiB: "
            f"{instead}"
        )


def enlarge_mask(
    mask: NDArray[np.float32], card: Card, picture_size: tuple[int, int]
) -> NDArray[np.float32]:
    """Return a map of a model, resized bilinearly to the picture that it was made of.

    Args:
        mask: (H, W) float32 over the whole model input, bars included.
        card: The model's.
        picture_size: (H, W) in pixels.

    Returns:
        ``picture_size`` float32.
    """
    mask = _without_bars(mask, card, picture_size)
    if card.sampling == "corner":
        from streamseg.runtime.preprocess import to_centres

        mask = to_centres(mask, picture_size)
    size = (picture_size[1], picture_size[0])
    return np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_LINEAR), np.float32)


def enlarge_masks(
    masks: Iterable[NDArray[np.float32]], card: Card, picture_size: tuple[int, int], check: Check
) -> list[NDArray[np.float32]]:
    """Return ``enlarge_mask`` of each of them.

    Args:
        masks: Of one picture.
        card: The model's.
        picture_size: (H, W) in pixels.
        check: Called before each of them: a large picture with many classes takes seconds.
    """
    enlarged = []
    for mask in masks:
        check()
        enlarged.append(enlarge_mask(mask, card, picture_size))
    return enlarged


def enlarge_classes(
    class_map: NDArray[Any], card: Card, picture_size: tuple[int, int]
) -> NDArray[Any]:
    """Return a class map, resized to the picture that it was made of by its nearest value.

    Args:
        class_map: (H, W) uint8 or int32 over the whole model input, bars included.
        card: The model's.
        picture_size: (H, W) in pixels.

    Returns:
        ``picture_size``, of the same type.
    """
    class_map = _without_bars(class_map, card, picture_size)
    if card.sampling == "corner":
        # Sample i is the picture's point i * size / model size.
        rows, columns = (
            np.minimum((np.arange(length) * (count / length) + 0.5).astype(np.intp), count - 1)
            for length, count in zip(picture_size, class_map.shape, strict=True)
        )
        taken: NDArray[Any] = np.take(np.take(class_map, columns, axis=1), rows, axis=0)
        return taken
    size = (picture_size[1], picture_size[0])
    resized: NDArray[Any] = cv2.resize(class_map, size, interpolation=cv2.INTER_NEAREST)
    return resized


def _without_bars(values: NDArray[Any], card: Card, picture_size: tuple[int, int]) -> NDArray[Any]:
    if not card.letterbox:
        return values
    top, left, bottom, right = content_box(picture_size, card, (values.shape[0], values.shape[1]))
    return values[top:bottom, left:right]


def _stretched(pixels: NDArray[np.uint8], card: Card, size: tuple[int, int]) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    if (height, width) == size:
        return pixels
    if card.sampling == "corner":
        steps = np.array([[width / size[1], 0, 0], [0, height / size[0], 0]], np.float32)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        # Beyond the last sample there is nothing: only a picture smaller than the model gets there.
        return np.asarray(
            cv2.warpAffine(
                pixels, steps, (size[1], size[0]), flags=flags, borderMode=cv2.BORDER_REPLICATE
            ),
            np.uint8,
        )
    if card.antialias and card.resample != "nearest":
        from PIL import Image

        method = getattr(Image.Resampling, card.resample.upper())
        resized = Image.fromarray(pixels).resize((size[1], size[0]), method)
        return np.array(resized, np.uint8)
    return np.asarray(
        cv2.resize(pixels, (size[1], size[0]), interpolation=_CV2[card.resample]), np.uint8
    )
