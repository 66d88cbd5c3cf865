"""How far two versions of a model say the same: masks by IoU, classes by the first one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from streamseg.models.card import Card

__all__ = ["Agreement", "AgreementMeter"]


@dataclass(frozen=True)
class Agreement:
    """Agreement of a program with the float32 module.

    The weights keep a speck of a class that is not there from counting as much as a person.
    Source: Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic Segmentation",
    2015, "frequency weighted IU".

    Of mask classification the class of each pixel is compared, all queries taken together: which
    segments there are depends on thresholds besides. Source: Cheng, Schwing and Kirillov,
    "Per-Pixel Classification is Not All You Need for Semantic Segmentation", 2021, "semantic
    inference".

    Attributes:
        share: Of the pixels, or of the pictures for a classifier, that get the same class, 0 to 1.
        iou: Intersection over union of a class's pixels, the mean over all classes, each with the
            weight of its pixels in the float32 masks, 0 to 1; None for a classifier.
        pictures: How many it was measured on.
    """

    share: float
    iou: float | None
    pictures: int

    @property
    def in_words(self) -> str:
        """For people and cards."""
        if self.iou is None:
            return f"the same class on {self.share:.1%} of the pictures"
        return f"IoU {self.iou:.4f}, {self.share:.2%} of the pixels equal"


class AgreementMeter:
    """Adds up the agreement over pictures.

    Args:
        card: Says how the outputs are read; without one their shape does.
    """

    def __init__(self, card: Card | None) -> None:
        self._task = None if card is None else card.task
        self._output = None if card is None else card.output
        self._intersections: dict[int, int] = {}
        self._unions: dict[int, int] = {}
        self._weights: dict[int, int] = {}
        self._equal = 0
        self._all = 0
        self._pictures = 0
        self._masks = False

    def add(self, results: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
        """Add one picture; outputs that are neither masks nor classes count for nothing.

        Args:
            results: The program's outputs.
            expected: The module's outputs.
        """
        if self._task == "mask-classification":
            scores = [_semantic_scores(*outputs[:2]) for outputs in (results, expected)]
        elif self._task in ("semantic-segmentation", "classification") or (
            self._task is None and len(expected) == 1
        ):
            scores = [results[0], expected[0]]
        else:
            return
        rank = scores[1].ndim
        if rank not in (2, 4) or scores[1].shape[0] != 1:
            return
        self._masks = rank == 4
        ours, theirs = map(self._classes, scores)
        self._equal += int((ours == theirs).sum())
        self._all += theirs.numel()
        self._pictures += 1
        if not self._masks:
            return
        for index in {*ours.unique().tolist(), *theirs.unique().tolist()}:
            one, other = ours == index, theirs == index
            self._intersections[index] = self._intersections.get(index, 0) + int(
                (one & other).sum()
            )
            self._unions[index] = self._unions.get(index, 0) + int((one | other).sum())
            self._weights[index] = self._weights.get(index, 0) + int(other.sum())

    def result(self) -> Agreement | None:
        """Return the agreement so far, None where nothing counted."""
        if not self._pictures:
            return None
        iou = None
        if self._masks:
            iou = sum(
                self._weights[index] / self._all * self._intersections[index] / union
                for index, union in self._unions.items()
            )
        return Agreement(self._equal / self._all, iou, self._pictures)

    def _classes(self, output: Tensor) -> Tensor:
        if output.shape[1] > 1:
            return output.argmax(1)
        return output > (0.0 if self._output == "logits" else 0.5)


def _semantic_scores(classes: Tensor, masks: Tensor) -> Tensor:
    """Return a score for each class and pixel, [1, K, H, W], of class and mask logits."""
    # The last class says that a query found nothing.
    found = classes.softmax(-1)[..., :-1].transpose(1, 2)
    scores: Tensor = (found @ masks.sigmoid().flatten(2)).unflatten(2, masks.shape[2:])
    return scores
