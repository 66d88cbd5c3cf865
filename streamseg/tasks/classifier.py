"""Classifier: what a picture shows, as a probability for each label.

async with await Classifier.load("efficientnet-v2-s") as classifier:
    result = await classifier.forward("cat.jpg")
    result.top_k(3)                         # [("TABBY", 0.62), ...]
"""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING, Any

from streamseg.errors import (
    InvalidModelOutputError,
    InvalidUserInputError,
)
from streamseg.models.labels import IMAGENET_LABELS
from streamseg.runtime.answers import class_probabilities
from streamseg.tasks.base import StillTask

if TYPE_CHECKING:
    from pathlib import Path

    from streamseg.models.card import Model
    from streamseg.runtime.process import LoadedModel
    from streamseg.tasks.blocking import BlockingClassifier
    from streamseg.tasks.images import ImageSource

__all__ = ["Classification", "Classifier"]


class Classification(dict[str, float]):
    """Label -> probability in [0, 1], of all labels, in the model's order."""

    def top_k(self, k: int = 5) -> list[tuple[str, float]]:
        """Return the most probable labels with their probabilities, the best one first.

        Args:
            k: How many; all where there are fewer.

        Raises:
            InvalidUserInputError: If it is below 1.
        """
        if k < 1:
            raise InvalidUserInputError(f"k is {k}, expected 1 or more")
        # As stable as sorting: of two that are equal, the first one comes first.
        return heapq.nlargest(k, self.items(), key=lambda item: item[1])


class Classifier(StillTask):
    """A model that says what a picture shows. See ``StillTask`` for its arguments and state.

    Example::

        async with await Classifier.load("efficientnet-v2-s") as classifier:
            result = await classifier.forward("cat.jpg")
            result.top_k(3)  # [("TABBY", 0.62), ...]
    """

    task = "classification"
    raw = True
    not_of_tflite = "no classifier: use a name such as efficientnet-v2-s, or a .pte"

    @classmethod
    def blocking(cls, model: str | Path | Model, **options: Any) -> BlockingClassifier:
        """Return the same object for code without an event loop, with its model loaded.

        Args:
            model: See ``StillTask``.
            options: As for ``load``.

        Raises:
            StreamsegError: As ``open``.
        """
        from streamseg.tasks.blocking import BlockingClassifier

        return BlockingClassifier(lambda: cls.load(model, **options))

    async def forward(self, image: ImageSource) -> Classification:
        """Return the probability of each class.

        Args:
            image: See ``load_image``.

        Raises:
            ModuleNotLoadedError: If the model is not loaded.
            ModelGeneratingError: If another call is running, without ``queue``.
            InvalidModelOutputError: If the model returned another number of values than labels, or
                what is no number.
            FileReadFailedError: If the picture cannot be read.
            InvalidUserInputError: If it is none.
            WorkerError: If the model's process failed.
        """
        _, result = await self._infer(image)
        values = result.raw[0].reshape(-1)
        labels = self.labels
        if len(values) != len(labels):
            raise InvalidModelOutputError(
                f"{self.card.name}: returned {len(values)} values for {len(labels)} labels"
            )
        shares = class_probabilities(values, self.card)
        return Classification(zip(labels, shares.tolist(), strict=True))

    def _labels_of(self, model: Model, loaded: LoadedModel) -> tuple[str, ...]:
        shape = loaded.output_shapes[0]
        # One value for each class, with or without a picture of one pixel around it.
        if len(loaded.output_shapes) != 1 or math.prod(shape) != max(shape, default=0):
            shapes = ", ".join(str(list(shape)) for shape in loaded.output_shapes)
            raise InvalidModelOutputError(
                f"{model.path}: cannot be used as a classifier: it returns {shapes}, "
                "expected [1, classes]; use a model for this task"
            )
        count = max(shape)
        labels = model.card.labels
        if labels is None:
            if count == len(IMAGENET_LABELS):
                return IMAGENET_LABELS
            return tuple(f"CLASS_{index}" for index in range(count))
        if len(labels) != count:
            raise InvalidModelOutputError(
                f"{model.path}: its card has {len(labels)} labels, but it returns {count} values: "
                "correct the card"
            )
        return labels
