"""Shaper: from a frame and the model's answer to the picture to show; runs in a worker thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamseg.abc import Effect, MaskFilter, MaskMotion
    from streamseg.flow import Ticket
    from streamseg.frames import Frame
    from streamseg.segmentation import Segmentation

__all__ = ["Shaper"]


class Shaper:
    """Applies mask filters, motion and effect to one frame at a time, in the order of the stream.

    A mask that is shown with several frames goes through the filters once, but for those that work
    on every frame (``MaskFilter.each_frame``), which follow the motion.

    Args:
        mask_filters: In their order.
        motion: Moves an older mask to the frame that it is shown with; None leaves it where it is.
        effect: Makes the picture; None shows frames as they are.
    """

    def __init__(
        self,
        mask_filters: Sequence[MaskFilter],
        motion: MaskMotion | None,
        effect: Effect | None,
    ) -> None:
        self.mask_filters = tuple(mask_filters)
        """May be set at any time, from any thread."""
        self._motion = motion
        self._effect = effect
        self._wanted = effect
        # The model's answer that went through the filters last, and what they made of it.
        self._filtered: tuple[Segmentation, Segmentation] | None = None

    @property
    def effect(self) -> Effect | None:
        """The effect of the next frame; may be set at any time, from any thread."""
        return self._wanted

    @effect.setter
    def effect(self, effect: Effect | None) -> None:
        self._wanted = effect

    @property
    def shown(self) -> Effect | None:
        """The effect of the last frame."""
        return self._effect

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do, so that no thread is needed."""
        nothing = self._effect is None and self._wanted is None
        return nothing and not self.mask_filters and self._motion is None

    def apply(self, ticket: Ticket) -> tuple[Frame, Segmentation | None]:
        """Return the picture and its masks.

        Raises:
            EffectError: If the frame cannot be processed.
        """
        effect = self._wanted
        if effect is not self._effect:
            self.close()
            self._effect = effect
        frame = ticket.frame
        segmentation = self._masks_of(ticket)
        if effect is None or ticket.raw:
            return frame, segmentation
        return effect.apply(frame, segmentation), segmentation

    def close(self) -> None:
        """Release what the effect holds."""
        if self._effect is not None:
            self._effect.close()

    def _masks_of(self, ticket: Ticket) -> Segmentation | None:
        segmentation, made_for = ticket.segmentation, ticket.made_for
        if segmentation is None or made_for is None:
            return None
        filters = self.mask_filters
        if self._filtered is None or self._filtered[0] is not segmentation:
            answer = segmentation
            for mask_filter in filters:
                if not mask_filter.each_frame:
                    segmentation = mask_filter.apply(made_for, segmentation)
            self._filtered = (answer, segmentation)
        segmentation = self._filtered[1]
        if self._motion is not None:
            moved = self._motion.apply(made_for, ticket.frame, segmentation)
            if moved is None:  # of another scene, so that all of this one is hidden
                return None
            segmentation = moved
        for mask_filter in filters:
            if mask_filter.each_frame:
                segmentation = mask_filter.apply(ticket.frame, segmentation)
        return segmentation
