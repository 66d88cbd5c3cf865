"""The tasks for code without an event loop: the same objects, run in a thread of their own.

A call may come from any thread. Ctrl-C cancels what is running.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Generic, Literal, Never, Self, TypeVar, overload

from anyio import sleep
from anyio.from_thread import start_blocking_portal

from streamseg.errors import ModelGeneratingError, ModuleNotLoadedError
from streamseg.tasks.base import StillTask
from streamseg.tasks.classifier import Classification, Classifier
from streamseg.tasks.semantic import SemanticSegmenter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from types import TracebackType

    from streamseg.errors import StreamsegError
    from streamseg.models.card import Card
    from streamseg.tasks.images import ImageSource
    from streamseg.tasks.semantic_result import SemanticResult

__all__ = ["BlockingClassifier", "BlockingSemanticSegmenter", "BlockingTask"]

_WATCH_S = 0.5  # that much later a program ends that did not close what it opened

TaskT = TypeVar("TaskT", bound=StillTask)
ResultT = TypeVar("ResultT")
AskedT = TypeVar("AskedT", bound=str)


class BlockingTask(Generic[TaskT]):
    """A ``StillTask`` in an event loop of its own; ``with`` closes it.

    Example::

        with SemanticSegmenter.blocking("selfie") as segmenter:
            result = segmenter.forward("portrait.jpg")

    Args:
        load: Makes the task; called in that loop.

    Attributes:
        task: The task; its coroutines are run with ``call``.

    Raises:
        StreamsegError: As ``load`` does.
    """

    def __init__(self, load: Callable[[], Awaitable[TaskT]]) -> None:
        self._closing = ExitStack()
        with ExitStack() as undo:
            self._portal = undo.enter_context(start_blocking_portal())
            self._thread = self._portal.call(threading.get_ident)
            self.task = self.call(load)
            undo.callback(lambda: self.call(self.task.aclose))
            watching = self._portal.start_task_soon(self._end_with, threading.current_thread())
            undo.callback(watching.cancel)
            self._closing = undo.pop_all()

    def call(self, function: Callable[..., Awaitable[ResultT]], *args: Any) -> ResultT:
        """Run a coroutine function of the task and return what it returns.

        Raises:
            ModuleNotLoadedError: If it is closed.
            ModelGeneratingError: If a callback of the task calls it: it would wait for itself.
        """
        self._expect_another_thread()
        try:
            future = self._portal.start_task_soon(function, *args)
        except RuntimeError as exc:  # its thread has ended
            raise ModuleNotLoadedError from exc
        try:
            return future.result()
        except BaseException:
            future.cancel()  # where it was this thread that was interrupted
            raise

    def open(self) -> None:
        """Load the model, where that was prevented before. See ``StillTask.open``."""
        self.call(self.task.open)

    def close(self) -> None:
        """End the model processes and the thread; calls of other threads fail.

        Raises:
            ModelGeneratingError: If a callback of the task calls it.
        """
        self._expect_another_thread()
        self._closing.close()
        self._thread = 0  # another thread may get its number

    @property
    def _is_called_back(self) -> bool:
        """Whether it is a callback that asks, in the thread of the task's event loop."""
        return threading.get_ident() == self._thread

    def _expect_another_thread(self) -> None:
        if self._is_called_back:
            raise ModelGeneratingError(
                "a callback cannot wait for the object that called it: hand the result to another "
                "thread and call it from there"
            )

    async def _end_with(self, maker: threading.Thread) -> None:
        """Close what nobody closed: the program's end would wait for the loop's threads for ever."""
        # The end of a thread sets no event.
        while maker.is_alive() or threading.main_thread().is_alive():  # noqa: ASYNC110
            await sleep(_WATCH_S)
        await self.task.aclose()
        self._thread = 0
        await self._portal.stop(cancel_remaining=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def is_ready(self) -> bool:
        """Whether the model is loaded."""
        return self.task.is_ready

    @property
    def is_generating(self) -> bool:
        """Whether a call, of another thread, is running."""
        return self.task.is_generating

    @property
    def error(self) -> StreamsegError | None:
        """Why the model could not be loaded."""
        return self.task.error

    @property
    def download_progress(self) -> float:
        """The share of the download that is done, 0 to 1."""
        return self.task.download_progress

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes, in the model's order."""
        return self.task.labels

    @property
    def card(self) -> Card:
        """The model's card."""
        return self.task.card

    @property
    def input_size(self) -> tuple[int, int]:
        """(H, W) of the model's input in pixels."""
        return self.task.input_size


class BlockingSemanticSegmenter(BlockingTask[SemanticSegmenter[Any]]):
    """A ``SemanticSegmenter`` whose ``forward`` blocks."""

    @overload
    def forward(
        self, image: ImageSource, *, resize_to_input: bool = True
    ) -> SemanticResult[Never]: ...
    @overload
    def forward(
        self,
        image: ImageSource,
        classes_of_interest: Literal["all"],
        resize_to_input: bool = True,
    ) -> SemanticResult[str]: ...
    @overload
    def forward(
        self,
        image: ImageSource,
        classes_of_interest: Sequence[AskedT],
        resize_to_input: bool = True,
    ) -> SemanticResult[AskedT]: ...
    def forward(
        self,
        image: ImageSource,
        classes_of_interest: Sequence[str] = (),
        resize_to_input: bool = True,
    ) -> SemanticResult[Any]:
        """Return the class of every pixel. See ``SemanticSegmenter.forward``."""
        result: SemanticResult[Any] = self.call(
            self.task.forward, image, classes_of_interest, resize_to_input
        )
        return result


class BlockingClassifier(BlockingTask[Classifier]):
    """A ``Classifier`` whose ``forward`` blocks."""

    def forward(self, image: ImageSource) -> Classification:
        """Return the probability of each class. See ``Classifier.forward``."""
        return self.call(self.task.forward, image)
