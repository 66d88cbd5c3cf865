"""What all pipelines in the manner of transformers have in common.

The work is done by a ``StillTask`` in an event loop of its own; calls come from code without a loop,
or are awaited from any other loop. Like in transformers, nobody has to close a pipeline: one that is
no longer used, or is there when the interpreter ends, is closed then.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

# Before cv2: the other way round, FFmpeg's x11grab crashes the process.
import av
import numpy as np
from anyio import create_task_group
from PIL.Image import Image

from streamseg.errors import FileReadFailedError, InvalidUserInputError, ModuleNotLoadedError
from streamseg.tasks.base import StillTask
from streamseg.tasks.blocking import BlockingTask

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from concurrent.futures import Future
    from types import TracebackType

    from streamseg.models.card import Card
    from streamseg.tasks.images import ImageSource

__all__ = [
    "TIMEOUT_S",
    "ImagePipeline",
    "PipelineTypeError",
    "PipelineValueError",
    "UnreadableImageError",
]

TaskT = TypeVar("TaskT", bound=StillTask)
ResultT = TypeVar("ResultT")

TIMEOUT_S = 30.0
"""How long the URL of a picture may take, if nothing is said; transformers waits for ever."""

_MOST_AT_ONCE = 64


class PipelineValueError(InvalidUserInputError, ValueError):
    """An argument of a pipeline is wrong, such as a subtask that the model cannot do."""


class PipelineTypeError(InvalidUserInputError, TypeError):
    """Something that is no picture was given to a pipeline."""


class UnreadableImageError(FileReadFailedError, ValueError):
    """A picture that was given to a pipeline cannot be fetched, read or decoded."""


class ImagePipeline(Generic[TaskT, ResultT]):
    """A model that is called with pictures. Not used itself: see its children.

    Args:
        load: Makes the task; called in a loop of its own.
        batch_size: How many pictures of a list are under way at once, if a call does not say it.

    Raises:
        StreamsegError: If the model cannot be loaded.
    """

    task: str

    def __init__(self, load: Callable[[], Awaitable[TaskT]], batch_size: int) -> None:
        self._batch_size = _checked_batch_size(batch_size)
        self._blocking: _Blocking[TaskT] = _Blocking(load)
        self._finalizer = weakref.finalize(self, _close_unused, self._blocking)

    @property
    def card(self) -> Card:
        """The model's card."""
        return self._blocking.card

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes, in the model's order.

        Raises:
            ModuleNotLoadedError: If it is closed.
        """
        return self._blocking.labels

    def close(self) -> None:
        """End the model processes; may be called twice."""
        if self._finalizer.detach() is not None:
            self._blocking.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _call(
        self,
        images: ImageSource | list[Any],
        one: Callable[[TaskT, ImageSource], Awaitable[ResultT]],
        batch_size: int | None,
    ) -> ResultT | list[ResultT]:
        """Run a call and wait for it; the arguments are those of ``_forward``."""
        size = self._checked(images, batch_size)
        self._expect_open()
        with _errors():
            return self._blocking.call(_each, self._blocking.task, images, one, size)

    async def _forward(
        self,
        images: ImageSource | list[Any],
        one: Callable[[TaskT, ImageSource], Awaitable[ResultT]],
        batch_size: int | None,
    ) -> ResultT | list[ResultT]:
        """Run a call from another event loop.

        Args:
            images: A picture, or a list of them.
            one: Does the work for one picture, in the task's own loop.
            batch_size: How many of a list at once.

        Raises:
            PipelineTypeError: If one of them is no picture.
            PipelineValueError: If an argument is wrong.
            UnreadableImageError: If a picture cannot be read.
            StreamsegError: If the model fails.
        """
        size = self._checked(images, batch_size)
        self._expect_open()
        with _errors():
            future = self._blocking.start(_each, self._blocking.task, images, one, size)
            result: ResultT | list[ResultT] = await asyncio.wrap_future(future)
            return result

    def _expect_open(self) -> None:
        if not self._finalizer.alive:
            raise ModuleNotLoadedError(f"the {self.task} pipeline is closed: make another one")

    def _checked(self, images: object, batch_size: int | None) -> int:
        if images is None:
            raise PipelineValueError(f"the {self.task} pipeline was called without a picture")
        for image in images if isinstance(images, list) else [images]:
            if not isinstance(
                image,
                str
                | os.PathLike
                | bytes
                | bytearray
                | memoryview
                | Image
                | np.ndarray
                | av.VideoFrame,
            ):
                raise PipelineTypeError(
                    f"{type(image).__name__} is no picture, expected a URL, a path, base64, "
                    "a PIL image, an array or a frame, or a list of these"
                )
        return self._batch_size if batch_size is None else _checked_batch_size(batch_size)


class _Blocking(BlockingTask[TaskT]):
    """A task in a loop of its own that other loops can use as well."""

    def start(self, function: Callable[..., Awaitable[Any]], *args: Any) -> Future[Any]:
        """Begin to run a coroutine function of the task; cancelling the future cancels it."""
        return self._portal.start_task_soon(function, *args)


async def _each(
    task: TaskT,
    images: ImageSource | list[ImageSource],
    one: Callable[[TaskT, ImageSource], Awaitable[ResultT]],
    batch_size: int,
) -> ResultT | list[ResultT]:
    if not isinstance(images, list):
        return await one(task, images)
    results: dict[int, ResultT] = {}
    waiting = iter(enumerate(images))

    async def work() -> None:
        for index, image in waiting:
            results[index] = await one(task, image)

    try:
        async with create_task_group() as group:
            for _ in range(min(batch_size, len(images))):
                group.start_soon(work)
    except BaseExceptionGroup as exc:
        # The first one that failed; the others were cancelled for it.
        raise exc.exceptions[0] from None
    return [results[index] for index in range(len(images))]


@contextmanager
def _errors() -> Iterator[None]:
    """Make the errors of a wrong picture those that transformers' users catch."""
    try:
        yield
    except (PipelineTypeError, PipelineValueError, UnreadableImageError):
        raise
    except FileReadFailedError as exc:
        raise UnreadableImageError(str(exc)) from exc
    except InvalidUserInputError as exc:
        raise PipelineValueError(str(exc)) from exc


def _checked_batch_size(value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST_AT_ONCE:
        raise PipelineValueError(f"batch_size is {value!r}, expected 1 to {_MOST_AT_ONCE}")
    return value


def _close_unused(blocking: BlockingTask[Any]) -> None:
    # The garbage collector calls this from any thread, also from the one that has to end.
    Thread(target=blocking.close, daemon=True, name="streamseg-close").start()
