"""SharedModel: one pool of model processes for many streams.

Each stream has a segmenter of its own, which brings one frame at a time. The pool takes what is
brought in its order, so nobody has a second turn before everybody who waits has had one: a stream
of 60 frames a second gets no more of the model than one of 15 that keeps it as busy.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import anyio

from streamseg.abc import Resource, Segmenter
from streamseg.errors import StreamsegError, WorkerError
from streamseg.runtime.segmenter import ModelSegmenter

if TYPE_CHECKING:
    from streamseg.frames import Frame
    from streamseg.runtime.pool import WorkerPool
    from streamseg.segmentation import Segmentation

__all__ = ["SharedModel", "SharedSegmenter"]


class SharedModel(Resource):
    """A model that several streams use.

    ``async with`` begins to load it and does not wait: whoever needs it does. It is closed with the
    block, after all of its segmenters.

    Args:
        pool: Not open yet, and with ``attempts=1`` if the streams are live. It is closed with this.
    """

    def __init__(self, pool: WorkerPool) -> None:
        self.pool = pool
        self._users = 0
        self._loading: asyncio.Task[None] | None = None
        self._closed = False

    async def __aenter__(self) -> SharedModel:
        self._begin()
        return self

    def _begin(self) -> asyncio.Task[None]:
        if self._closed:
            raise anyio.ClosedResourceError
        if self._loading is None:
            self._loading = asyncio.create_task(self._load(), name="streamseg-shared-model")
        return self._loading

    async def _load(self) -> None:
        await self.pool.open()

    @property
    def users(self) -> int:
        """How many streams use it now."""
        return self._users

    @property
    def not_ready(self) -> str | None:
        """Why no frame can be segmented now, None if there is no reason."""
        if self._closed:
            return "the model is closed"
        loading = self._loading
        if loading is None or not loading.done():
            return "the model is being loaded"
        if loading.cancelled() or loading.exception() is not None:
            return "the model cannot be used"
        if not self.pool.pids:
            return "the model process is being started again"
        return None

    async def wait_loaded(self) -> None:
        """Wait until the model is loaded.

        Raises:
            ModelError: If it cannot be used.
            WorkerError: If no process can be started.
            anyio.ClosedResourceError: If it is closed.
        """
        loading = self._begin()
        # Not awaited itself: who gives up waiting must not end it for the others.
        await asyncio.wait([loading])
        if loading.cancelled():
            raise anyio.ClosedResourceError
        error = loading.exception()
        if isinstance(error, StreamsegError):
            # For each who waits one of its own: a traceback would grow with every raise.
            raise type(error)(*error.args) from error
        if error is not None:
            raise WorkerError(f"the model could not be loaded: {type(error).__name__}") from error

    def segmenter(self) -> SharedSegmenter:
        """Return a segmenter for one more stream."""
        return SharedSegmenter(self)

    def _enter(self) -> None:
        self._users += 1

    def _leave(self) -> None:
        self._users -= 1

    async def aclose(self) -> None:
        """Close the pool; what waits in a segmenter fails."""
        self._closed = True
        loading = self._loading
        with anyio.CancelScope(shield=True):
            if loading is not None:
                loading.cancel()
                await asyncio.wait([loading])
                if not loading.cancelled():
                    loading.exception()  # was told to those who waited
            await self.pool.aclose()


class SharedSegmenter(Segmenter):
    """One stream's part of a shared model; see ``SharedModel``."""

    def __init__(self, model: SharedModel) -> None:
        self._model = model
        self._segmenter: ModelSegmenter | None = None
        self._restarts_before = 0
        # What makes the order fair; a caller that brings more waits here, one behind the other.
        self._turn = anyio.Lock()

    async def open(self) -> None:
        """Wait for the model.

        Raises:
            ModelError: If it cannot be used.
        """
        await self._model.wait_loaded()
        borrowed: Any = _Borrowed(self._model.pool)
        segmenter = ModelSegmenter(borrowed)
        await segmenter.open()
        if self._segmenter is None:
            self._restarts_before = self._model.pool.statistics().restarts
            self._model._enter()
        self._segmenter = segmenter

    @property
    def workers(self) -> int:
        """One, whatever the pool has: how many frames one stream may bring at once."""
        return 1

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels whose masks are returned; known once it is open."""
        return () if self._segmenter is None else self._segmenter.labels

    @property
    def restarts(self) -> int:
        """How often a model process had to be started again since this was opened."""
        if self._segmenter is None:
            return 0
        return self._model.pool.statistics().restarts - self._restarts_before

    async def segment(self, frame: Frame) -> Segmentation:
        """Return the model's masks of this frame; see ``Segmenter.segment``."""
        if self._segmenter is None:
            raise anyio.ClosedResourceError
        async with self._turn:
            if self._segmenter is None:  # closed while it waited
                raise anyio.ClosedResourceError
            return await self._segmenter.segment(frame)

    async def aclose(self) -> None:
        """Give the part back; the model goes on for the others."""
        segmenter, self._segmenter = self._segmenter, None
        if segmenter is not None:
            self._model._leave()
            await segmenter.aclose()


class _Borrowed:
    """A pool that is open, as a ``ModelSegmenter`` may have it: not to open, not to close."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    async def open(self) -> None:
        """Do nothing: whoever lent it has opened it."""

    async def aclose(self) -> None:
        """Do nothing: others use it."""
