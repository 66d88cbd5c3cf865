"""Pipelines with the call, the defaults, the results and the errors of transformers' own.

segmenter = streamseg.pipeline("image-segmentation", model="mask2former.pte")
for found in segmenter("street.jpg"):
    found["label"], found["score"], found["mask"]     # str, float or None, a PIL image

Source: transformers 5.23, ``pipelines/image_segmentation.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, cast, overload

from anyio import to_thread
from PIL import Image

from streamseg.errors import InvalidConfigError
from streamseg.tasks.classifier import Classifier
from streamseg.tasks.mask_rules import Thresholds
from streamseg.tasks.panoptic import PanopticSegmenter
from streamseg.tasks.transformers_pipeline_base import TIMEOUT_S, ImagePipeline, PipelineValueError
from streamseg.tasks.transformers_pipeline_classification import ImageClassificationPipeline

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from streamseg.models.card import Model
    from streamseg.tasks.images import ImageSource
    from streamseg.tasks.mask_rules import SegmentMap, Subtask

__all__ = [
    "FoundSegment",
    "ImageClassificationPipeline",
    "ImageSegmentationPipeline",
    "SegmentationOptions",
    "pipeline",
]

_TASKS = ("image-segmentation", "image-classification")
_SEGMENTATION_OPTIONS = {"subtask", "threshold", "mask_threshold", "overlap_mask_area_threshold"}


class FoundSegment(TypedDict):
    """A segment: ``score`` in [0, 1] or None, ``label``, and ``mask``, a PIL image of mode L.

    The mask has the picture's size, 255 where the segment is and 0 elsewhere.
    """

    score: float | None
    label: str
    mask: Image.Image


class SegmentationOptions(TypedDict, total=False):
    """The options of a call: see ``ImageSegmentationPipeline.__call__``."""

    subtask: str | None
    threshold: float | None
    mask_threshold: float | None
    overlap_mask_area_threshold: float | None
    batch_size: int | None
    timeout: float | None


class ImageSegmentationPipeline(ImagePipeline[PanopticSegmenter, list[FoundSegment]]):
    """What ``pipeline("image-segmentation")`` returns: called with pictures, it returns segments.

    Example::

        with pipeline("image-segmentation", model="mask2former.pte") as segmenter:
            segments = segmenter("street.jpg", threshold=0.5)

    Args:
        load: Makes the task; called in a loop of its own.
        subtask: The defaults of the calls, as the other arguments: see ``pipeline``.
        threshold: See ``pipeline``.
        mask_threshold: See ``pipeline``.
        overlap_mask_area_threshold: See ``pipeline``.
        batch_size: See ``pipeline``.
        timeout: See ``pipeline``.

    Raises:
        StreamsegError: If the model cannot be loaded.
    """

    task = "image-segmentation"

    def __init__(
        self,
        load: Callable[[], Awaitable[PanopticSegmenter]],
        *,
        subtask: str | None = None,
        threshold: float = 0.9,
        mask_threshold: float = 0.5,
        overlap_mask_area_threshold: float = 0.5,
        batch_size: int = 1,
        timeout: float | None = None,
    ) -> None:
        self._subtask = subtask
        self._thresholds = _checked_thresholds(
            threshold, mask_threshold, overlap_mask_area_threshold
        )
        self._timeout_s = timeout
        super().__init__(load, batch_size)

    @overload
    def __call__(
        self, images: list[Any], **options: Unpack[SegmentationOptions]
    ) -> list[list[FoundSegment]]: ...
    @overload
    def __call__(
        self, images: ImageSource, **options: Unpack[SegmentationOptions]
    ) -> list[FoundSegment]: ...
    def __call__(
        self,
        images: ImageSource | list[Any],
        *,
        subtask: str | None = None,
        threshold: float | None = None,
        mask_threshold: float | None = None,
        overlap_mask_area_threshold: float | None = None,
        batch_size: int | None = None,
        timeout: float | None = None,
    ) -> list[FoundSegment] | list[list[FoundSegment]]:
        """Return the segments of a picture, or of each picture of a list.

        Args:
            images: A picture or a list of pictures: http(s) URL, path, base64, ``data:`` URI, PIL
                image; also bytes, arrays and frames, see ``load_image``.
            subtask: ``panoptic``, ``instance`` or ``semantic``; by default the first of these that
                the model can do. What is not given here is as it was given to ``pipeline``.
            threshold: A segment's class must be more probable than this, in [0, 1].
            mask_threshold: From which value on a pixel counts to a query's own mask, in [0, 1].
            overlap_mask_area_threshold: How much of its mask a segment must keep beside the others,
                in [0, 1].
            batch_size: How many pictures of a list are under way at once.
            timeout: How long a URL may take, in seconds; 30 if it is not given.

        Returns:
            Dictionaries with ``score``, ``label`` and ``mask``; a list of such lists for a list.
            ``semantic`` finds each class once, by ascending index, with a score of None.

        Raises:
            ModuleNotLoadedError: If it is closed.
            PipelineTypeError: A TypeError too: if one of them is no picture.
            PipelineValueError: A ValueError too: if the model cannot do the subtask, or another
                argument is wrong.
            UnreadableImageError: A ValueError too: if a picture cannot be read.
            WorkerError: If the model's process failed.
        """
        one = self._work(subtask, threshold, mask_threshold, overlap_mask_area_threshold, timeout)
        return self._call(images, one, batch_size)

    @overload
    async def forward(
        self, images: list[Any], **options: Unpack[SegmentationOptions]
    ) -> list[list[FoundSegment]]: ...
    @overload
    async def forward(
        self, images: ImageSource, **options: Unpack[SegmentationOptions]
    ) -> list[FoundSegment]: ...
    async def forward(
        self,
        images: ImageSource | list[Any],
        *,
        subtask: str | None = None,
        threshold: float | None = None,
        mask_threshold: float | None = None,
        overlap_mask_area_threshold: float | None = None,
        batch_size: int | None = None,
        timeout: float | None = None,
    ) -> list[FoundSegment] | list[list[FoundSegment]]:
        """Return the segments, from code with an event loop. See ``__call__``."""
        one = self._work(subtask, threshold, mask_threshold, overlap_mask_area_threshold, timeout)
        return await self._forward(images, one, batch_size)

    def _work(
        self,
        subtask: str | None,
        threshold: float | None,
        mask_threshold: float | None,
        overlap_mask_area_threshold: float | None,
        timeout: float | None,
    ) -> Callable[[PanopticSegmenter, ImageSource], Awaitable[list[FoundSegment]]]:
        usual = self._thresholds
        thresholds = _checked_thresholds(
            usual.score if threshold is None else threshold,
            usual.mask if mask_threshold is None else mask_threshold,
            usual.overlap if overlap_mask_area_threshold is None else overlap_mask_area_threshold,
        )
        # What is no subtask at all is refused there, with the names of those that are.
        wanted = cast("Subtask | None", self._subtask if subtask is None else subtask)
        timeout_s = (self._timeout_s if timeout is None else timeout) or TIMEOUT_S

        async def one(task: PanopticSegmenter, image: ImageSource) -> list[FoundSegment]:
            found = await task.forward(image, wanted, thresholds=thresholds, timeout_s=timeout_s)
            return await to_thread.run_sync(_described, found, task.labels)

        return one


@overload
def pipeline(
    task: Literal["image-segmentation"], model: str | Path | Model, **options: Any
) -> ImageSegmentationPipeline: ...
@overload
def pipeline(
    task: Literal["image-classification"], model: str | Path | Model, **options: Any
) -> ImageClassificationPipeline: ...
@overload
def pipeline(
    task: str | None = None, model: str | Path | Model | None = None, **options: Any
) -> ImageSegmentationPipeline | ImageClassificationPipeline: ...
def pipeline(
    task: str | None = None,
    model: str | Path | Model | None = None,
    *,
    batch_size: int = 1,
    timeout: float | None = None,
    threads: int | None = None,
    workers: int = 1,
    on_progress: Callable[[float], object] | None = None,
    **options: Any,
) -> ImageSegmentationPipeline | ImageClassificationPipeline:
    """Load a model and return an object that is called with pictures.

    Args:
        task: ``image-segmentation`` or ``image-classification``.
        model: Name of a model, path or address of a .pte with its card, or the model itself; see
            ``export_transformers`` for models of transformers.
        batch_size: How many pictures of a list are under way at once.
        timeout: How long the URL of a picture may take, in seconds; 30 if it is not given.
        threads: Threads of each model; None chooses by the input's size.
        workers: How many model processes.
        on_progress: Called with the share of the download that is done, 0 to 1.
        options: The defaults of the object's calls: for segmentation ``subtask`` (None),
            ``threshold`` (0.9), ``mask_threshold`` (0.5) and ``overlap_mask_area_threshold`` (0.5),
            for classification ``top_k`` (5).

    Raises:
        InvalidConfigError: If there is no such task or option, or the model is for another task.
        ModelError: If there is no such model, or it cannot be used.
    """
    if task not in _TASKS:
        given = "no task was given" if task is None else f"unknown task {task!r}"
        raise InvalidConfigError(f"{given}, expected {' or '.join(_TASKS)}")
    if model is None:
        raise InvalidConfigError(
            f"no model was given for {task}: give a name, such as selfie, or the path of a .pte"
        )
    known = _SEGMENTATION_OPTIONS if task == "image-segmentation" else {"top_k"}
    unknown = sorted(set(options) - known)
    if unknown:
        raise InvalidConfigError(
            f"unknown option {unknown[0]!r} for {task}, expected one of {', '.join(sorted(known))}"
        )
    calls = {**options, "batch_size": batch_size, "timeout": timeout}
    loading: dict[str, Any] = {
        "threads": threads,
        "workers": workers,
        "on_progress": on_progress,
        "queue": True,
    }
    if task == "image-segmentation":
        return ImageSegmentationPipeline(lambda: PanopticSegmenter.load(model, **loading), **calls)
    return ImageClassificationPipeline(lambda: Classifier.load(model, **loading), **calls)


def _described(found: SegmentMap, labels: tuple[str, ...]) -> list[FoundSegment]:
    return [
        FoundSegment(
            score=segment.score,
            label=labels[segment.label_id],
            mask=Image.fromarray(found.mask(segment)),
        )
        for segment in found.segments
    ]


def _checked_thresholds(threshold: float, mask: float, overlap: float) -> Thresholds:
    names = ("threshold", "mask_threshold", "overlap_mask_area_threshold")
    for name, value in zip(names, (threshold, mask, overlap), strict=True):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise PipelineValueError(f"{name} is {value!r}, expected 0 to 1")
    return Thresholds(float(threshold), float(mask), float(overlap))
