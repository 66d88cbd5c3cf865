"""StillTask: a model that is loaded once and then asked about one picture after the other."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import anyio
from anyio import to_thread

from streamseg.abc import Resource
from streamseg.downloads.locations import address_text, parse_location
from streamseg.errors import (
    InvalidConfigError,
    ModelGeneratingError,
    ModuleNotLoadedError,
    StreamsegError,
)
from streamseg.models.card import Model
from streamseg.runtime.pool import WorkerPool
from streamseg.tasks.fitting import fit, is_quick
from streamseg.tasks.images import MAX_PIXELS, Picture, load_image
from streamseg.tasks.obtaining import is_tflite, obtain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from streamseg.models.card import Card, Task
    from streamseg.runtime.pool import ModelResult
    from streamseg.runtime.process import LoadedModel
    from streamseg.tasks.images import ImageSource

__all__ = ["StillTask"]


class StillTask(Resource):
    """A model for still pictures. Constructing one does nothing yet; ``open`` loads the model.

    ``await X.load(...)`` does both; ``async with`` closes it, and opens it where that was not done.

    Args:
        model: Name of a model, path of a .pte or of a .tflite, or the model itself.
        on_progress: Called on the event loop with the share of the download that is done, 0 to 1.
        threads: Threads of each model; None chooses by the input's size.
        workers: How many model processes; more than one is of use with ``queue`` only.
        queue: Whether a call while others are running waits for its turn, instead of failing.
        timeout_s: How long the model may take for a picture, in seconds.
        max_pixels: How many pixels a picture may have.

    Attributes:
        task: What the model's card must say.
        raw: Whether the model's outputs are wanted as they are, not as maps of classes.
        not_of_tflite: What the model of a .tflite is not, and what to try; empty where it will do.

    Raises:
        InvalidConfigError: If an option is wrong.
    """

    task: ClassVar[Task]
    raw: ClassVar[bool] = True
    not_of_tflite: ClassVar[str] = ""

    def __init__(
        self,
        model: str | Path | Model,
        *,
        on_progress: Callable[[float], object] | None = None,
        threads: int | None = None,
        workers: int = 1,
        queue: bool = False,
        timeout_s: float = 60.0,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        for name, value in (("threads", threads), ("workers", workers), ("max_pixels", max_pixels)):
            if value is not None and value < 1:
                raise InvalidConfigError(f"{name} is {value}, expected 1 or more")
        if not timeout_s > 0:
            raise InvalidConfigError(f"timeout_s is {timeout_s}, expected more than 0")
        self._wanted = model
        self._on_progress = on_progress
        self._threads = threads
        self._workers = workers
        self._queue = queue
        self._timeout_s = timeout_s
        self._max_pixels = max_pixels
        self._model: Model | None = None
        self._pool: WorkerPool | None = None
        self._labels: tuple[str, ...] = ()
        self._error: StreamsegError | None = None
        self._progress = 0.0
        self._calls = 0
        self._closed = False
        self._opening = anyio.Lock()
        self._open_scope: anyio.CancelScope | None = None
        # Of the waiting calls, which are as many as the caller makes, so many hold a picture: one
        # for each process, and one to go on with.
        self._turns = anyio.CapacityLimiter(workers + 1)

    @classmethod
    async def load(
        cls,
        model: str | Path | Model,
        *,
        on_progress: Callable[[float], object] | None = None,
        prevent_load: bool = False,
        threads: int | None = None,
        workers: int = 1,
        queue: bool = False,
        timeout_s: float = 60.0,
        **options: Any,
    ) -> Self:
        """Return an object with its model loaded, downloaded before where that is needed.

        Args:
            model: See the class, as the other arguments.
            on_progress: Called with the share of the download that is done.
            prevent_load: Whether to return the object without loading anything; ``open`` does that
                later.
            threads: Threads of each model.
            workers: How many model processes.
            queue: Whether a call waits while others are running.
            timeout_s: How long a picture may take, in seconds.
            options: Further arguments of the class.

        Raises:
            StreamsegError: As ``open``.
        """
        self = cls(
            model,
            on_progress=on_progress,
            threads=threads,
            workers=workers,
            queue=queue,
            timeout_s=timeout_s,
            **options,
        )
        if not prevent_load:
            await self.open()
        return self

    async def open(self) -> None:
        """Load the model; does nothing where it is loaded. After an error it may be tried again.

        Raises:
            InvalidConfigError: If the model was made for another task.
            InvalidModelOutputError: If what it returns does not fit its card or task.
            WrongDimensionsError: If its input is no picture of float32.
            ModelError: If there is no such model, or it cannot be used or downloaded.
            WorkerError: If no process can be started.
            anyio.ClosedResourceError: If it is closed, or is being closed meanwhile.
        """
        async with self._opening:
            if self._closed:
                raise anyio.ClosedResourceError
            if self._pool is not None:
                return
            self._error = None
            with anyio.CancelScope() as self._open_scope:
                try:
                    self._pool = await self._load()
                except StreamsegError as exc:
                    self._error = exc
                    raise
            if self._pool is None:  # ``aclose`` cancelled it
                raise anyio.ClosedResourceError

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    @property
    def is_ready(self) -> bool:
        """Whether the model is loaded."""
        return self._pool is not None

    @property
    def is_generating(self) -> bool:
        """Whether a call is running."""
        return self._calls > 0

    @property
    def error(self) -> StreamsegError | None:
        """Why the model could not be loaded; None where it could, or nobody tried."""
        return self._error

    @property
    def download_progress(self) -> float:
        """The share of the download that is done, 0 to 1; 1 as soon as the file is there."""
        return self._progress

    @property
    def card(self) -> Card:
        """The model's card.

        Raises:
            ModuleNotLoadedError: If it is not known yet.
        """
        if self._model is None:
            raise ModuleNotLoadedError
        return self._model.card

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes, in the model's order.

        Raises:
            ModuleNotLoadedError: If the model is not loaded.
        """
        self._opened()
        return self._labels

    @property
    def input_size(self) -> tuple[int, int]:
        """(H, W) of the model's input in pixels.

        Raises:
            ModuleNotLoadedError: If the model is not loaded.
        """
        return self._opened().layout.input_size

    async def aclose(self) -> None:
        """End the model processes; calls that are running fail."""
        self._closed = True
        if self._open_scope is not None:
            self._open_scope.cancel()
        # Shielded: loading was cancelled and ends at once, and so do the processes.
        with anyio.CancelScope(shield=True):
            async with self._opening:
                pool, self._pool = self._pool, None
                if pool is not None:
                    await pool.aclose()

    async def _infer(
        self, image: ImageSource, classes: Sequence[int] | None = None
    ) -> tuple[Picture, ModelResult]:
        """Run the model on one picture; ``_turn`` and ``_run`` in one."""
        async with self._turn():
            return await self._run(image, classes)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Begin a call, wait for its turn where that was asked for, and end it in any case.

        Raises:
            ModuleNotLoadedError: If the model is not loaded, or is closed within.
            ModelGeneratingError: If another call is running, without ``queue``.
        """
        self._opened()
        if self._calls and not self._queue:
            raise ModelGeneratingError
        self._calls += 1
        try:
            async with self._turns:
                yield
        except anyio.ClosedResourceError as exc:
            raise ModuleNotLoadedError from exc
        finally:
            self._calls -= 1

    async def _run(
        self, image: ImageSource, classes: Sequence[int] | None = None
    ) -> tuple[Picture, ModelResult]:
        """Load a picture, fit it to the model and run that; within ``_turn``.

        Args:
            image: See ``load_image``.
            classes: Indices of the classes whose masks are wanted, each once, None for all;
                without ``raw``.

        Raises:
            FileReadFailedError: If the picture cannot be read.
            InvalidUserInputError: If it is none.
            WorkerError: If the model's process failed.
        """
        picture = await load_image(image, max_pixels=self._max_pixels)
        pool = self._opened()
        card, size = self.card, pool.layout.input_size
        if is_quick(picture, card, size):
            pixels = fit(picture, card, size)
        else:
            pixels = await to_thread.run_sync(fit, picture, card, size)
        return picture, await pool.run(pixels, classes=classes)

    def _labels_of(self, model: Model, loaded: LoadedModel) -> tuple[str, ...]:
        """Return the labels of a model that was just loaded, or refuse it; with ``raw``.

        Raises:
            InvalidModelOutputError: If this task cannot use what it returns.
        """
        return model.card.labels or ()

    def _opened(self) -> WorkerPool:
        if self._pool is None:
            raise ModuleNotLoadedError from self._error
        return self._pool

    async def _load(self) -> WorkerPool:
        model = await self._obtain()
        card = model.card
        if "task" not in card.model_fields_set:
            # A file without a card: what it returns tells whether the task is right.
            model = replace(model, card=card.model_copy(update={"task": self.task}))
        elif card.task != self.task:
            raise InvalidConfigError(
                f"{card.name}: is a model for {card.task}, expected one for {self.task}"
            )
        self._model = model
        pool = WorkerPool(
            model,
            workers=self._workers,
            threads=self._threads,
            timeout_s=self._timeout_s,
            labels="all",
            class_map=not self.raw,
            raw=self.raw,
        )
        try:
            loaded = await pool.open()
            self._labels = self._labels_of(model, loaded) if self.raw else pool.labels
        except BaseException:
            await pool.aclose()
            raise
        return pool

    async def _obtain(self) -> Model:
        if isinstance(self._wanted, Model):
            self._report(1.0)
            return self._wanted
        if self.not_of_tflite and is_tflite(self._wanted):
            # Before it is converted in vain. As a location it shows no password.
            raise InvalidConfigError(
                f"{parse_location(address_text(self._wanted))}: a .tflite becomes a model that "
                f"gives a class to every pixel, {self.not_of_tflite}"
            )
        return await obtain(self._wanted, on_progress=self._report)

    def _report(self, progress: float) -> None:
        changed = progress != self._progress
        self._progress = progress
        if changed and self._on_progress is not None:
            self._on_progress(progress)
