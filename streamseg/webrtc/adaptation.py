"""Adaptation: fewer pixels or fewer frames before more delay, when the processor is short.

A live pipeline has no queue that could grow: what comes too fast is superseded. But a picture that
is superseded was received, decoded and perhaps segmented for nothing, and those that are left come
irregularly and late. So a session whose pictures do not fit into its time for some seconds takes a
step down, and one that had room for a while takes it back:

* Effect and encoder cost by the pixel: first the pictures are made smaller, 1, 3/4, 1/2.
* The model costs by the frame, whatever the picture's size: where effect and encoder have little
  part in it, or the pictures are small already, fewer frames are taken: 30, 20, 15 a second.

It does not swing: a step up is taken only if what it would cost, as far as it can be told, leaves
room; and if it was too much all the same, the next one is tried after twice the time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["FULL", "Adaptation", "Level", "Load"]

_SCALES = (1.0, 0.75, 0.5)
_RATES = (30, 20, 15)
_LOST = 0.1  # a tenth of the pictures lost is seen; less happens when a network delivers in bursts
_LOST_MUCH = 1 / 3  # counts as two observations
_BUSY = 0.4  # of a frame's time: losses with less work than that are not the processor's
_PIXELS = 0.25  # of a frame's time: with less, smaller pictures would gain little
_ROOM = 0.8  # of a frame's time may be needed after a step up
_BAD = 3  # observations, of a second each; a good one takes a bad one back
_GOOD = 8  # in a row, before a step up
_GOOD_MOST = 64
_SETTLE = 2  # observations after a step that still show what was before it
_START = 3  # observations of a session that begins: loading takes time, too
_REGRETTED = 20  # observations: a step down so soon after one up takes that one back
_PROVEN = 60  # observations that a step up lasts: what was regretted before it is forgotten


@dataclass(frozen=True, slots=True)
class Level:
    """How much is left of the pictures.

    Attributes:
        scale: Of width and height.
        fps: Frames a second at most.
    """

    scale: float = 1.0
    fps: int = 30


FULL = Level()
"""Everything."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a session did in the last second or so.

    Attributes:
        arrived_fps: Frames a second that came.
        lost: Share of those that were to be shown and were not; 0 to 1.
        segment_ms: From a frame to its mask, waiting for the model included.
        effect_ms: Mask filters and effect, for a frame.
        encode_ms: Encoder, for a frame.
    """

    arrived_fps: float
    lost: float = 0.0
    segment_ms: float = 0.0
    effect_ms: float = 0.0
    encode_ms: float = 0.0

    @property
    def picture_ms(self) -> float:
        """What depends on how many pixels a picture has."""
        return self.effect_ms + self.encode_ms


class Adaptation:
    """Decides from one observation a second.

    Attributes:
        level: What is in force.
        steps: How many steps were taken, ``down`` and ``up``.
    """

    def __init__(self) -> None:
        self.level = FULL
        self.steps = {"down": 0, "up": 0}
        self._before: list[Level] = []  # to go back to; one for each step of the two ladders
        self._bad = 0
        self._good = 0
        self._good_needed = _GOOD
        self._settling = _START
        self._since_step = 0
        self._went_up = False

    def observe(self, load: Load) -> bool:
        """Take a second's load into account; return whether ``level`` changed."""
        self._since_step += 1
        if self._went_up and self._since_step > _PROVEN:
            self._good_needed = _GOOD
        if self._settling:
            self._settling -= 1
            return False
        if load.arrived_fps < 1:
            return False
        if self._too_much(load):
            self._bad, self._good = self._bad + (2 if load.lost > _LOST_MUCH else 1), 0
        else:
            self._bad = max(0, self._bad - 1)
            self._good = self._good + 1 if self._has_room(load) else 0
        if self._bad >= _BAD:
            return self._step_down(load)
        if self._good >= self._good_needed:
            self._step_up()
            return True
        return False

    def _frame_ms(self, load: Load, level: Level) -> float:
        return 1e3 / min(load.arrived_fps, level.fps)

    def _too_much(self, load: Load) -> bool:
        frame_ms = self._frame_ms(load, self.level)
        work_ms = max(load.segment_ms, load.picture_ms)
        return load.picture_ms > frame_ms or (load.lost > _LOST and work_ms > _BUSY * frame_ms)

    def _has_room(self, load: Load) -> bool:
        if not self._before or load.lost > _LOST:
            return False
        above = self._before[-1]
        pixels = (above.scale / self.level.scale) ** 2
        work_ms = max(load.segment_ms, load.picture_ms * pixels)
        return work_ms < _ROOM * self._frame_ms(load, above)

    def _step_down(self, load: Load) -> bool:
        self._bad = 0
        lower = self._lower(load)
        if lower is None:
            return False
        if self._went_up and self._since_step <= _REGRETTED:
            self._good_needed = min(2 * self._good_needed, _GOOD_MOST)
        self._before.append(self.level)
        self._set(lower, up=False)
        return True

    def _lower(self, load: Load) -> Level | None:
        """Return the next level down, None if this is the lowest."""
        scales = [scale for scale in _SCALES if scale < self.level.scale]
        # A rate that is hardly below what comes would save nothing.
        taken_fps = min(load.arrived_fps, self.level.fps)
        rates = [fps for fps in _RATES if fps < 0.9 * taken_fps]
        of_pixels = load.picture_ms >= _PIXELS * self._frame_ms(load, self.level)
        if scales and (of_pixels or not rates):
            return replace(self.level, scale=scales[0])
        if rates:
            return replace(self.level, fps=rates[0])
        return None

    def _step_up(self) -> None:
        self._set(self._before.pop(), up=True)

    def _set(self, level: Level, *, up: bool) -> None:
        self.level = level
        self.steps["up" if up else "down"] += 1
        self._went_up = up
        self._bad = self._good = self._since_step = 0
        self._settling = _SETTLE
