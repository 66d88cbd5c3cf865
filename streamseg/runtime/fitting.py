"""FrameFitter: frames as a model's card wants them: its size, its way of scaling, bars or none.

How a picture was scaled down decides what a model sees: DeepLab takes the dogs of a picture for
horses if it is smoothed before, as most pipelines do, because its own never did. A card therefore
says whether a picture is smoothed (``antialias``), and the same holds for stills and for video.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import av
import cv2
import numpy as np

from streamseg.runtime.preprocess import Preprocessor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamseg.models.card import Card

__all__ = ["Content", "FrameFitter", "content_of"]

_BAR = 114  # the grey of the bars that detectors are trained with
_METHODS = {
    "nearest": cv2.INTER_NEAREST,
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "lanczos": cv2.INTER_LANCZOS4,
}


class Content(NamedTuple):
    """Where a picture lies in a model's input, in its pixels; the last two exclusive."""

    top: int
    left: int
    bottom: int
    right: int


def content_of(picture_size: tuple[int, int], input_size: tuple[int, int]) -> Content:
    """Return where a picture with bars lies: as large as it fits, in the middle.

    Args:
        picture_size: (height, width) in pixels.
        input_size: (height, width) of the model's input in pixels.
    """
    scale = min(input_size[0] / picture_size[0], input_size[1] / picture_size[1])
    height = min(input_size[0], max(1, round(picture_size[0] * scale)))
    width = min(input_size[1], max(1, round(picture_size[1] * scale)))
    top, left = (input_size[0] - height) // 2, (input_size[1] - width) // 2
    return Content(top, left, top + height, left + width)


class FrameFitter:
    """Brings frames to a model's size. To be called from one thread at a time.

    Args:
        card: The model's.
        size: (H, W) of its input in pixels.
    """

    def __init__(self, card: Card, size: tuple[int, int]) -> None:
        self._card, self._size = card, size
        self._preprocess: tuple[tuple[int, int], Preprocessor] | None = None

    def content(self, video: av.VideoFrame) -> Content | None:
        """Return where this picture lies in the model's input; None where it fills it."""
        if not self._card.letterbox:
            return None
        return content_of((video.height, video.width), self._size)

    def __call__(self, video: av.VideoFrame) -> NDArray[np.uint8]:
        """Return the picture: (H, W, 3) uint8 RGB, full range."""
        place = self.content(video)
        if place is None:
            return self._scaled(video, self._size)
        framed = np.full((*self._size, 3), _BAR, np.uint8)
        inner = self._scaled(video, (place.bottom - place.top, place.right - place.left))
        framed[place.top : place.bottom, place.left : place.right] = inner
        return framed

    def _scaled(self, video: av.VideoFrame, size: tuple[int, int]) -> NDArray[np.uint8]:
        card = self._card
        if card.sampling == "corner" or card.antialias:
            # swscale's bilinear filter grows with the factor, as Pillow's does.
            return self._preprocessor(size)(video)
        whole = self._preprocessor((video.height, video.width))(video)
        if whole.shape[:2] == size:
            return whole
        scaled = cv2.resize(whole, (size[1], size[0]), interpolation=_METHODS[card.resample])
        return np.asarray(scaled, np.uint8)

    def _preprocessor(self, size: tuple[int, int]) -> Preprocessor:
        if self._preprocess is None or self._preprocess[0] != size:
            self._preprocess = (size, Preprocessor(size, self._card.sampling))
        return self._preprocess[1]
