"""The inputs that a program is compared with its module on: noise, a ramp, and pictures.

Noise says whether values are equal, and nothing of masks: those of noise are noise. So there is
always a real picture where the model takes one: the user's, those of the calibration, or else a
portrait that comes with streamseg.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from streamseg.convert.pictures import read_picture
from streamseg.errors import ModelError
from streamseg.models.card import Card

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

__all__ = ["OWN_PICTURE", "Trial", "Trials"]

OWN_PICTURE = Path(__file__).parent / "trial" / "portrait.jpg"
"""A person in front of a flag and a model of the Space Shuttle; its origin is told beside it."""

_OWN_NAME = f"{OWN_PICTURE.name} (comes with streamseg)"
_SEED = 20210119
# Of the pictures given for calibration, so many are compared with the eager module: it is slow.
_MOST_COMPARED = 16


@dataclass(frozen=True)
class Trial:
    """One input.

    Attributes:
        values: float32, of the model's input shape.
        is_picture: Whether masks and classes of it mean something.
    """

    values: Tensor
    is_picture: bool


class Trials:
    """What one program is compared on.

    Args:
        shape: Of the model's input.
        card: How pictures are given to the model; RGB in [0, 1] without one.
        picture: A picture as the module takes it.
        picture_name: What a report calls it.
        calibration: The pictures of an int8 program, as the module takes them.

    Attributes:
        noise: Uniform in [0, 1], the same at every export.

    Raises:
        ModelError: If a picture has another shape or type than the input.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        card: Card | None,
        picture: Tensor | None = None,
        picture_name: str = "",
        calibration: Sequence[Tensor] | None = None,
    ) -> None:
        generator = torch.Generator().manual_seed(_SEED)
        self.noise = torch.rand(shape, generator=generator)
        self._ramp = torch.linspace(0, 1, shape[-1]).expand(shape).contiguous()
        for each in (*([] if picture is None else [picture]), *(calibration or ())):
            if tuple(each.shape) != tuple(shape) or each.dtype != torch.float32:
                raise ModelError(
                    f"a picture is {each.dtype} {list(each.shape)}, "
                    f"expected float32 {list(shape)}: resize it"
                )
        if picture is None and not calibration and _takes_pictures(shape):
            picture, picture_name = _own_picture(card, shape), _OWN_NAME
        self._names = ["noise", "a ramp"]
        self._pictures: list[Tensor] = []
        if picture is not None:
            self._pictures.append(picture)
            self._names.append(picture_name or "the given picture")
        if calibration:
            compared = calibration[:_MOST_COMPARED]
            self._pictures += compared
            plural = "s" if len(compared) > 1 else ""
            self._names.append(f"{len(compared)} picture{plural} of the calibration")

    def __iter__(self) -> Iterator[Trial]:
        yield Trial(self.noise, is_picture=False)
        yield Trial(self._ramp, is_picture=False)
        for each in self._pictures:
            yield Trial(each.contiguous(), is_picture=True)

    @property
    def in_words(self) -> str:
        """Such as ``noise, a ramp and kitchen.jpg``."""
        return f"{', '.join(self._names[:-1])} and {self._names[-1]}"


def _takes_pictures(shape: tuple[int, ...]) -> bool:
    return len(shape) == 4 and tuple(shape[:2]) == (1, 3)


def _own_picture(card: Card | None, shape: tuple[int, ...]) -> Tensor:
    return read_picture(OWN_PICTURE, card or Card(name="trial"), (shape[2], shape[3]))
