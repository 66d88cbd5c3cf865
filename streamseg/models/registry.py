"""Names -> models: what comes with the package, and a user's own .pte."""

from __future__ import annotations

import difflib
from importlib import resources
from pathlib import Path

from streamseg.errors import ModelError
from streamseg.models.card import Card, Model, load_card

__all__ = ["bundled_names", "find_model"]

_BUNDLED = {"selfie": "selfie_general", "selfie-landscape": "selfie_landscape"}


def bundled_names() -> tuple[str, ...]:
    """Return the names of the models that need no download."""
    return tuple(_BUNDLED)


def find_model(name: str | Path) -> Model:
    """Return a model by name or by path.

    Args:
        name: A bundled name, or the path of a .pte; a card is read from the file of the same name
            with the suffix ``.toml`` where there is one.

    Raises:
        ModelError: If there is no such model, or its card is wrong.
    """
    text = str(name)
    if text in _BUNDLED:
        # The package is never zipped: executorch and torch cannot be, either.
        folder = Path(str(resources.files("streamseg.models") / "bundled"))
        path = folder / f"{_BUNDLED[text]}.pte"
        return Model(path, load_card(path.with_suffix(".toml")))
    path = Path(text).expanduser()
    if path.suffix.lower() != ".pte":
        near = difflib.get_close_matches(text, _BUNDLED, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "or the path of a .pte file"
        raise ModelError(f"unknown model {text!r}: choose one of {', '.join(_BUNDLED)}, {hint}")
    if path.is_dir():
        raise ModelError(f"{path}: is a directory, expected a .pte file")
    if not path.exists():
        raise ModelError(f"{path}: no such model file; check the path")
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError as exc:
        raise ModelError(f"{path}: cannot read the model: {exc.strerror}") from exc
    # The flatbuffer's file identifier. Live streams open their outputs before the model is loaded:
    # what is no model at all must be told before.
    if start[4:6] != b"ET":
        raise ModelError(
            f"{path}: cannot be used as a model: it is not an ExecuTorch program; "
            "export it again, or check the download"
        )
    card = path.with_suffix(".toml")
    return Model(path, load_card(card) if card.exists() else Card(name=path.stem))
