"""WorkerPool: model processes that survive their own deaths.

Requests wait in one queue; each worker takes the oldest. A worker has two slots, so that the next
picture already lies in shared memory when the model is done with the one before. When a worker
dies or hangs, its requests go back to the head of the queue and a new process is started. The
request that was running then is counted as the cause; the third death under the same request
fails it, so that one bad frame cannot keep a job going round for ever.
"""

from __future__ import annotations

import asyncio
import difflib
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import anyio

from streamseg.abc import Resource
from streamseg.errors import (
    ConfigError,
    ModelError,
    WorkerDiedError,
    WorkerError,
    WorkerTimeoutError,
)
from streamseg.models.card import people_labels
from streamseg.runtime.layout import SlotLayout
from streamseg.runtime.process import LoadedModel, ModelProcess, usable_cores

if TYPE_CHECKING:
    # The pool can be at work before numpy is there: see ``prepare``
    import numpy as np
    from numpy.typing import NDArray

    from streamseg.models.card import Model
    from streamseg.runtime.layout import SlotViews

__all__ = ["ModelResult", "PoolStatistics", "WantedLabels", "WorkerPool", "choose_classes"]

WantedLabels = Sequence[str] | Literal["people", "all"] | Callable[[tuple[str, ...]], Sequence[str]]

_log = logging.getLogger(__name__)

_SLOTS = 2
_MAX_ATTEMPTS = 3
_LOAD_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class ModelResult:
    """What the model returned for one picture.

    Attributes:
        masks: (K, H, W) float32 in [0, 1], one for each class asked for, in that order.
        class_map: (H, W) uint8 or int32, or None if it was not asked for.
        model_ms: Time in the model process, in milliseconds.
    """

    masks: NDArray[np.float32]
    class_map: NDArray[np.uint8] | NDArray[np.int32] | None
    model_ms: float


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
    attempts: int = 0


@dataclass(slots=True, eq=False)
class _Worker:
    number: int
    process: ModelProcess | None = None
    slots: list[SlotViews] = field(default_factory=list)
    running: deque[tuple[int, _Request]] = field(default_factory=deque)
    head_since: float = 0.0
    hung: bool = False


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
    ) -> None:
        self.model = model
        self._count = workers
        self._threads = threads
        self._timeout_s = timeout_s
        self._attempts = attempts
        self._wanted: WantedLabels = labels
        self._labels: tuple[str, ...] = ()
        self._class_map = class_map
        self._layout: SlotLayout | None = None
        self._loaded: LoadedModel | None = None
        self._waiting: deque[_Request] = deque()  # bounded by the callers: each waits for its own
        self._arrived = asyncio.Event()
        self._workers = [_Worker(number) for number in range(workers)]
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False
        self._whole_torch = False
        self._first: asyncio.Task[tuple[ModelProcess, LoadedModel]] | None = None
        self._failure: WorkerError | ModelError | None = None
        self._completed = 0
        self._restarts = 0

    def prepare(self) -> None:
        """Begin to start the first process; ``open`` then waits for it.

        For whoever has something else to do before opening the pool, such as importing what decodes
        and draws, which takes as long as the process takes. Called on the event loop; ``aclose``
        ends what was begun.
        """
        if self._first is None:
            self._first = asyncio.create_task(self._start_first(), name="streamseg-worker-start")

    @property
    def is_prepared(self) -> bool:
        """Whether the process that ``prepare`` began has loaded the model, or failed to."""
        return self._first is not None and self._first.done()

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
        process, self._loaded = await self._first_process()
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

    async def run(self, pixels: NDArray[np.uint8], *, index: int = 0) -> ModelResult:
        """Run the model on one picture.

        Args:
            pixels: (H, W, 3) uint8 RGB of the model's input size; kept until the result is there,
                so that it can be sent again.
            index: The frame's index, for messages.

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
        request = _Request(index, pixels, asyncio.get_running_loop().create_future())
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
        await self._abandon_first()
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
                    worker.process, _ = await self._start_again()
                    self._adopt(worker, worker.process)
                await self._live(worker)
                self._restarts += 1
        except (WorkerError, ModelError) as exc:
            self._give_up(exc)
        except Exception as exc:
            # Nobody may wait for an answer that this worker will never give.
            _log.exception("worker %d failed", worker.number)
            self._give_up(WorkerError(f"a model worker failed: {type(exc).__name__}: {exc}"))
        finally:
            await self._retire(worker)

    def _give_up(self, failure: WorkerError | ModelError) -> None:
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
            worker.process.send({"run": {"slot": slot, "index": request.index}})

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
        views = worker.slots[slot]
        result = ModelResult(
            masks=views.masks.copy(),
            class_map=views.class_map.copy() if self._class_map else None,
            model_ms=reply["done"]["ms"],
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

    # -- starting ---------------------------------------------------------------------------

    async def _first_process(self) -> tuple[ModelProcess, LoadedModel]:
        if self._closed:
            raise anyio.ClosedResourceError
        self.prepare()
        first = self._first
        assert first is not None
        try:
            # Not awaited itself: anyio cancels again and again, and would cut short how it ends.
            await asyncio.wait([first])
        except BaseException:
            await self._abandon_first()
            raise
        if self._closed:  # in the meantime; whoever closed it has ended the process
            raise anyio.ClosedResourceError
        self._first = None
        return first.result()

    async def _abandon_first(self) -> None:
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
                f"{self.model.path}: loading it crashes ({exc}): "
                "the file is damaged or not made for this ExecuTorch; export it again"
            ) from exc

    async def _start(self) -> tuple[ModelProcess, LoadedModel]:
        return await ModelProcess.start(
            self.model.path,
            threads=self._threads or 0,
            cores=max(1, usable_cores() // self._count),
            timeout_s=_LOAD_TIMEOUT_S,
            whole_torch=self._whole_torch,
        )

    async def _start_again(self) -> tuple[ModelProcess, LoadedModel]:
        """Start a process for a model that is known to load; a few failures are borne."""
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

    def _adopt(self, worker: _Worker, process: ModelProcess) -> None:
        card = self.model.card
        worker.slots = process.attach(
            self.layout,
            _SLOTS,
            mean=card.mean,
            std=card.std,
            output=self.model.output_for(self.loaded.output_shape[1]),
        )
        worker.process = process
        _log.debug("model process %d is ready for %s", process.pid, self.model.path)

    def _make_layout(self, loaded: LoadedModel) -> SlotLayout:
        self._labels = labels = self.model.labels_for(loaded.output_shape[1])
        return SlotLayout(
            input_size=(loaded.input_shape[2], loaded.input_shape[3]),
            output_size=(loaded.output_shape[2], loaded.output_shape[3]),
            mask_classes=choose_classes(labels, self._wanted),
            class_map=self._class_map,
            wide_classes=len(labels) > 256,
        )

    def _all_requests(self) -> list[_Request]:
        running = [request for worker in self._workers for _, request in worker.running]
        return running + list(self._waiting)


def choose_classes(labels: tuple[str, ...], wanted: WantedLabels) -> tuple[int, ...]:
    """Return the class indices that ``WorkerPool(labels=wanted)`` means.

    Args:
        labels: All labels of the model.
        wanted: As for ``WorkerPool``.

    Raises:
        ConfigError: If the model has no such label.
    """
    if callable(wanted):
        wanted = wanted(labels)
    if wanted == "people":
        wanted = people_labels(labels) or "all"
    if wanted == "all":
        return tuple(range(len(labels)))
    by_name = {label.upper(): index for index, label in enumerate(labels)}
    chosen = []
    for name in wanted:
        index = by_name.get(name.upper())
        if index is None:
            near = difflib.get_close_matches(name.upper(), by_name, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(labels[:30])}"
            raise ConfigError(f"the model has no class {name!r}: {hint}")
        chosen.append(index)
    return tuple(chosen)


def _fail(request: _Request, error: BaseException) -> None:
    if not request.future.done():
        request.future.set_exception(error)
