"""The protocols of a pipeline: Source -> Segmenter -> MaskFilter -> Effect -> Sink.

``async`` methods may wait and may be cancelled. ``MaskFilter.apply`` and ``Effect.apply`` are plain
functions that run in a worker thread, one frame at a time, in the order of the stream.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from streamseg.frames import Frame, StreamInfo
    from streamseg.segmentation import Segmentation

__all__ = [
    "Effect",
    "MaskFilter",
    "MaskMotion",
    "Resource",
    "Segmenter",
    "Sink",
    "SinkStatistics",
    "Source",
    "SourceStatistics",
]


@dataclass(frozen=True, slots=True)
class SourceStatistics:
    """What a source did so far.

    Attributes:
        delivered: Frames that ``receive`` returned.
        dropped: Frames that it had and did not deliver, by cause.
        reconnects: How often a broken connection was made again.
    """

    delivered: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    reconnects: int = 0

    @property
    def captured(self) -> int:
        """All frames that the source had: delivered or dropped."""
        return self.delivered + sum(self.dropped.values())


@dataclass(frozen=True, slots=True)
class SinkStatistics:
    """What a sink did so far.

    Attributes:
        accepted: Frames that ``send`` took.
        written: Those of them that reached the target.
        dropped: Those of them that did not, by cause; in a pipeline's statistics also those that
            the sink was too slow to accept.
        reconnects: How often a broken connection was made again.
        bytes_written: Size of the result so far, 0 where the sink does not know it.
    """

    accepted: int = 0
    written: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    reconnects: int = 0
    bytes_written: int = 0


class Resource(ABC):
    """Something that must be closed; ``aclose`` may be called twice."""

    @abstractmethod
    async def aclose(self) -> None:
        """Release everything; what waits in the resource's other methods ends."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


class Source(Resource):
    """Where frames come from. Constructing one does nothing yet; ``open`` does.

    ``async with source:`` opens and closes it.
    """

    @abstractmethod
    async def open(self) -> StreamInfo:
        """Open it and return what is known of the stream.

        Raises:
            SourceOpenError: If it cannot be read as video.
        """

    @abstractmethod
    async def receive(self) -> Frame:
        """Return the next frame, waiting for it.

        Raises:
            anyio.EndOfStream: After the last frame, every time.
            anyio.ClosedResourceError: If the source is closed or was never opened.
            SourceReadError: If the stream broke.
        """

    def take_packets(self) -> list[Any]:
        """Return, once each and in order, the side streams' ``av.Packet`` read so far.

        To be called after every ``receive`` and once more at the end of the stream. Packets keep
        the time stamps of the timeline that the frames are on.
        """
        return []

    @property
    def notices(self) -> Sequence[str]:
        """What the user should know of this stream, a line each (damage, fallbacks)."""
        return ()

    @abstractmethod
    def statistics(self) -> SourceStatistics:
        """Return the counters of this moment; never waits."""

    async def __aenter__(self) -> Self:
        await self.open()
        return self


class Segmenter(Resource):
    """Runs a model over frames. Constructing one does nothing yet; ``open`` does."""

    @abstractmethod
    async def open(self) -> None:
        """Load the model.

        Raises:
            ModelError: If the model cannot be used.
        """

    @property
    def workers(self) -> int:
        """How many frames it works on at once; further ones wait in it."""
        return 1

    @property
    def restarts(self) -> int:
        """How often a model process had to be started again."""
        return 0

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    @abstractmethod
    async def segment(self, frame: Frame) -> Segmentation:
        """Return what the model says of this frame.

        Several calls may run at once; how many is the segmenter's own bound, further ones wait.

        Raises:
            ModelError: If the model cannot be used.
            WorkerError: If its process failed for good.
        """


class MaskFilter(ABC):
    """Turns a frame's masks into better ones; may remember earlier frames.

    Attributes:
        each_frame: Where one mask is shown with several frames: whether the filter works on every
            such frame (it looks at the picture), or once on the frame that the mask was made for.
    """

    each_frame: bool = False

    @abstractmethod
    def apply(self, frame: Frame, segmentation: Segmentation) -> Segmentation:
        """Return the filtered segmentation of this frame. Called in the order of the stream."""

    def reset(self) -> None:  # noqa: B027 - most filters have nothing to forget
        """Forget all earlier frames."""


class MaskMotion(ABC):
    """Moves the masks of one frame to a later one, in which things have moved."""

    @abstractmethod
    def apply(
        self, made_for: Frame, frame: Frame, segmentation: Segmentation
    ) -> Segmentation | None:
        """Return the masks as they lie in ``frame``, None if they have nothing to do with it.

        Called in the order of the stream.

        Args:
            made_for: The frame that the masks belong to; may be ``frame`` itself.
            frame: The frame that they are to be shown with.
            segmentation: The masks; not written into.
        """

    def reset(self) -> None:  # noqa: B027 - some have nothing to forget
        """Forget all earlier frames."""


class Effect(ABC):
    """Turns a frame and its masks into the picture to show."""

    @abstractmethod
    def apply(self, frame: Frame, segmentation: Segmentation | None) -> Frame:
        """Return the new picture, with the frame's own pts, colour description and index.

        Args:
            frame: The picture; not written into.
            segmentation: Its masks. None means that there is no mask: nothing of the scene may be
                seen then, so the effect is applied to the whole picture.

        Raises:
            EffectError: If the frame cannot be processed.
        """

    def close(self) -> None:  # noqa: B027 - most effects hold nothing
        """Release filter graphs and other memory; the effect may be used again afterwards."""


class Sink(Resource):
    """Where pictures go: ``open``, ``send``, ``finish``, ``commit``, and always ``aclose``.

    Closing a sink that was not committed abandons what it wrote: an older file stays as it was.

    Attributes:
        name: For statistics and messages, printable, without credentials.
        live_capacity: How many pictures may wait for this sink in a live pipeline, besides those in
            the sink itself. When as many wait, the oldest is dropped and counted. One is right for
            a picture that somebody looks at; a recording would rather be late than lose a frame.
    """

    name: str = ""
    live_capacity: int = 1

    @abstractmethod
    async def open(self, info: StreamInfo) -> None:
        """Prepare for this stream.

        Raises:
            SinkOpenError: If the target cannot be written as asked.
        """

    @abstractmethod
    async def send(self, frame: Frame, segmentation: Segmentation | None = None) -> None:
        """Hand over one picture, in order; waits while the sink's bounded queue is full.

        Args:
            frame: The picture, effects applied.
            segmentation: Its masks, for sinks that write masks.

        Raises:
            anyio.ClosedResourceError: If the sink is closed, finished, or was never opened.
            SinkWriteError: If writing failed, now or earlier.
        """

    async def send_packets(self, packets: Sequence[Any]) -> None:
        """Hand over side packets in their order; a sink without a use for them ignores them."""

    @abstractmethod
    async def finish(self) -> None:
        """Write everything out and verify it; the target is still as it was.

        Raises:
            SinkWriteError: If the result is not whole.
        """

    @abstractmethod
    async def commit(self) -> None:
        """Put what was finished where it belongs.

        Apart from ``finish``, so that no sink replaces anything before all of them have written and
        verified their results; what is left to go wrong is the renaming itself.

        Raises:
            SinkWriteError: If the target cannot be replaced; it is then as it was before.
        """

    @property
    def notices(self) -> Sequence[str]:
        """What the user should know, a line each (fallbacks, what could not be carried over)."""
        return ()

    @abstractmethod
    def statistics(self) -> SinkStatistics:
        """Return the counters of this moment; never waits."""
