"""InstanceSegmenter: each object of a picture, with its box, its mask, its label and its score.

async with await InstanceSegmenter.load("yolo26n-seg") as segmenter:
    for instance in await segmenter.forward("street.jpg"):
        instance.label, instance.score, instance.bbox, instance.mask
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from streamseg.errors import (
    ConfigError,
    InvalidConfigError,
    InvalidModelOutputError,
    InvalidUserInputError,
)
from streamseg.masks.instances import check_instance_shapes, instance_labels, select_instances
from streamseg.runtime.classes import choose_classes
from streamseg.tasks.base import StillTask
from streamseg.tasks.blocking import BlockingTask
from streamseg.tasks.instance_masks import Geometry, mask_in_box
from streamseg.tasks.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from streamseg.models.card import InstanceRule, Model
    from streamseg.runtime.process import LoadedModel
    from streamseg.tasks.images import ImageSource
    from streamseg.tasks.threads import Check

__all__ = ["BlockingInstanceSegmenter", "Box", "Instance", "InstanceSegmenter"]

_MOST_INSTANCES = 8192


class Box(NamedTuple):
    """A box in pixels of the picture; pixel i reaches from i to i + 1."""

    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Instance:
    """One object.

    Attributes:
        bbox: Its box, within the picture.
        mask: uint8, 1 where the object is, cropped to the box: to the pixels of ``area``, or, at
            the model's resolution, to the samples of the model's mask that the box touches.
        label: Of its class.
        score: In [0, 1].
        area: (top, left, bottom, right), the picture's pixels that the box covers, each edge
            rounded, the last two exclusive.
        picture_size: (H, W) of the picture in pixels.
    """

    bbox: Box
    mask: NDArray[np.uint8]
    label: str
    score: float
    area: tuple[int, int, int, int]
    picture_size: tuple[int, int]

    def whole_mask(self) -> NDArray[np.uint8]:
        """Return the mask in the picture's size, (H, W) uint8, 0 outside of the box."""
        import cv2

        top, left, bottom, right = self.area
        mask = self.mask
        if mask.shape != (bottom - top, right - left):
            size = (right - left, bottom - top)
            mask = np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST), np.uint8)
        whole = np.zeros(self.picture_size, np.uint8)
        whole[top:bottom, left:right] = mask
        return whole

    def __repr__(self) -> str:
        x1, y1, x2, y2 = self.bbox
        height, width = self.mask.shape
        return (
            f"Instance({self.label} {self.score:.2f}, box {x1:.1f} {y1:.1f} {x2:.1f} {y2:.1f}, "
            f"mask {height}x{width})"
        )


class InstanceSegmenter(StillTask):
    """A model that finds objects. See ``StillTask`` for its arguments and state.

    Example::

        async with await InstanceSegmenter.load("yolo26n-seg") as segmenter:
            for instance in await segmenter.forward("street.jpg"):
                print(instance.label, instance.score, instance.bbox)
    """

    task = "instance-segmentation"
    raw = True
    not_of_tflite = "not one that finds objects: use a name such as yolo26n-seg, or a .pte"

    @classmethod
    def blocking(cls, model: str | Path | Model, **options: Any) -> BlockingInstanceSegmenter:
        """Return the same object for code without an event loop, with its model loaded.

        Args:
            model: See ``StillTask``.
            options: As for ``load``.

        Raises:
            StreamsegError: As ``open``.
        """
        return BlockingInstanceSegmenter(lambda: cls.load(model, **options))

    async def forward(
        self,
        image: ImageSource,
        *,
        confidence_threshold: float | None = None,
        iou_threshold: float | None = None,
        max_instances: int | None = None,
        classes_of_interest: Sequence[str] = (),
        return_mask_at_original_resolution: bool = True,
    ) -> list[Instance]:
        """Return the objects of a picture, the most certain one first.

        Args:
            image: See ``load_image``.
            confidence_threshold: Objects with a lower score are left out, 0 to 1; None takes the
                card's, as below.
            iou_threshold: Of two boxes of one class that overlap by more, the better one stays,
                0 to 1; without effect where the model has done it.
            max_instances: How many objects are returned at most.
            classes_of_interest: Labels, in any case; all without them.
            return_mask_at_original_resolution: Whether masks have the picture's resolution, rather
                than the model's, which is faster.

        Raises:
            ModuleNotLoadedError: If the model is not loaded.
            ModelGeneratingError: If another call is running, without ``queue``.
            InvalidConfigError: If a threshold or ``max_instances`` is out of range.
            InvalidUserInputError: If the model has no such label, or the picture is none.
            InvalidModelOutputError: If what the model returned makes no sense.
            FileReadFailedError: If the picture cannot be read.
            WorkerError: If the model's process failed.
        """
        async with self._turn():
            rule = self.card.instance
            rule = rule.model_copy(
                update={
                    "confidence": _share(
                        "confidence_threshold", confidence_threshold, rule.confidence
                    ),
                    "iou": _share("iou_threshold", iou_threshold, rule.iou),
                    "max_instances": _count(max_instances, rule.max_instances),
                }
            )
            classes = _classes(self.labels, classes_of_interest)
            picture, result = await self._run(image)
            geometry = Geometry.of(self.card, picture.size, self.input_size)
            return await in_thread(
                partial(
                    _instances,
                    result.raw,
                    geometry,
                    rule,
                    self.labels,
                    classes=classes,
                    original=return_mask_at_original_resolution,
                    name=self.card.name,
                )
            )

    def _labels_of(self, model: Model, loaded: LoadedModel) -> tuple[str, ...]:
        with _named(str(model.path)):
            check_instance_shapes(loaded.output_shapes)
            return instance_labels(model.card.labels)


class BlockingInstanceSegmenter(BlockingTask[InstanceSegmenter]):
    """An ``InstanceSegmenter`` whose ``forward`` blocks."""

    def forward(self, image: ImageSource, **options: Any) -> list[Instance]:
        """Return the objects of a picture. See ``InstanceSegmenter.forward``."""
        return self.call(lambda: self.task.forward(image, **options))


def _share(name: str, given: float | None, default: float) -> float:
    if given is None:
        return default
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0.0 <= given <= 1.0:
        raise InvalidConfigError(f"{name} is {given!r}, expected 0 to 1")
    return float(given)


def _count(given: int | None, default: int) -> int:
    if given is None:
        return default
    if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= _MOST_INSTANCES:
        raise InvalidConfigError(f"max_instances is {given!r}, expected 1 to {_MOST_INSTANCES}")
    return given


def _classes(labels: tuple[str, ...], wanted: Sequence[str]) -> frozenset[int] | None:
    listed = isinstance(wanted, Collection) and not isinstance(wanted, str)
    if not listed or not all(isinstance(label, str) for label in wanted):
        raise InvalidUserInputError(f"classes_of_interest is {wanted!r}, expected a list of labels")
    if not wanted:
        return None
    try:
        return frozenset(choose_classes(labels, list(wanted)))
    except ConfigError as exc:
        raise InvalidUserInputError(str(exc)) from exc


def _instances(
    raw: Sequence[NDArray[np.float32]],
    geometry: Geometry,
    rule: InstanceRule,
    labels: tuple[str, ...],
    check: Check,
    *,
    classes: frozenset[int] | None,
    original: bool,
    name: str,
) -> list[Instance]:
    """Return the objects that a model's outputs stand for; each one's mask takes some time.

    Raises:
        InvalidModelOutputError: If they stand for none.
    """
    with _named(name):
        chosen = select_instances(
            raw, rule, labels, geometry.input_size, classes=classes, content=geometry.content
        )
    found = []
    for each in chosen:
        check()
        box = geometry.boxes_to_picture(np.array([each.box], np.float32))[0]
        area = _area(box, geometry.picture_size)
        found.append(
            Instance(
                Box(*(float(edge) for edge in box)),
                mask_in_box(each.logits, geometry, box, area, original=original),
                each.label,
                each.score,
                area,
                geometry.picture_size,
            )
        )
    return found


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Say which model it was that returned something wrong."""
    try:
        yield
    except InvalidModelOutputError as exc:
        raise InvalidModelOutputError(f"{name}: {exc}") from exc


def _area(box: NDArray[np.float64], picture_size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the pixels of a box, at least one each way."""
    left, top, right, bottom = (round(float(edge)) for edge in box)
    top, left = min(top, picture_size[0] - 1), min(left, picture_size[1] - 1)
    return top, left, max(top + 1, bottom), max(left + 1, right)
