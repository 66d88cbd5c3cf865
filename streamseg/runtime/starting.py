"""How the processes of a pool are started: the first one early, the others again and again."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import anyio

from streamseg.errors import ModelError, WorkerDiedError, WorkerError
from streamseg.runtime.process import LoadedModel, ModelProcess

if TYPE_CHECKING:
    from streamseg.models.card import Model

__all__ = ["Starter"]

_log = logging.getLogger(__name__)

_MAX_ATTEMPTS = 3
_LOAD_TIMEOUT_S = 120.0


class Starter:
    """Starts processes that run one model.

    Args:
        model: The .pte and its card.
        threads: Threads of each model; None has the process choose.
        cores: How many it may choose at most.
    """

    def __init__(self, model: Model, *, threads: int | None, cores: int) -> None:
        self._path = model.path
        self._method = model.card.method
        self._threads = threads
        self._cores = cores
        self._whole_torch = False
        self._first: asyncio.Task[tuple[ModelProcess, LoadedModel]] | None = None
        self._closed = False

    def prepare(self) -> None:
        """Begin to start the first process; called on the event loop."""
        if self._first is None:
            self._first = asyncio.create_task(self._start_first(), name="streamseg-worker-start")

    @property
    def is_prepared(self) -> bool:
        """Whether the process that ``prepare`` began has loaded the model, or failed to."""
        return self._first is not None and self._first.done()

    async def first(self) -> tuple[ModelProcess, LoadedModel]:
        """Return the first process, which the caller ends.

        Raises:
            ModelError: If the model cannot be used, or loading it ends the process.
            WorkerError: If no process can be started, or loading takes too long.
            anyio.ClosedResourceError: If this is closed, or is being closed meanwhile.
        """
        if self._closed:
            raise anyio.ClosedResourceError
        self.prepare()
        first = self._first
        assert first is not None
        try:
            # Not awaited itself: anyio cancels again and again, and would cut short how it ends.
            await asyncio.wait([first])
        except BaseException:
            await self._abandon()
            raise
        if self._closed:  # in the meantime; whoever closed it has ended the process
            raise anyio.ClosedResourceError
        self._first = None
        return first.result()

    async def again(self) -> tuple[ModelProcess, LoadedModel]:
        """Start a process for a model that is known to load; a few failures are borne.

        Raises:
            WorkerError: If it failed several times.
            ModelError: If the model cannot be used any more.
        """
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            try:
                return await self._start()
            except WorkerError as exc:
                if attempt == _MAX_ATTEMPTS:
                    raise WorkerError(
                        f"the model process could not be started {attempt} times: {exc}"
                    ) from exc
                await asyncio.sleep(0.1 * attempt)
        raise AssertionError("unreachable")

    async def aclose(self) -> None:
        """End the first process where nobody has taken it."""
        self._closed = True
        await self._abandon()

    async def _abandon(self) -> None:
        task, self._first = self._first, None
        if task is None:
            return
        task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait([task])
            if not task.cancelled() and task.exception() is None:
                await task.result()[0].aclose()

    async def _start_first(self) -> tuple[ModelProcess, LoadedModel]:
        try:
            try:
                return await self._start()
            except WorkerDiedError as exc:
                # Perhaps not the model's fault, but that of a torch without its Python part
                _log.debug("%s; trying with all of torch", exc)
                self._whole_torch = True
                return await self._start()
        except WorkerDiedError as exc:
            raise ModelError(
                f"{self._path}: loading it crashes ({exc}): "
                "the file is damaged or not made for this ExecuTorch; export it again"
            ) from exc

    async def _start(self) -> tuple[ModelProcess, LoadedModel]:
        return await ModelProcess.start(
            self._path,
            method=self._method,
            threads=self._threads or 0,
            cores=self._cores,
            timeout_s=_LOAD_TIMEOUT_S,
            whole_torch=self._whole_torch,
        )
