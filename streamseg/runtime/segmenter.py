"""ModelSegmenter: the pipeline's Segmenter over a WorkerPool."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from streamseg.abc import Segmenter

if TYPE_CHECKING:
    from streamseg.frames import Frame
    from streamseg.runtime.pool import WorkerPool
    from streamseg.runtime.preprocess import Preprocessor
    from streamseg.segmentation import Segmentation

__all__ = ["ModelSegmenter"]


class ModelSegmenter(Segmenter):
    """Segments frames in the processes of a pool.

    Args:
        pool: Not open yet; the segmenter opens it, and closes it with itself.
    """

    def __init__(self, pool: WorkerPool) -> None:
        self.pool = pool
        self._preprocess: Preprocessor | None = None
        self._wanted: tuple[str, ...] = ()
        self._sampling = "centre"
        # It takes less time than the model: a second thread would bring a second set of buffers,
        # 6 MB of RGB each at 1080p, and no speed.
        self._one_at_a_time = anyio.CapacityLimiter(1)

    async def open(self) -> None:
        """Start the pool.

        Raises:
            ModelError: If the model cannot be used.
        """
        # Not before: the pool may have been prepared while these were still to be imported.
        from streamseg.runtime.preprocess import Preprocessor

        await self.pool.open()
        layout = self.pool.layout
        self._sampling = self.pool.model.card.sampling
        self._preprocess = Preprocessor(layout.input_size, self._sampling)
        self._wanted = tuple(self.pool.labels[index] for index in layout.mask_classes)

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
        from streamseg.runtime.preprocess import to_centres
        from streamseg.segmentation import Segmentation

        if self._preprocess is None:
            raise anyio.ClosedResourceError
        pixels = await anyio.to_thread.run_sync(
            self._preprocess, frame.video, limiter=self._one_at_a_time
        )
        result = await self.pool.run(pixels, index=frame.index)
        masks = list(result.masks)
        if self._sampling == "corner":
            # On the loop: such models are small, and this takes 0.05 ms.
            size = (frame.height, frame.width)
            masks = [to_centres(mask, size) for mask in masks]
        return Segmentation(
            index=frame.index,
            labels=self.pool.labels,
            class_map=result.class_map,
            masks=dict(zip(self._wanted, masks, strict=True)),
            model_ms=result.model_ms,
        )

    async def aclose(self) -> None:
        """Close the pool."""
        self._preprocess = None
        await self.pool.aclose()
