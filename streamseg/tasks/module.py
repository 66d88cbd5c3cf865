"""The tasks in the form of React Native ExecuTorch's module API: make it, load it, call it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from streamseg.errors import ModuleNotLoadedError
from streamseg.tasks.base import StillTask
from streamseg.tasks.classifier import Classification, Classifier
from streamseg.tasks.semantic import SemanticSegmenter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from streamseg.models.card import Model
    from streamseg.tasks.images import ImageSource
    from streamseg.tasks.semantic_result import SemanticResult

__all__ = ["ClassificationModule", "ImageSegmentationModule"]

TaskT = TypeVar("TaskT", bound=StillTask)


class _Module(Generic[TaskT]):
    """One task at a time, by the name or file that ``load`` was given last."""

    _kind: ClassVar[type[StillTask]]

    def __init__(self) -> None:
        self._task: TaskT | None = None
        self._listeners: list[Callable[[float], object]] = []

    def on_download_progress(self, callback: Callable[[float], object]) -> Callable[[], None]:
        """Have a function called with the share of a download that is done, 0 to 1.

        Args:
            callback: Called on the event loop.

        Returns:
            A function that ends this.
        """
        self._listeners.append(callback)

        def stop() -> None:
            with contextlib.suppress(ValueError):  # called twice
                self._listeners.remove(callback)

        return stop

    async def load(self, model_source: str | Path | Model, **options: Any) -> None:
        """Load a model, in the place of the one before.

        Args:
            model_source: Name of a model, path of a .pte, or the model itself.
            options: See ``StillTask``.

        Raises:
            StreamsegError: As ``StillTask.open``.
        """
        await self.delete()
        self._task = await self._kind.load(  # type: ignore[assignment]
            model_source, on_progress=self._report, **options
        )

    async def delete(self) -> None:
        """Give the model back."""
        task, self._task = self._task, None
        if task is not None:
            await task.aclose()

    def _loaded(self) -> TaskT:
        if self._task is None:
            raise ModuleNotLoadedError
        return self._task

    def _report(self, progress: float) -> None:
        for listener in tuple(self._listeners):
            listener(progress)


class ImageSegmentationModule(_Module[SemanticSegmenter[Any]]):
    """A ``SemanticSegmenter`` that is made first and loaded then.

    Example::

        module = ImageSegmentationModule()
        await module.load("selfie")
        result = await module.forward("portrait.jpg", ["SELFIE"])
        await module.delete()
    """

    _kind = SemanticSegmenter

    async def forward(
        self, input: ImageSource, classes_of_interest: Sequence[str] = (), resize: bool = False
    ) -> SemanticResult[str]:
        """Return the class of every pixel, in the model's size unless ``resize`` is set.

        Args:
            input: See ``load_image``.
            classes_of_interest: Labels whose probabilities are wanted, or ``"all"``.
            resize: Whether the arrays have the picture's size.

        Raises:
            StreamsegError: As ``SemanticSegmenter.forward``.
        """
        return await self._loaded().forward(input, classes_of_interest, resize)


class ClassificationModule(_Module[Classifier]):
    """A ``Classifier`` that is made first and loaded then."""

    _kind = Classifier

    async def forward(self, input: ImageSource) -> Classification:
        """Return the probability of each class.

        Args:
            input: See ``load_image``.

        Raises:
            StreamsegError: As ``Classifier.forward``.
        """
        return await self._loaded().forward(input)
