"""A task that looks on while a pipeline runs."""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod

import anyio

from streamseg.abc import Resource

__all__ = ["BackgroundTask"]

_log = logging.getLogger(__name__)


class BackgroundTask(Resource):
    """A resource with one task; ``aclose`` ends it, from any task and any number of times.

    Looking on must never end what is looked at: an error in the task is told in one log line, and
    the task is over.
    """

    _task: asyncio.Task[None] | None = None

    @abstractmethod
    async def _run(self) -> None:
        """Do the work until cancelled."""

    def _start(self) -> None:
        self._task = asyncio.create_task(self._guarded(), name=type(self).__name__)

    async def _stop(self) -> None:
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait([task])

    async def _guarded(self) -> None:
        try:
            await self._run()
        except Exception as exc:
            _log.warning(
                "monitoring stopped",
                extra={"task": type(self).__name__, "error": f"{type(exc).__name__}: {exc}"},
            )
            _log.debug("it failed here:", exc_info=exc)
