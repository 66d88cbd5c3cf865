"""WorkerPool: model processes that survive their own deaths.

Requests wait in one queue; each worker takes the oldest. A worker has two slots, so that the next
picture already lies in shared memory when the model is done with the one before. When a worker
dies or hangs, its requests go back to the head of the queue and a new process is started. The
request that was running then is counted as the cause; the third death under the same request
fails it, so that one bad frame cannot keep a job going round for ever.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio

from streamseg.abc import Resource
from streamseg.errors import (
    InvalidModelOutputError,
    ModelError,
    WorkerDiedError,
    WorkerError,
    WorkerTimeoutError,
)
from streamseg.runtime.classes import WantedLabels, choose_classes
from streamseg.runtime.layout import SlotLayout
from streamseg.runtime.process import LoadedModel, ModelProcess, usable_cores
from streamseg.runtime.starting import Starter

if TYPE_CHECKING:
    from collections.abc import Sequence

    # The pool can be at work before numpy is there: see ``prepare``
    import numpy as np
    from numpy.typing import NDArray

    from streamseg.models.card import Model
    from streamseg.runtime.layout import SlotViews

__all__ = ["ModelResult", "PoolStatistics", "WorkerPool"]

_log = logging.getLogger(__name__)

_SLOTS = 2
_MAX_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class ModelResult:
    """What the model returned for one picture.

    Attributes:
        masks: (K, H, W) float32 in [0, 1], one for each class asked for, in that order.
        class_map: (H, W) uint8 or int32, or None if it was not asked for.
        model_ms: Time in the model process, in milliseconds.
        inference_ms: The model's own part of that: without scaling its input and reading its
            outputs.
        raw: float32 copies of the outputs as the model returned them, where these were asked for.
    """

    masks: NDArray[np.float32]
    class_map: NDArray[np.uint8] | NDArray[np.int32] | None
    model_ms: float
    inference_ms: float
    raw: tuple[NDArray[np.float32], ...] = ()


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """Counters of a pool: results returned, processes restarted after a death or a hang."""

    completed: int = 0
    restarts: int = 0


@dataclass(slots=True, eq=False)
class _Request:
    index: int
    pixels: NDArray[np.uint8]
    future: asyncio.Future[ModelResult]
    classes: Sequence[int] | None = None
    attempts: int = 0


@dataclass(slots=True, eq=False)
class _Worker:
    number: int
    process: ModelProcess | None = None
    slots: list[SlotViews] = field(default_factory=list)
    running: deque[tuple[int, _Request]] = field(default_factory=deque)
    head_since: float = 0.0
    hung: bool = False
    lost: bool = False


class WorkerPool(Resource):
    """Processes that run one model.

    Args:
        model: The .pte and its card.
        workers: How many processes.
        threads: Threads of each model; None chooses one for inputs up to 256x256, else the
            machine's cores divided among the workers.
        timeout_s: A picture that takes longer has its process killed, in seconds.
        attempts: How many processes a picture may end before it fails; 1 for live pictures, which
            are too old the second time, and which fail at once while no process is running.
        labels: Whose probability maps are returned, in this order: names of classes in any case,
            ``people`` for those that mean a person (all where there are none), ``all``, or a
            function from all labels of the model to the wanted ones.
        class_map: Whether the class map is returned.
        raw: Whether the outputs are returned as they are, of any number and shape, instead of
            probability maps and the class map; for models that do not give a class to each pixel.
    """

    def __init__(
        self,
        model: Model,
        *,
        workers: int = 1,
        threads: int | None = None,
        timeout_s: float = 30.0,
        attempts: int = _MAX_ATTEMPTS,
        labels: WantedLabels = "people",
        class_map: bool = False,
        raw: bool = False,
    ) -> None:
        self.model = model
        self._count = workers
        self._timeout_s = timeout_s
        self._attempts = attempts
        self._wanted: WantedLabels = labels
        self._labels: tuple[str, ...] = ()
        self._class_map = class_map
        self._raw = raw
        self._layout: SlotLayout | None = None
        self._loaded: LoadedModel | None = None
        self._waiting: deque[_Request] = deque()  # bounded by the callers: each waits for its own
        self._arrived = asyncio.Event()
        self._workers = [_Worker(number) for number in range(workers)]
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False
        self._starter = Starter(model, threads=threads, cores=max(1, usable_cores() // workers))
        self._failure: WorkerError | ModelError | None = None
        self._completed = 0
        self._restarts = 0

    def prepare(self) -> None:
        """Begin to start the first process; ``open`` then waits for it.

        For whoever has something else to do before opening the pool, such as importing what decodes
        and draws, which takes as long as the process takes. Called on the event loop; ``aclose``
        ends what was begun.
        """
        self._starter.prepare()

    @property
    def is_prepared(self) -> bool:
        """Whether the process that ``prepare`` began has loaded the model, or failed to."""
        return self._starter.is_prepared

    def want(self, labels: WantedLabels) -> None:
        """Choose other labels; before the model is loaded."""
        self._wanted = labels

    async def open(self) -> LoadedModel:
        """Start the workers and return what the first one found in the model.

        Raises:
            ModelError: If the model cannot be used, or loading it ends the process.
            WorkerError: If no process can be started, or loading takes too long.
            anyio.ClosedResourceError: If it is closed, or is being closed meanwhile.
        """
        process, self._loaded = await self._starter.first()
        try:
            self._layout = self._make_layout(self._loaded)
            self._adopt(self._workers[0], process)
        except BaseException:
            await process.aclose()
            raise
        self._tasks = [
            asyncio.create_task(self._keep_alive(worker), name=f"streamseg-worker-{worker.number}")
            for worker in self._workers
        ]
        return self._loaded

    async def __aenter__(self) -> WorkerPool:
        await self.open()
        return self

    @property
    def loaded(self) -> LoadedModel:
        """What is known of the loaded model."""
        if self._loaded is None:
            raise anyio.ClosedResourceError
        return self._loaded

    @property
    def workers(self) -> int:
        """How many processes there are, running or being started again."""
        return self._count

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels of the model, in the order of its classes."""
        return self._labels

    @property
    def layout(self) -> SlotLayout:
        """Sizes of the model's input and output, and the classes that are returned."""
        if self._layout is None:
            raise anyio.ClosedResourceError
        return self._layout

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that run now."""
        return [worker.process.pid for worker in self._workers if worker.process is not None]

    def statistics(self) -> PoolStatistics:
        """Return the counters of this moment."""
        return PoolStatistics(completed=self._completed, restarts=self._restarts)

    async def run(
        self,
        pixels: NDArray[np.uint8],
        *,
        index: int = 0,
        classes: Sequence[int] | None = None,
    ) -> ModelResult:
        """Run the model on one picture.

        Args:
            pixels: (H, W, 3) uint8 RGB of the model's input size; kept until the result is there,
                so that it can be sent again.
            index: The frame's index, for messages.
            classes: Indices of the classes whose masks are wanted this time, in this order, all
                among those that the pool was made for; None for all of these.

        Raises:
            WorkerDiedError: If the picture ended three processes.
            WorkerTimeoutError: If it hung three processes.
            WorkerError: If the model refused it, or no process can be started any more.
            anyio.ClosedResourceError: If the pool is closed.
        """
        if self._closed or self._layout is None:
            raise anyio.ClosedResourceError
        if self._failure is not None:
            raise self._failure
        if self._attempts == 1 and not self.pids:
            raise WorkerDiedError("the model process is being started again")
        expected = (*self._layout.input_size, 3)
        if pixels.shape != expected or pixels.dtype != "uint8":
            raise ModelError(
                f"the model takes {expected} uint8, got {pixels.shape} {pixels.dtype}: resize first"
            )
        future = asyncio.get_running_loop().create_future()
        request = _Request(index, pixels, future, classes)
        self._waiting.append(request)
        self._arrived.set()
        try:
            return await request.future
        finally:
            # Cancelled while it waits: nobody wants it any more. In a slot it is let run.
            if request in self._waiting:
                self._waiting.remove(request)

    async def aclose(self) -> None:
        """Kill the workers and fail what waits."""
        self._closed = True
        await self._starter.aclose()
        for task in self._tasks:
            task.cancel()
        # Each task ends by killing its process, in milliseconds.
        with anyio.CancelScope(shield=True):
            await asyncio.gather(*self._tasks, return_exceptions=True)
            # A task that was cancelled before its first step has not closed its process.
            for worker in self._workers:
                await self._retire(worker)
        self._tasks.clear()
        for request in self._all_requests():
            _fail(request, anyio.ClosedResourceError())
        self._waiting.clear()

    # -- one worker's life ------------------------------------------------------------------

    async def _keep_alive(self, worker: _Worker) -> None:
        try:
            while True:
                if worker.process is None:
                    worker.process, _ = await self._starter.again()
                    self._adopt(worker, worker.process)
                await self._live(worker)
                self._restarts += 1
        except (WorkerError, ModelError) as exc:
            self._give_up(worker, exc)
        except Exception as exc:
            # Nobody may wait for an answer that this worker will never give.
            _log.exception("worker %d failed", worker.number)
            failure = WorkerError(f"a model worker failed: {type(exc).__name__}: {exc}")
            self._give_up(worker, failure)
        finally:
            await self._retire(worker)

    def _give_up(self, worker: _Worker, failure: WorkerError | ModelError) -> None:
        """Go on with the other workers; without any, everything that waits has failed."""
        worker.lost = True
        left = sum(not other.lost for other in self._workers)
        if left:
            _log.warning("one model worker is given up, %d go on: %s", left, failure)
            self._waiting.extendleft(request for _, request in reversed(worker.running))
            worker.running.clear()
            self._arrived.set()
            return
        self._failure = failure
        for request in self._all_requests():
            _fail(request, failure)
        self._waiting.clear()

    async def _live(self, worker: _Worker) -> None:
        """Feed one process until it is gone; afterwards its requests are queued again."""
        process = worker.process
        assert process is not None
        feeder = asyncio.create_task(self._feed(worker))
        watchdog = asyncio.create_task(self._watch(worker))
        # Without a feeder the worker is as good as dead.
        feeder.add_done_callback(lambda _: process.kill())
        try:
            while True:
                self._settle(worker, await process.receive())
        except WorkerDiedError as exc:
            _log.warning("model process %d: %s", process.pid, exc)
            self._blame(worker, exc)
        finally:
            for task in (feeder, watchdog):
                task.cancel()
            await asyncio.gather(feeder, watchdog, return_exceptions=True)
        await self._retire(worker)

    @staticmethod
    async def _retire(worker: _Worker) -> None:
        process, worker.process = worker.process, None
        worker.slots = []
        if process is not None:
            await process.aclose()

    async def _feed(self, worker: _Worker) -> None:
        assert worker.process is not None
        while True:
            while not self._waiting or len(worker.running) >= _SLOTS:
                self._arrived.clear()
                await self._arrived.wait()
            request = self._waiting.popleft()
            if request.future.done():
                continue
            used = {slot for slot, _ in worker.running}
            slot = next(slot for slot in range(_SLOTS) if slot not in used)
            worker.slots[slot].pixels[:] = request.pixels
            if not worker.running:
                worker.head_since = time.monotonic()
            worker.running.append((slot, request))
            run: dict[str, Any] = {"slot": slot, "index": request.index}
            if request.classes is not None:
                run["classes"] = list(request.classes)
            worker.process.send({"run": run})

    async def _watch(self, worker: _Worker) -> None:
        assert worker.process is not None
        while True:
            waited = time.monotonic() - worker.head_since if worker.running else 0.0
            if waited >= self._timeout_s:
                worker.hung = True
                worker.process.kill()
                return
            await asyncio.sleep(max(0.01, self._timeout_s - waited))

    def _settle(self, worker: _Worker, reply: dict[str, Any]) -> None:
        slot, request = worker.running.popleft()
        worker.head_since = time.monotonic()
        self._arrived.set()  # a slot is free
        if "failed" in reply:
            _fail(
                request,
                WorkerError(
                    f"the model failed on frame {request.index}: {reply['failed']['text']}"
                ),
            )
            return
        views, done = worker.slots[slot], reply["done"]
        wanted = len(views.masks) if request.classes is None else len(request.classes)
        result = ModelResult(
            masks=views.masks[:wanted].copy(),
            class_map=views.class_map.copy() if self.layout.class_map else None,
            model_ms=done["ms"],
            inference_ms=done["inference_ms"],
            raw=tuple(
                array.reshape(-1)[: math.prod(shape)].reshape(shape).copy()
                for array, shape in zip(views.raw, done.get("shapes", ()), strict=True)
            ),
        )
        self._completed += 1
        if not request.future.done():
            request.future.set_result(result)

    def _blame(self, worker: _Worker, exc: WorkerDiedError) -> None:
        """Queue a dead worker's requests again, in front; the oldest one was running."""
        requests = [request for _, request in worker.running]
        worker.running.clear()
        hung, worker.hung = worker.hung, False
        if requests:
            head = requests[0]
            head.attempts += 1
            if head.attempts >= self._attempts:
                requests.pop(0)
                error: WorkerError = WorkerDiedError(
                    f"frame {head.index} ended the model process {head.attempts} times: {exc}; "
                    "leave it out, or use another model"
                )
                if hung:
                    error = WorkerTimeoutError(
                        f"frame {head.index}: the model did not answer within "
                        f"{self._timeout_s:g} s, {head.attempts} times; try a smaller model"
                    )
                _fail(head, error)
        self._waiting.extendleft(reversed(requests))
        if self._attempts == 1 and all(
            other is worker or not other.process for other in self._workers
        ):
            # Nobody is left to take them, and nobody wants to wait until somebody is.
            while self._waiting:
                _fail(self._waiting.popleft(), exc)
        self._arrived.set()

    def _adopt(self, worker: _Worker, process: ModelProcess) -> None:
        card = self.model.card
        shape = self.loaded.output_shapes[0]
        worker.slots = process.attach(
            self.layout,
            _SLOTS,
            mean=card.mean,
            std=card.std,
            output=self.model.output_for(shape[1] if len(shape) > 1 else 1),
        )
        worker.process = process
        _log.debug("model process %d is ready for %s", process.pid, self.model.path)

    def _make_layout(self, loaded: LoadedModel) -> SlotLayout:
        input_size = (loaded.input_shape[2], loaded.input_shape[3])
        if self._raw:
            return SlotLayout(input_size=input_size, raw=loaded.output_shapes)
        shape = loaded.output_shapes[0]
        if len(shape) != 4 or shape[0] != 1:
            raise InvalidModelOutputError(
                f"{self.model.path}: cannot be used as a model: its output is {list(shape)}, "
                "expected [1, classes, height, width]; export it again, or check the download"
            )
        try:
            self._labels = labels = self.model.labels_for(shape[1])
        except ModelError as exc:
            raise InvalidModelOutputError(str(exc)) from exc
        return SlotLayout(
            input_size=input_size,
            output_size=(shape[2], shape[3]),
            mask_classes=choose_classes(labels, self._wanted),
            class_map=self._class_map,
            wide_classes=len(labels) > 256,
        )

    def _all_requests(self) -> list[_Request]:
        running = [request for worker in self._workers for _, request in worker.running]
        return running + list(self._waiting)


def _fail(request: _Request, error: BaseException) -> None:
    if not request.future.done():
        request.future.set_exception(error)
