"""ModelSegmenter: the pipeline's Segmenter over a WorkerPool."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from streamseg.abc import Segmenter

if TYPE_CHECKING:
    from streamseg.frames import Frame
    from streamseg.runtime.answers import Reader
    from streamseg.runtime.classes import WantedLabels
    from streamseg.runtime.fitting import FrameFitter
    from streamseg.runtime.pool import WorkerPool
    from streamseg.segmentation import Segmentation

__all__ = ["ModelSegmenter"]


class ModelSegmenter(Segmenter):
    """Segments frames in the processes of a pool.

    What comes of a model's outputs is decided by the task in its card: masks of classes, objects
    besides (``Segmentation.instances``), or scores of the whole picture.

    Args:
        pool: Not open yet; the segmenter opens it, and closes it with itself. A ``TaskPool`` where
            the task is another than semantic segmentation.
    """

    def __init__(self, pool: WorkerPool) -> None:
        self.pool = pool
        self._fit: FrameFitter | None = None
        self._reader: Reader | None = None
        self._wanted: tuple[str, ...] = ()
        # It takes less time than the model: a second thread would bring a second set of buffers,
        # 6 MB of RGB each at 1080p, and no speed.
        self._one_at_a_time = anyio.CapacityLimiter(1)

    async def open(self) -> None:
        """Start the pool.

        Raises:
            ModelError: If the model cannot be used.
        """
        # Not before: the pool may have been prepared while these were still to be imported.
        from streamseg.runtime.answers import reader_for
        from streamseg.runtime.fitting import FrameFitter

        await self.pool.open()
        card, layout, labels = self.pool.model.card, self.pool.layout, self.pool.labels
        returned: tuple[str, ...] | None = getattr(self.pool, "returned", None)
        if returned is None:
            returned = tuple(labels[index] for index in layout.mask_classes)
        self._wanted = returned
        self._reader = reader_for(card, labels, returned, layout.input_size)
        self._fit = FrameFitter(card, layout.input_size)

    def want(self, labels: WantedLabels) -> None:
        """Choose other labels; before the model is loaded."""
        self.pool.want(labels)

    @property
    def workers(self) -> int:
        """How many model processes there are."""
        return self.pool.workers

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels whose masks are returned; known once it is open."""
        return self._wanted

    @property
    def restarts(self) -> int:
        """How often a model process had to be started again."""
        return self.pool.statistics().restarts

    async def segment(self, frame: Frame) -> Segmentation:
        """Return the model's masks of this frame; see ``Segmenter.segment``."""
        fit, reader = self._fit, self._reader
        if fit is None or reader is None:
            raise anyio.ClosedResourceError
        pixels = await anyio.to_thread.run_sync(fit, frame.video, limiter=self._one_at_a_time)
        result = await self.pool.run(pixels, index=frame.index)
        content = fit.content(frame.video)
        if reader.in_thread:
            return await anyio.to_thread.run_sync(reader.read, frame, result, content)
        return reader.read(frame, result, content)

    async def aclose(self) -> None:
        """Close the pool."""
        self._fit = None
        await self.pool.aclose()
