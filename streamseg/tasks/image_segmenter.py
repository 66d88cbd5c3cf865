"""ImageSegmenter: a .tflite model, used as with TensorFlow Lite's task library, or MediaPipe's.

async with await ImageSegmenter.load("deeplabv3.tflite") as segmenter:
    result = await segmenter.segment("horse.jpg")
    result.category_mask                        # uint8, in the model's size
    result.colored_labels[15].category_name     # "person"

Source: the reference of TensorFlow Lite's task library for the options and results, MediaPipe's for
the running modes.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
from anyio import to_thread

from streamseg.errors import InvalidConfigError, InvalidModelOutputError, InvalidUserInputError
from streamseg.models.card import Model
from streamseg.tasks.base import StillTask
from streamseg.tasks.blocking import BlockingTask
from streamseg.tasks.fitting import enlarge_classes, enlarge_mask
from streamseg.tasks.image_segmenter_result import (
    ColoredLabel,
    OutputType,
    RunningMode,
    SegmentationResult,
    colored_label,
    voc_color,
)
from streamseg.tasks.image_segmenter_stream import LiveStatistics, NewestOnly

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from streamseg.runtime.pool import ModelResult
    from streamseg.tasks.images import ImageSource

__all__ = [
    "BlockingImageSegmenter",
    "ColoredLabel",
    "ImageSegmenter",
    "OutputType",
    "RunningMode",
    "SegmentationResult",
    "voc_color",
]

ChoiceT = TypeVar("ChoiceT", bound=StrEnum)

_MAX_CATEGORIES = 256


class ImageSegmenter(StillTask):
    """A model that gives a class to every pixel, with TensorFlow Lite's options and results.

    A .tflite file is converted when it is first used, which takes seconds, and kept in the cache.

    Args:
        model: Path of a .tflite file, or what ``StillTask`` takes.
        output_type: What ``segment`` returns.
        num_threads: Threads of the model, -1 to choose by its size.
        running_mode: How pictures come.
        result_callback: For ``live_stream``, where it must be given: called on the event loop with
            a result, its picture and its timestamp.
        options: Further arguments of ``StillTask``.

    Raises:
        InvalidConfigError: If an option is wrong.
    """

    task = "semantic-segmentation"
    raw = False

    def __init__(
        self,
        model: str | Path | Model,
        *,
        output_type: OutputType | str = OutputType.CATEGORY_MASK,
        num_threads: int = -1,
        running_mode: RunningMode | str = RunningMode.IMAGE,
        result_callback: Callable[[SegmentationResult, ImageSource, int], object] | None = None,
        **options: Any,
    ) -> None:
        self.output_type = _choice("output_type", OutputType, output_type)
        self.running_mode = _choice("running_mode", RunningMode, running_mode)
        number = isinstance(num_threads, int) and not isinstance(num_threads, bool)
        if not number or not (num_threads == -1 or num_threads >= 1):
            raise InvalidConfigError(f"num_threads is {num_threads!r}, expected -1, or 1 or more")
        super().__init__(model, threads=None if num_threads == -1 else num_threads, **options)
        if (result_callback is not None) != (self.running_mode is RunningMode.LIVE_STREAM):
            raise InvalidConfigError(
                f"result_callback belongs to the running mode live_stream, not to "
                f"{self.running_mode}: give both or neither"
            )
        self._colored_labels: tuple[ColoredLabel, ...] = ()
        self._callback = result_callback
        self._stream: NewestOnly[tuple[ImageSource, int]] = NewestOnly(self._deliver)
        self._newest_ms: int | None = None

    @classmethod
    async def load(
        cls,
        model: str | Path | Model,
        *,
        on_progress: Callable[[float], object] | None = None,
        prevent_load: bool = False,
        **options: Any,
    ) -> Self:
        """Return an object with its model loaded, converted or downloaded before if needed.

        Args:
            model: See the class, as the other arguments.
            on_progress: Called with the share of the download that is done.
            prevent_load: Whether to return the object without loading anything.
            options: Further arguments of the class.

        Raises:
            StreamsegError: As ``open``.
        """
        self = cls(model, on_progress=on_progress, **options)
        if not prevent_load:
            await self.open()
        return self

    @classmethod
    def blocking(cls, model: str | Path | Model, **options: Any) -> BlockingImageSegmenter:
        """Return the same object for code without an event loop, with its model loaded.

        Args:
            model: See the class.
            options: As for ``load``.

        Raises:
            StreamsegError: As ``open``.
        """
        return BlockingImageSegmenter(lambda: cls.load(model, **options))

    @property
    def colored_labels(self) -> tuple[ColoredLabel, ...]:
        """The classes, in the model's order.

        Raises:
            ModuleNotLoadedError: If the model is not loaded.
        """
        labels = self.labels
        if len(self._colored_labels) != len(labels):
            self._colored_labels = tuple(
                colored_label(index, label) for index, label in enumerate(labels)
            )
        return self._colored_labels

    async def open(self) -> None:
        """Load the model. See ``StillTask.open``."""
        await super().open()
        if self.running_mode is RunningMode.LIVE_STREAM:
            self._stream.start()

    async def aclose(self) -> None:
        """End the model processes; calls that are running fail."""
        await self._stream.aclose()
        await super().aclose()

    async def segment(self, image: ImageSource) -> SegmentationResult:
        """Return the class of every pixel, or the confidence of every class.

        The picture is stretched to the model's size; the result has the model's size too.

        Args:
            image: See ``load_image``.

        Raises:
            InvalidConfigError: If the running mode is another one.
            ModuleNotLoadedError: If the model is not loaded.
            ModelGeneratingError: If another call is running, without ``queue``.
            FileReadFailedError: If the picture cannot be read.
            InvalidUserInputError: If it is none.
            WorkerError: If the model's process failed.
        """
        self._expect(RunningMode.IMAGE, "segment")
        return await self._segment(image, None)

    async def segment_for_video(self, image: ImageSource, timestamp_ms: int) -> SegmentationResult:
        """Return what is in a frame of a video, in the frame's size.

        Args:
            image: See ``load_image``.
            timestamp_ms: Later than that of every frame before, in milliseconds.

        Raises:
            InvalidUserInputError: If the timestamp is not later, or the picture is none.
            StreamsegError: As ``segment``.
        """
        self._expect(RunningMode.VIDEO, "segment_for_video")
        self._opened()
        self._advance(timestamp_ms)
        return await self._segment(image, timestamp_ms)

    def segment_async(self, image: ImageSource, timestamp_ms: int) -> None:
        """Hand over a frame of a live stream and return at once.

        The callback is called when the model is done with it; it is not where a newer frame came
        before its turn, or where it cannot be read: see ``statistics``. To be called on the event
        loop.

        Args:
            image: See ``load_image``; not to be written into until the callback was called.
            timestamp_ms: Later than that of every frame before, in milliseconds.

        Raises:
            InvalidConfigError: If the running mode is another one.
            ModuleNotLoadedError: If the model is not loaded.
            InvalidUserInputError: If the timestamp is not later.
        """
        self._expect(RunningMode.LIVE_STREAM, "segment_async")
        self._opened()
        self._advance(timestamp_ms)
        self._stream.put((image, timestamp_ms))

    def statistics(self) -> LiveStatistics:
        """Return what became of the frames given to ``segment_async`` until now."""
        return self._stream.statistics()

    async def _deliver(self, item: tuple[ImageSource, int]) -> None:
        image, timestamp_ms = item
        result = await self._segment(image, timestamp_ms)
        assert self._callback is not None
        self._callback(result, image, timestamp_ms)

    async def _segment(self, image: ImageSource, timestamp_ms: int | None) -> SegmentationResult:
        categories = self.output_type is OutputType.CATEGORY_MASK
        labels = self.colored_labels
        picture, result = await self._infer(image, () if categories else None)
        size = None if timestamp_ms is None else picture.size
        category_mask, confidence_masks = await to_thread.run_sync(
            self._masks, result, categories, size
        )
        return SegmentationResult(
            category_mask, confidence_masks, labels, result.model_ms, timestamp_ms
        )

    def _masks(
        self, result: ModelResult, categories: bool, size: tuple[int, int] | None
    ) -> tuple[NDArray[np.uint8] | None, tuple[NDArray[np.float32], ...] | None]:
        if not categories:
            masks = tuple(result.masks)
            if size is not None:
                masks = tuple(enlarge_mask(mask, self.card, size) for mask in masks)
            return None, masks
        assert result.class_map is not None
        class_map = np.asarray(result.class_map, np.uint8)
        return class_map if size is None else enlarge_classes(class_map, self.card, size), None

    def _expect(self, mode: RunningMode, call: str) -> None:
        if self.running_mode is not mode:
            raise InvalidConfigError(
                f"{call} needs the running mode {mode}, this segmenter has {self.running_mode}"
            )

    def _advance(self, timestamp_ms: int) -> None:
        if isinstance(timestamp_ms, bool) or not isinstance(timestamp_ms, int):
            raise InvalidUserInputError(f"timestamp_ms is {timestamp_ms!r}, expected an integer")
        if self._newest_ms is not None and timestamp_ms <= self._newest_ms:
            raise InvalidUserInputError(
                f"timestamp_ms is {timestamp_ms}, expected more than {self._newest_ms}, "
                "that of the frame before"
            )
        self._newest_ms = timestamp_ms

    async def _load(self) -> Any:
        pool = await super()._load()
        if len(pool.labels) > _MAX_CATEGORIES:
            await pool.aclose()
            raise InvalidModelOutputError(
                f"the model has {len(pool.labels)} classes, a category mask has at most "
                f"{_MAX_CATEGORIES}: use a SemanticSegmenter"
            )
        return pool

    async def _obtain(self) -> Model:
        wanted = self._wanted
        if isinstance(wanted, Model) or Path(wanted).suffix.lower() != ".tflite":
            return await super()._obtain()
        from streamseg.convert._tflite_store import converted

        model = await converted(wanted)
        self._report(1.0)
        return model


def _choice(name: str, kind: type[ChoiceT], given: str) -> ChoiceT:
    try:
        return kind(given)
    except ValueError as exc:
        expected = " or ".join(repr(str(member)) for member in kind)
        raise InvalidConfigError(f"{name} is {given!r}, expected {expected}") from exc


class BlockingImageSegmenter(BlockingTask[ImageSegmenter]):
    """An ``ImageSegmenter`` whose ``segment`` blocks."""

    @property
    def colored_labels(self) -> tuple[ColoredLabel, ...]:
        """The classes, in the model's order."""
        return self.task.colored_labels

    def segment(self, image: ImageSource) -> SegmentationResult:
        """Return the class of every pixel. See ``ImageSegmenter.segment``."""
        return self.call(self.task.segment, image)

    def segment_for_video(self, image: ImageSource, timestamp_ms: int) -> SegmentationResult:
        """Return what is in a frame of a video. See ``ImageSegmenter.segment_for_video``."""
        return self.call(self.task.segment_for_video, image, timestamp_ms)

    def segment_async(self, image: ImageSource, timestamp_ms: int) -> None:
        """Hand over a frame of a live stream. See ``ImageSegmenter.segment_async``.

        The callback is called in the thread of the event loop.
        """

        async def put() -> None:
            self.task.segment_async(image, timestamp_ms)

        self.call(put)

    def statistics(self) -> LiveStatistics:
        """Return what became of the frames given to ``segment_async`` until now."""
        return self.task.statistics()
