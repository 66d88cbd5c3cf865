"""SemanticSegmenter: the class of every pixel of a still picture.

async with await SemanticSegmenter.load("selfie") as segmenter:
    result = await segmenter.forward("portrait.jpg", ["SELFIE"])
    result.ARGMAX, result.SELFIE            # int32 and float32, in the picture's size
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, Never, Self, overload

import numpy as np
from typing_extensions import TypeVar

from streamseg.errors import ConfigError, InvalidUserInputError
from streamseg.runtime.classes import choose_classes
from streamseg.tasks.base import StillTask
from streamseg.tasks.fitting import check_memory, enlarge_classes, enlarge_masks
from streamseg.tasks.labels import SelfieLabel, SelfieModel, VocLabel, VocModel
from streamseg.tasks.semantic_result import SemanticResult
from streamseg.tasks.threads import in_thread

if TYPE_CHECKING:
    from pathlib import Path

    from streamseg.models.card import Model
    from streamseg.runtime.pool import ModelResult
    from streamseg.tasks.blocking import BlockingSemanticSegmenter
    from streamseg.tasks.images import ImageSource, Picture
    from streamseg.tasks.threads import Check

__all__ = ["SemanticSegmenter"]

LabelT = TypeVar("LabelT", bound=str, default=Any)
AskedT = TypeVar("AskedT", bound=str)


class SemanticSegmenter(StillTask, Generic[LabelT]):
    """A model that gives a class to every pixel. See ``StillTask`` for its arguments and state.

    Example::

        async with await SemanticSegmenter.load("selfie") as segmenter:
            result = await segmenter.forward("portrait.jpg", ["SELFIE"])
            result.ARGMAX, result.SELFIE  # int32 and float32, in the picture's size
    """

    task = "semantic-segmentation"
    raw = False

    # A type checker knows the labels of the models that have a name.
    if TYPE_CHECKING:

        @overload
        @classmethod
        async def load(
            cls, model: SelfieModel, **options: Any
        ) -> SemanticSegmenter[SelfieLabel]: ...
        @overload
        @classmethod
        async def load(cls, model: VocModel, **options: Any) -> SemanticSegmenter[VocLabel]: ...
        @overload
        @classmethod
        async def load(cls, model: str | Path | Model, **options: Any) -> Self: ...
        @classmethod
        async def load(cls, model: Any, **options: Any) -> Any:
            """See ``StillTask.load``."""

    @classmethod
    def blocking(cls, model: str | Path | Model, **options: Any) -> BlockingSemanticSegmenter:
        """Return the same object for code without an event loop, with its model loaded.

        Args:
            model: See ``StillTask``.
            options: As for ``load``.

        Raises:
            StreamsegError: As ``open``.
        """
        from streamseg.tasks.blocking import BlockingSemanticSegmenter

        return BlockingSemanticSegmenter(lambda: cls.load(model, **options))

    @overload
    async def forward(
        self, image: ImageSource, *, resize_to_input: bool = True
    ) -> SemanticResult[Never]: ...
    @overload
    async def forward(
        self,
        image: ImageSource,
        classes_of_interest: Literal["all"],
        resize_to_input: bool = True,
    ) -> SemanticResult[LabelT]: ...
    @overload
    async def forward(
        self,
        image: ImageSource,
        classes_of_interest: Sequence[AskedT],
        resize_to_input: bool = True,
    ) -> SemanticResult[AskedT]: ...
    async def forward(
        self,
        image: ImageSource,
        classes_of_interest: Sequence[str] = (),
        resize_to_input: bool = True,
    ) -> SemanticResult[Any]:
        """Return the class of every pixel.

        Softmax comes first, then resizing. A model of one channel returns the probability of its
        first label; its second one is the rest.

        Args:
            image: See ``load_image``.
            classes_of_interest: Labels whose probabilities are wanted, in any case, or ``"all"``.
            resize_to_input: Whether the arrays have the picture's size (classes by the nearest
                value, probabilities bilinearly) instead of the model's.

        Returns:
            ``ARGMAX``, and an array for each label asked for.

        Raises:
            ModuleNotLoadedError: If the model is not loaded.
            ModelGeneratingError: If another call is running, without ``queue``.
            InvalidUserInputError: If the model has no such label, or the picture is none.
            FileReadFailedError: If the picture cannot be read.
            WorkerError: If the model's process failed.
        """
        async with self._turn():
            classes = _indices(self.labels, classes_of_interest)
            picture, result = await self._run(image, classes)
            if resize_to_input:
                instead = "ask for fewer, or with resize_to_input=False"
                check_memory(len(classes), picture.size, instead)
                return await in_thread(partial(self._enlarged, result, classes, picture))
            return self._labelled(result, classes, result.class_map, result.masks)

    def _enlarged(
        self, result: ModelResult, classes: tuple[int, ...], picture: Picture, check: Check
    ) -> SemanticResult[Any]:
        assert result.class_map is not None
        class_map = enlarge_classes(result.class_map, self.card, picture.size)
        masks = enlarge_masks(result.masks, self.card, picture.size, check)
        return self._labelled(result, classes, class_map, masks)

    def _labelled(
        self, result: ModelResult, classes: tuple[int, ...], class_map: Any, masks: Any
    ) -> SemanticResult[Any]:
        labels = self.labels
        return SemanticResult(
            class_map.astype(np.int32),
            {labels[index]: mask for index, mask in zip(classes, masks, strict=True)},
            labels=labels,
            model_ms=result.model_ms,
            inference_ms=result.inference_ms,
        )


def _indices(labels: tuple[str, ...], wanted: Sequence[str]) -> tuple[int, ...]:
    """Return the indices of the wanted labels, each once."""
    if wanted != "all" and (isinstance(wanted, str) or not isinstance(wanted, Collection)):
        raise InvalidUserInputError(
            f"classes_of_interest is {wanted!r}, expected a list of labels, or 'all'"
        )
    if not all(isinstance(label, str) for label in wanted):
        raise InvalidUserInputError(f"classes_of_interest is {wanted!r}, expected labels as text")
    try:
        return tuple(dict.fromkeys(choose_classes(labels, wanted)))
    except ConfigError as exc:
        raise InvalidUserInputError(str(exc)) from exc
