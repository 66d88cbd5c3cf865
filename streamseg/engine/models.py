"""Models: the segmenter of a pipeline, loaded, asked for masks, and changed while it runs."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio

from streamseg.errors import StreamsegError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamseg.abc import Segmenter
    from streamseg.flow import FlowLimiter, Ticket
    from streamseg.telemetry import StageTimer

__all__ = ["Models"]

_log = logging.getLogger(__name__)

_LAST_ANSWER_S = 5.0  # how long a model that is replaced may take for the frames that it has


class Models:
    """The model in use, and those before and after it for as long as they are needed.

    Args:
        segmenter: The first one, not open yet; None for none.
        live: Whether a failure costs the frame its mask, and not the run.
        segment_timer: Gets the time of each frame, the way there and back included.
        model_timer: Gets that of the model alone.
    """

    def __init__(
        self,
        segmenter: Segmenter | None,
        *,
        live: bool,
        segment_timer: StageTimer,
        model_timer: StageTimer,
    ) -> None:
        self.limiter: FlowLimiter | None = None
        """Of the run; told of models that are ready, and of their answers."""
        self._model = None if segmenter is None else _Model(segmenter)
        self._unclosed = [] if segmenter is None else [segmenter]
        self._retired_restarts = 0
        self._live = live
        self._segment_timer = segment_timer
        self._model_timer = model_timer
        self._closed = False

    @property
    def segmenter(self) -> Segmenter | None:
        """The one in use."""
        return None if self._model is None else self._model.segmenter

    @property
    def restarts(self) -> int:
        """How often a process of any of them had to be started again."""
        now = 0 if self._model is None else self._model.segmenter.restarts
        return now + self._retired_restarts

    async def load(self) -> None:
        """Open the one in use unless it is open, and tell the limiter.

        Raises:
            StreamsegError: If it cannot be used.
        """
        model = self._model
        if model is None:
            return
        if not model.loaded:
            try:
                await model.segmenter.open()
            except (StreamsegError, anyio.ClosedResourceError):
                if model is not self._model:  # another one has taken its place while it loaded
                    return
                raise
            model.loaded = True
        if self.limiter is not None and model is self._model:
            self.limiter.model_ready(model.segmenter.workers)

    async def use(self, segmenter: Segmenter) -> None:
        """Change the model: the old one works until the new one is loaded, and is then closed.

        Raises:
            ModelError: If the new one cannot be used; the old one goes on.
            anyio.ClosedResourceError: If ``aclose`` was called, also meanwhile.
        """
        new = _Model(segmenter)
        self._unclosed.append(segmenter)
        try:
            self._check_open()
            await segmenter.open()
            self._check_open()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._retire(segmenter)
            raise
        new.loaded = True
        old, self._model = self._model, new
        if self.limiter is not None:
            self.limiter.segmenting = True
            self.limiter.model_ready(segmenter.workers)
        if old is not None:
            self._retired_restarts += old.segmenter.restarts
            with anyio.move_on_after(_LAST_ANSWER_S):
                await old.idle()
            await self._retire(old.segmenter)

    async def segment(self, ticket: Ticket) -> None:
        """Have a frame segmented and tell the limiter of the answer, or of the failure.

        Raises:
            StreamsegError: If the limiter does not bear the failure.
        """
        limiter, model = self.limiter, self._model
        assert limiter is not None
        assert model is not None
        try:
            with self._segment_timer.measure(), model.working():
                segmentation = await model.segmenter.segment(ticket.frame)
        except (StreamsegError, anyio.ClosedResourceError) as exc:
            if self._live and not model.failing:
                _log.warning("frame %d was not segmented: %s", ticket.frame.index, exc)
            model.failing = True
            limiter.failed(ticket, exc)
            return
        if segmentation.index != ticket.frame.index:
            raise RuntimeError(
                f"{type(model.segmenter).__name__} returned the masks of frame "
                f"{segmentation.index} for frame {ticket.frame.index}"
            )
        if model.failing:
            _log.warning("frame %d was segmented again", ticket.frame.index)
        model.failing = False
        self._model_timer.add(segmentation.model_ms)
        limiter.answered(ticket, segmentation)

    def refuse(self) -> None:
        """Take no further model from now on."""
        self._closed = True

    async def aclose(self) -> None:
        """Close all of them."""
        self._closed = True
        while self._unclosed:
            await self._unclosed.pop().aclose()

    def _check_open(self) -> None:
        if self._closed:
            raise anyio.ClosedResourceError

    async def _retire(self, segmenter: Segmenter) -> None:
        await segmenter.aclose()
        if segmenter in self._unclosed:  # not closed with the pipeline in the meantime
            self._unclosed.remove(segmenter)


class _Model:
    """A segmenter in use, and how many frames it has right now."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter
        self.loaded = False
        self.failing = False
        self._working = 0
        self._idle = anyio.Event()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count a frame for as long as the block takes."""
        self._working += 1
        try:
            yield
        finally:
            self._working -= 1
            if not self._working:
                self._idle.set()
                self._idle = anyio.Event()

    async def idle(self) -> None:
        """Wait until it has no frame."""
        if self._working:
            await self._idle.wait()
