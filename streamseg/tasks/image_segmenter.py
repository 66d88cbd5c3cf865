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
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np

from streamseg.errors import InvalidConfigError, InvalidModelOutputError, InvalidUserInputError
from streamseg.tasks.base import StillTask
from streamseg.tasks.blocking import BlockingTask
from streamseg.tasks.fitting import check_memory, enlarge_classes, enlarge_masks
from streamseg.tasks.image_segmenter_result import (
    ColoredLabel,
    OutputType,
    RunningMode,
    SegmentationResult,
    colored_label,
    voc_color,
)
from streamseg.tasks.image_segmenter_stream import LiveStatistics, NewestOnly
from streamseg.tasks.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from streamseg.models.card import Model
    from streamseg.tasks.images import ImageSource
    from streamseg.tasks.threads import Check

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
        self._under_way: list[
            int
        ] = []  # timestamps; bounded by the callers: each waits for its own

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

        A frame that fails leaves its timestamp free: it may be given again.

        Args:
            image: See ``load_image``.
            timestamp_ms: Later than that of every frame before, in milliseconds.

        Raises:
            InvalidUserInputError: If the timestamp is not later, the picture is none, or its
                confidence masks would take over 4 GiB.
            StreamsegError: As ``segment``.
        """
        self._expect(RunningMode.VIDEO, "segment_for_video")
        self._opened()
        self._check_time(timestamp_ms)
        self._under_way.append(timestamp_ms)
        try:
            result = await self._segment(image, timestamp_ms)
        finally:
            self._under_way.remove(timestamp_ms)
        self._newest_ms = max(timestamp_ms, self._newest_ms or timestamp_ms)
        return result

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
        self._check_time(timestamp_ms)
        self._newest_ms = timestamp_ms
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
        labels = self.colored_labels
        wanted = () if self.output_type is OutputType.CATEGORY_MASK else None
        async with self._turn():
            picture, result = await self._run(image, wanted)
            class_map, masks = np.asarray(result.class_map, np.uint8), list(result.masks)
            if timestamp_ms is not None:
                instead = "make the picture smaller, or ask for the category mask only"
                check_memory(len(masks), picture.size, instead)
                work = partial(self._enlarged, class_map, masks, picture.size)
                class_map, masks = await in_thread(work)
        kind = self.output_type
        return SegmentationResult(
            None if kind is OutputType.CONFIDENCE_MASK else class_map,
            None if kind is OutputType.CATEGORY_MASK else tuple(masks),
            labels,
            result.model_ms,
            timestamp_ms,
        )

    def _enlarged(
        self,
        class_map: NDArray[np.uint8],
        masks: list[NDArray[np.float32]],
        size: tuple[int, int],
        check: Check,
    ) -> tuple[NDArray[np.uint8], list[NDArray[np.float32]]]:
        large: NDArray[np.uint8] = enlarge_classes(class_map, self.card, size)
        return large, enlarge_masks(masks, self.card, size, check)

    def _expect(self, mode: RunningMode, call: str) -> None:
        if self.running_mode is not mode:
            raise InvalidConfigError(
                f"{call} needs the running mode {mode}, this segmenter has {self.running_mode}"
            )

    def _check_time(self, timestamp_ms: int) -> None:
        if isinstance(timestamp_ms, bool) or not isinstance(timestamp_ms, int):
            raise InvalidUserInputError(f"timestamp_ms is {timestamp_ms!r}, expected an integer")
        before = [*self._under_way, *(() if self._newest_ms is None else (self._newest_ms,))]
        if before and timestamp_ms <= max(before):
            raise InvalidUserInputError(
                f"timestamp_ms is {timestamp_ms}, expected more than {max(before)}, "
                "that of the frame before"
            )

    async def _load(self) -> Any:
        pool = await super()._load()
        if len(pool.labels) > _MAX_CATEGORIES:
            await pool.aclose()
            raise InvalidModelOutputError(
                f"the model has {len(pool.labels)} classes, a category mask has at most "
                f"{_MAX_CATEGORIES}: use a SemanticSegmenter"
            )
        return pool


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

        The callback is called in the thread of the event loop, and may call this.
        """

        async def put() -> None:
            self.task.segment_async(image, timestamp_ms)

        if self._is_called_back:
            self.task.segment_async(image, timestamp_ms)
            return
        self.call(put)

    def statistics(self) -> LiveStatistics:
        """Return what became of the frames given to ``segment_async`` until now."""
        return self.task.statistics()
