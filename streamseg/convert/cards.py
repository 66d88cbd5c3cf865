"""Cards of exported programs: checked against what the program returns, completed, as TOML."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from streamseg.errors import ModelError
from streamseg.models.card import Card, Model
from streamseg.models.labels import LABEL_SETS

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["card_to_toml", "check_card", "complete_card", "minimal_card"]

# What a reader looks for first, written even where it is what a card without it means.
_ALWAYS = ("task", "mean", "std")
_HEADING = "# Written by streamseg export, for the .pte of the same name beside it.\n"
_OUTPUTS = {
    "semantic-segmentation": (1, 4, "[1, K, H, W]"),
    "classification": (1, 2, "[1, K]"),
    "instance-segmentation": (3, 3, "[1, N, 4], [1, N, 2], [1, N, H, W]"),
    "mask-classification": (2, 3, "[1, Q, K + 1], [1, Q, H, W]"),
}


def check_card(card: Card, output_shapes: Sequence[tuple[int, ...]], pte_path: Path) -> None:
    """Compare a card with the outputs of the program that it is for.

    Args:
        card: The card.
        output_shapes: Of all outputs, in their order.
        pte_path: For the message.

    Raises:
        ModelError: If the outputs are not those of the card's task, or there is another number of
            classes than labels.
    """
    count, rank, expected = _OUTPUTS[card.task]
    first = output_shapes[0] if output_shapes else ()
    if len(output_shapes) < count or len(first) != rank:
        shapes = ", ".join(str(list(shape)) for shape in output_shapes) or "nothing"
        raise ModelError(
            f"{pte_path}: its card says {card.task}, which returns {expected}, "
            f"but the model returns {shapes}: correct the card's task"
        )
    if card.task in {"semantic-segmentation", "classification"}:
        Model(pte_path, card).labels_for(first[1])


def minimal_card(name: str, output_shapes: Sequence[tuple[int, ...]]) -> Card | None:
    """Return the card of a model of which nothing is known but what it returns.

    Args:
        name: The model's short name.
        output_shapes: Of all outputs, in their order.

    Returns:
        The card; None where the outputs fit several tasks, or none.
    """
    ranks = [len(shape) for shape in output_shapes]
    if ranks == [4]:
        return Card(name=name)
    return Card(name=name, task="classification") if ranks == [2] else None


def complete_card(
    card: Card, *, input_shape: tuple[int, ...], sha256: str, size_bytes: int, verified_with: str
) -> Card:
    """Return the card with what only the finished program tells.

    Args:
        card: What is known of the model.
        input_shape: NCHW.
        sha256: Of the program, in hexadecimal.
        size_bytes: Of the program.
        verified_with: What it was compared with; put behind what the card says already.
    """
    verified = "; ".join(filter(None, (card.verified_with, verified_with)))
    facts: dict[str, Any] = {
        "sha256": sha256,
        "size_bytes": size_bytes,
        "verified_with": verified,
        "input_size": tuple(input_shape[2:]) if len(input_shape) == 4 else card.input_size,
    }
    return Card.model_validate({**card.model_dump(exclude_unset=True), **facts})


def card_to_toml(card: Card) -> bytes:
    """Return the file's content; ``load_card`` reads the same card from it.

    What has its default value is left out, but for the task and the normalisation.
    """
    values = card.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
    everything = card.model_dump(mode="json")
    # In the order in which the card's fields are declared.
    table = {key: everything[key] for key in Card.model_fields if key in values or key in _ALWAYS}
    if card.instance != Card.model_fields["instance"].default:
        table["instance"] = card.instance.model_dump(mode="json")
    for name, labels in LABEL_SETS.items():
        if card.labels == labels:
            table["labels"] = name
    text = _HEADING + tomli_w.dumps(table)
    if Card.model_validate(tomllib.loads(text)) != card:
        raise ModelError(f"the card of {card.name} cannot be written as TOML: report this model")
    return text.encode()
