"""From a model's outputs to the Segmentation of a frame, for each task that a model can have.

Models of semantic segmentation are read in their own process (``postprocess.py``); what the others
return is small enough to be read here, in a thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import av  # noqa: F401 - before cv2, see tests/unit/test_imports.py
import numpy as np

from streamseg.errors import InvalidModelOutputError
from streamseg.masks.instances import select_instances
from streamseg.runtime.preprocess import to_centres
from streamseg.segmentation import FrameInstance, Segmentation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from streamseg.frames import Frame
    from streamseg.models.card import Card
    from streamseg.runtime.fitting import Content
    from streamseg.runtime.pool import ModelResult

__all__ = ["Reader", "class_probabilities", "reader_for"]


class Reader(Protocol):
    """Makes a Segmentation of what a model returned for a frame."""

    in_thread: bool
    """Whether it takes too long for the event loop."""

    def read(self, frame: Frame, result: ModelResult, content: Content | None) -> Segmentation:
        """Return the segmentation.

        Args:
            frame: The frame.
            result: The model's outputs.
            content: Where the frame lies in the model's input; None where it fills it.

        Raises:
            InvalidModelOutputError: If the outputs are not what the model's card says.
        """


def reader_for(
    card: Card, labels: tuple[str, ...], wanted: tuple[str, ...], input_size: tuple[int, int]
) -> Reader:
    """Return the reader for a model's task.

    Args:
        card: The model's.
        labels: All of its labels.
        wanted: Those whose masks are wanted.
        input_size: (height, width) of its input in pixels.
    """
    if card.task == "instance-segmentation":
        return _Instances(card, labels, wanted, input_size)
    if card.task == "classification":
        return _Scores(card, labels)
    if card.task == "mask-classification":
        return _Queries(labels, wanted, input_size)
    return _Maps(card, labels, wanted, input_size)


def class_probabilities(values: NDArray[Any], card: Card) -> NDArray[np.float64]:
    """Return the probability of each class of a model for classification.

    Args:
        values: (K,), as the model returned them.
        card: The model's; says whether these are probabilities already.

    Raises:
        InvalidModelOutputError: If one of them is no number.
    """
    wide = values.astype(np.float64)
    if not np.isfinite(wide).all():
        raise InvalidModelOutputError(
            f"{card.name}: returned scores that are no numbers: check its mean and std, or export "
            "it again"
        )
    if card.output != "probability":
        wide = np.exp(wide - wide.max())
        wide /= wide.sum()
    return wide


class _Maps:
    """Maps of the wanted classes, as the model process returned them."""

    in_thread = False

    def __init__(
        self,
        card: Card,
        labels: tuple[str, ...],
        wanted: tuple[str, ...],
        input_size: tuple[int, int],
    ) -> None:
        self._corner = card.sampling == "corner"
        self._labels, self._wanted, self._input_size = labels, wanted, input_size

    def read(self, frame: Frame, result: ModelResult, content: Content | None) -> Segmentation:
        masks = [_within(mask, content, self._input_size) for mask in result.masks]
        class_map = result.class_map
        if class_map is not None:
            class_map = _within(class_map, content, self._input_size)
        if self._corner:
            # On the loop: such models are small, and this takes 0.05 ms.
            size = (frame.height, frame.width)
            masks = [to_centres(mask, size) for mask in masks]
        return Segmentation(
            index=frame.index,
            labels=self._labels,
            class_map=class_map,
            masks=dict(zip(self._wanted, masks, strict=True)),
            model_ms=result.model_ms,
        )


class _Instances:
    """Objects; the mask of a class is the union of its objects, 0 where there are none."""

    in_thread = True

    def __init__(
        self,
        card: Card,
        labels: tuple[str, ...],
        wanted: tuple[str, ...],
        input_size: tuple[int, int],
    ) -> None:
        self._rule = card.instance
        self._labels, self._wanted, self._input_size = labels, wanted, input_size
        self._classes = frozenset(labels.index(label) for label in wanted)
        self._nothing: NDArray[np.float32] = np.zeros((0, 0), np.float32)

    def read(self, frame: Frame, result: ModelResult, content: Content | None) -> Segmentation:
        found = select_instances(
            result.raw,
            self._rule,
            self._labels,
            self._input_size,
            classes=self._classes,
            content=content,
        )
        instances = tuple(
            FrameInstance(
                label=each.label,
                score=each.score,
                box=each.box_within(content),
                mask=_within(each.mask(), content, self._input_size),
            )
            for each in found
        )
        # One for all classes that are not there: nobody writes into it.
        empty = np.zeros(result.raw[2].shape[2:], np.float32)
        nothing: NDArray[np.float32] = _within(empty, content, self._input_size)
        if self._nothing.shape != nothing.shape:
            self._nothing = nothing
        masks = dict.fromkeys(self._wanted, self._nothing)
        for instance in instances:
            before = masks[instance.label]
            union = instance.mask
            if before is not self._nothing:
                union = np.maximum(before, union)
            masks[instance.label] = union
        return Segmentation(
            index=frame.index,
            labels=self._labels,
            masks=masks,
            model_ms=result.model_ms,
            instances=instances,
        )


class _Scores:
    """Probabilities of the whole picture, the most probable label first."""

    in_thread = False

    def __init__(self, card: Card, labels: tuple[str, ...]) -> None:
        self._card, self._labels = card, labels

    def read(self, frame: Frame, result: ModelResult, content: Content | None) -> Segmentation:
        values = class_probabilities(result.raw[0][0], self._card)
        order = np.argsort(-values, kind="stable").tolist()
        shares = values.tolist()
        return Segmentation(
            index=frame.index,
            labels=self._labels,
            model_ms=result.model_ms,
            scores={self._labels[index]: shares[index] for index in order},
        )


class _Queries:
    """Masks of classes out of queries: each mask counts as much as its query is of the class.

    Source: Cheng et al., "Per-Pixel Classification is Not All You Need for Semantic Segmentation",
    NeurIPS 2021, section 3.4 (semantic inference). The sums are cut at 1 here.
    """

    in_thread = True

    def __init__(
        self, labels: tuple[str, ...], wanted: tuple[str, ...], input_size: tuple[int, int]
    ) -> None:
        self._labels, self._wanted, self._input_size = labels, wanted, input_size
        self._indices = [labels.index(label) for label in wanted]

    def read(self, frame: Frame, result: ModelResult, content: Content | None) -> Segmentation:
        logits, maps = result.raw[0][0], result.raw[1][0]
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares = (powers / powers.sum(axis=1, keepdims=True))[:, self._indices]
        inside = np.float32(1.0) / (np.float32(1.0) + np.exp(-np.clip(maps, -60.0, 60.0)))
        count, rows, columns = maps.shape
        totals = shares.T.astype(np.float32) @ inside.reshape(count, -1)
        masks = np.minimum(totals, np.float32(1.0)).reshape(-1, rows, columns)
        return Segmentation(
            index=frame.index,
            labels=self._labels,
            masks={
                label: _within(mask, content, self._input_size)
                for label, mask in zip(self._wanted, masks, strict=True)
            },
            model_ms=result.model_ms,
        )


def _within(values: Any, content: Content | None, input_size: Sequence[int]) -> NDArray[Any]:
    """Return the part of a map over the model's input that the frame covers."""
    if content is None:
        array: NDArray[Any] = values
        return array
    rows, columns = values.shape
    top, bottom = (round(edge * rows / input_size[0]) for edge in (content.top, content.bottom))
    left, right = (round(edge * columns / input_size[1]) for edge in (content.left, content.right))
    part: NDArray[Any] = values[top : max(top + 1, bottom), left : max(left + 1, right)]
    return np.ascontiguousarray(part)
