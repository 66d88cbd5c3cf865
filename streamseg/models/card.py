"""Card: what has to be known of a model besides its .pte, and Model: the two together."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from streamseg.errors import ModelError
from streamseg.models.labels import CLASS_MAP, LABEL_SETS, SELFIE_LABELS, VOC_LABELS

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "Card",
    "InstanceRule",
    "MaskRule",
    "Model",
    "Task",
    "card_problem",
    "load_card",
    "people_labels",
]

_PEOPLE = frozenset({"SELFIE", "PERSON"})
_MAX_CARD_BYTES = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")

Finite = Annotated[float, Field(allow_inf_nan=False)]
Triple = tuple[Finite, Finite, Finite]
Positive = Annotated[int, Field(gt=0, le=8192)]
Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Task = Literal[
    "semantic-segmentation", "instance-segmentation", "mask-classification", "classification"
]


class InstanceRule(BaseModel):
    """How the objects of an instance model are chosen: the table ``[instance]`` of its card.

    Attributes:
        confidence: Objects with a lower score are left out.
        iou: Of two boxes of one class that overlap by more than this, the better one stays.
        max_instances: How many objects are returned at most, the best ones first.
        suppress: Whether overlapping boxes must be removed; not where the graph does it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    confidence: Share = 0.5
    iou: Share = 0.5
    max_instances: Positive = 100
    suppress: bool = True


class MaskRule(BaseModel):
    """How a model that returns class and mask logits for each of its queries is read: ``[masks]``.

    Attributes:
        family: Whose rules of post-processing hold; they differ in what mask logits are resized
            to and in what is multiplied with what.
        subtasks: What the model was trained for, the first one by default.
        fused: Labels whose segments share one id: sky and road have no instances.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: Literal["maskformer", "mask2former", "detr"]
    subtasks: tuple[Literal["panoptic", "instance", "semantic"], ...] = (
        "panoptic",
        "instance",
        "semantic",
    )
    fused: tuple[str, ...] = ()


class Card(BaseModel):
    """A model's card, as it stands in a TOML file beside the .pte.

    Attributes:
        name: Short name.
        title: One line for lists.
        description: What it is good for.
        task: What it does, which says what its outputs are. ``semantic-segmentation``: [1, K, H, W].
            ``classification``: [1, K]. ``instance-segmentation``: boxes [1, N, 4] (x0, y0, x1, y1 in
            pixels of the model's input), [1, N, 2] (score, class index), mask logits [1, N, H, W].
            ``mask-classification``: class logits [1, Q, K + 1], the last one for "nothing", and mask
            logits [1, Q, H, W].
        labels: Names of the classes, in the order of the output's channels, or the name of one of
            ``LABEL_SETS``; None derives them from the number of channels. A model of one channel
            has two labels: the foreground, whose probability the channel is, and the background.
            They differ in more than their case, and none is blank or ``ARGMAX``.
        input_size: (H, W) in pixels; the .pte's own metadata decide, this is for lists.
        mean: Subtracted from RGB in [0, 1], a finite value a channel.
        std: Divides after that; above 0.
        sampling: Where the model's pixels lie in the picture. ``centre``: pixel i covers its share
            of the picture, as in most pipelines. ``corner``: pixel i is the picture's point
            ``i * width / model_width``, interpolated without a filter, as MediaPipe takes it.
        resample: How a still picture is stretched to the model's size.
        antialias: Whether it is low-pass filtered when it becomes smaller, as Pillow does it.
        letterbox: Whether it keeps its shape, with grey bars, instead of being stretched.
        output: ``probability`` (in [0, 1] already) or ``logits``; None means ``probability`` for
            one channel and ``logits`` for several.
        licence: SPDX identifier of the weights' licence.
        source: Where the weights come from, in words.
        source_sha256: SHA-256 of the original file, 64 hexadecimal digits; empty if not known.
        sha256: SHA-256 of the .pte, likewise. Both are kept in lower case.
        size_bytes: Size of the .pte in bytes.
        verified_with: What the .pte was compared with, and the result.
        url: Where the .pte can be fetched from; empty for what is bundled or the user's own.
        method: Which of the program's methods is run; exporters that support several input sizes
            name one after each.
        instance: How objects are chosen; for ``instance-segmentation``.
        masks: How queries are read; for ``mask-classification``, where it must be given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str = ""
    description: str = ""
    task: Task = "semantic-segmentation"
    labels: tuple[str, ...] | None = None
    input_size: tuple[Positive, Positive] | None = None
    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = (1.0, 1.0, 1.0)
    sampling: Literal["centre", "corner"] = "centre"
    resample: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    antialias: bool = False
    letterbox: bool = False
    output: Literal["probability", "logits"] | None = None
    licence: str = ""
    source: str = ""
    source_sha256: str = ""
    sha256: str = ""
    size_bytes: int | None = None
    verified_with: str = ""
    url: str = ""
    method: str = "forward"
    instance: InstanceRule = InstanceRule()
    masks: MaskRule | None = None

    @field_validator("labels", mode="before")
    @classmethod
    def _take_label_set(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value not in LABEL_SETS:
            raise ValueError(f"no label set {value!r}: choose {', '.join(LABEL_SETS)}, or a list")
        return LABEL_SETS[value]

    @field_validator("labels")
    @classmethod
    def _check_labels(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is None:
            return None
        if not value:
            raise ValueError("there is none: name the classes, or leave the key out")
        seen: dict[str, str] = {}  # they are asked for in any case
        for label in value:
            if not label.strip():
                raise ValueError("one is blank: name every class")
            if label.upper() == CLASS_MAP:
                raise ValueError(f"none may be called {label}: so the map of all classes is called")
            other = seen.get(label.casefold())
            if other == label:
                raise ValueError(f"labels must be different from each other: two are {label!r}")
            if other is not None:
                raise ValueError(f"{other!r} and {label!r} differ in their case only: rename one")
            seen[label.casefold()] = label
        return value

    @field_validator("sha256", "source_sha256")
    @classmethod
    def _check_sha256(cls, value: str) -> str:
        digits = value.strip().lower()
        if digits and not _SHA256.fullmatch(digits):
            raise ValueError(f"{value[:80]!r} is no SHA-256: write its 64 hexadecimal digits")
        return digits

    @model_validator(mode="after")
    def _check(self) -> Card:
        if min(self.std) <= 0:
            raise ValueError("std must be above 0")
        if (self.task == "mask-classification") != (self.masks is not None):
            raise ValueError("the table [masks] belongs to the task mask-classification")
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
                return SELFIE_LABELS
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
    except ValidationError as exc:
        raise ModelError(f"{path}: the model's card: {card_problem(exc)}") from exc
    except (ValueError, RecursionError) as exc:  # also a number of 5000 digits
        raise ModelError(f"{path}: the model's card is not valid TOML: {exc}") from exc


def card_problem(exc: ValidationError) -> str:
    """Return in one line what is wrong with a card: the first key that is, and why."""
    first = exc.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "card"
    what = "is missing" if first["type"] == "missing" else first["msg"]
    what = what.removeprefix("Value error, ")
    return "".join(letter if letter.isprintable() else " " for letter in f"{key}: {what}")
