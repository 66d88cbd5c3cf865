"""Card: what has to be known of a model besides its .pte, and Model: the two together."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from streamseg.errors import ModelError
from streamseg.models.labels import VOC_LABELS

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Card", "Model", "load_card", "people_labels"]

_PEOPLE = frozenset({"SELFIE", "PERSON"})
_MAX_CARD_BYTES = 1 << 20

Triple = tuple[float, float, float]
Positive = Annotated[int, Field(gt=0, le=8192)]


class Card(BaseModel):
    """A model's card, as it stands in a TOML file beside the .pte.

    Attributes:
        name: Short name.
        title: One line for lists.
        description: What it is good for.
        task: What it does.
        labels: Names of the classes, in the order of the output's channels; None derives them
            from the number of channels. A model of one channel has two labels: the foreground,
            whose probability the channel is, and the background.
        input_size: (H, W) in pixels; the .pte's own metadata decide, this is for lists.
        mean: Subtracted from RGB in [0, 1], a value a channel.
        std: Divides after that.
        sampling: Where the model's pixels lie in the picture. ``centre``: pixel i covers its share
            of the picture, as in most pipelines. ``corner``: pixel i is the picture's point
            ``i * width / model_width``, interpolated without a filter, as MediaPipe takes it.
        output: ``probability`` (in [0, 1] already) or ``logits``; None means ``probability`` for
            one channel and ``logits`` for several.
        licence: SPDX identifier of the weights' licence.
        source: Where the weights come from, in words.
        source_sha256: SHA-256 of the original file.
        sha256: SHA-256 of the .pte.
        size_bytes: Size of the .pte in bytes.
        verified_with: What the .pte was compared with, and the result.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str = ""
    description: str = ""
    task: Literal["semantic-segmentation"] = "semantic-segmentation"
    labels: tuple[str, ...] | None = None
    input_size: tuple[Positive, Positive] | None = None
    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = (1.0, 1.0, 1.0)
    sampling: Literal["centre", "corner"] = "centre"
    output: Literal["probability", "logits"] | None = None
    licence: str = ""
    source: str = ""
    source_sha256: str = ""
    sha256: str = ""
    size_bytes: int | None = None
    verified_with: str = ""

    @model_validator(mode="after")
    def _check(self) -> Card:
        if self.labels is not None and len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must be different from each other")
        if min(self.std) <= 0:
            raise ValueError("std must be above 0")
        return self


@dataclass(frozen=True, slots=True)
class Model:
    """A .pte and its card."""

    path: Path
    card: Card

    def labels_for(self, channels: int) -> tuple[str, ...]:
        """Return the label of each class.

        Args:
            channels: Number of channels of the model's output.

        Raises:
            ModelError: If the card has another number of labels.
        """
        labels = self.card.labels
        if labels is None:
            if channels == 1:
                return ("SELFIE", "BACKGROUND")
            if channels == len(VOC_LABELS):
                return VOC_LABELS
            return tuple(f"CLASS_{index}" for index in range(channels))
        expected = 2 if channels == 1 else channels
        if len(labels) != expected:
            raise ModelError(
                f"{self.path}: its card has {len(labels)} labels, but its output of "
                f"{channels} channel(s) needs {expected}: correct the card"
            )
        return labels

    def output_for(self, channels: int) -> str:
        """Return ``probability`` or ``logits`` for an output of so many channels."""
        return self.card.output or ("probability" if channels == 1 else "logits")


def people_labels(labels: tuple[str, ...]) -> tuple[str, ...]:
    """Return those labels that mean a person; effects treat them as the subject."""
    return tuple(label for label in labels if label.upper() in _PEOPLE)


def load_card(path: Path) -> Card:
    """Read a card.

    Args:
        path: A TOML file.

    Raises:
        ModelError: If it cannot be read, or a key is unknown or wrong.
    """
    try:
        if path.stat().st_size > _MAX_CARD_BYTES:
            raise ModelError(f"{path}: over {_MAX_CARD_BYTES} bytes, not a model card")
        with path.open("rb") as file:
            return Card.model_validate(tomllib.load(file))
    except OSError as exc:
        raise ModelError(f"{path}: cannot read the model's card: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ModelError(f"{path}: the model's card is not valid TOML: {exc}") from exc
    except ValidationError as exc:
        first = exc.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "card"
        raise ModelError(f"{path}: the model's card: {key}: {first['msg']}") from exc
