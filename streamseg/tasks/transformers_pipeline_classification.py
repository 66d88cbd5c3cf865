"""ImageClassificationPipeline: a classifier with the call and the results of transformers' own.

Source: transformers 5.23, ``pipelines/image_classification.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict, Unpack, overload

from streamseg.tasks.classifier import Classifier
from streamseg.tasks.images import load_image
from streamseg.tasks.transformers_pipeline_base import TIMEOUT_S, ImagePipeline, PipelineValueError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from streamseg.tasks.images import ImageSource

__all__ = ["ClassificationOptions", "FoundClass", "ImageClassificationPipeline"]


class FoundClass(TypedDict):
    """What a picture may show: ``label``, and ``score``, its probability in [0, 1]."""

    label: str
    score: float


class ClassificationOptions(TypedDict, total=False):
    """The options of a call: see ``ImageClassificationPipeline.__call__``."""

    top_k: int | None
    batch_size: int | None
    timeout: float | None


class ImageClassificationPipeline(ImagePipeline[Classifier, list[FoundClass]]):
    """What ``pipeline("image-classification")`` returns: called with pictures, it returns classes.

    Args:
        load: Makes the task; called in a loop of its own.
        top_k: The defaults of the calls, as the other arguments: see ``pipeline``.
        batch_size: See ``pipeline``.
        timeout: See ``pipeline``.

    Raises:
        StreamsegError: If the model cannot be loaded.
    """

    task = "image-classification"

    def __init__(
        self,
        load: Callable[[], Awaitable[Classifier]],
        *,
        top_k: int = 5,
        batch_size: int = 1,
        timeout: float | None = None,
    ) -> None:
        self._top_k = _checked(top_k)
        self._timeout_s = timeout
        super().__init__(load, batch_size)

    @overload
    def __call__(
        self, images: list[Any], **options: Unpack[ClassificationOptions]
    ) -> list[list[FoundClass]]: ...
    @overload
    def __call__(
        self, images: ImageSource, **options: Unpack[ClassificationOptions]
    ) -> list[FoundClass]: ...
    def __call__(
        self,
        images: ImageSource | list[Any],
        *,
        top_k: int | None = None,
        batch_size: int | None = None,
        timeout: float | None = None,
    ) -> list[FoundClass] | list[list[FoundClass]]:
        """Return what a picture, or each picture of a list, shows; the most probable first.

        Args:
            images: A picture or a list of pictures, see ``load_image``.
            top_k: How many classes; all where there are fewer. What is not given here is as it was
                given to ``pipeline``.
            batch_size: How many pictures of a list are under way at once.
            timeout: How long a URL may take, in seconds; 30 if it is not given.

        Raises:
            ModuleNotLoadedError: If it is closed.
            PipelineTypeError: A TypeError too: if one of them is no picture.
            PipelineValueError: A ValueError too: if an argument is wrong.
            UnreadableImageError: A ValueError too: if a picture cannot be read.
            WorkerError: If the model's process failed.
        """
        return self._call(images, self._work(top_k, timeout), batch_size)

    @overload
    async def forward(
        self, images: list[Any], **options: Unpack[ClassificationOptions]
    ) -> list[list[FoundClass]]: ...
    @overload
    async def forward(
        self, images: ImageSource, **options: Unpack[ClassificationOptions]
    ) -> list[FoundClass]: ...
    async def forward(
        self,
        images: ImageSource | list[Any],
        *,
        top_k: int | None = None,
        batch_size: int | None = None,
        timeout: float | None = None,
    ) -> list[FoundClass] | list[list[FoundClass]]:
        """Return the classes, from code with an event loop. See ``__call__``."""
        return await self._forward(images, self._work(top_k, timeout), batch_size)

    def _work(
        self, top_k: int | None, timeout: float | None
    ) -> Callable[[Classifier, ImageSource], Awaitable[list[FoundClass]]]:
        count = self._top_k if top_k is None else _checked(top_k)
        timeout_s = (self._timeout_s if timeout is None else timeout) or TIMEOUT_S

        async def one(task: Classifier, image: ImageSource) -> list[FoundClass]:
            picture = await load_image(image, timeout_s=timeout_s)
            found = await task.forward(picture.pixels)
            return [FoundClass(label=label, score=score) for label, score in found.top_k(count)]

        return one


def _checked(top_k: int) -> int:
    if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:
        raise PipelineValueError(f"top_k is {top_k!r}, expected 1 or more")
    return top_k
