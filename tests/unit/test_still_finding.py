"""What a model is asked for, and what is told of the results."""

from __future__ import annotations

import inspect
import json
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from streamseg.cli.stills import print_stills
from streamseg.config import Config
from streamseg.errors import InvalidUserInputError
from streamseg.models.card import Card, Model
from streamseg.session import still_reading
from streamseg.session.pictures import Item, Plan
from streamseg.session.still_reading import read_pixels
from streamseg.session.still_records import of_semantic
from streamseg.session.stills import StillReport, _finder
from streamseg.tasks.semantic import SemanticSegmenter
from streamseg.tasks.semantic_result import SemanticResult

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

LABELS = tuple(f"L{index}" for index in range(21))


class Asked:
    """A segmenter that answers nonsense and remembers what it was asked for."""

    labels = LABELS

    def __init__(self) -> None:
        self.classes: list[str | tuple[str, ...]] = []

    async def forward(self, pixels: np.ndarray, classes: Any) -> SemanticResult[Any]:
        self.classes.append(classes)
        size = pixels.shape[:2]
        asked = LABELS if classes == "all" else classes
        masks = {label: np.full(size, np.nan, np.float32) for label in asked}
        return SemanticResult(
            np.zeros(size, np.int32), masks, labels=LABELS, model_ms=1.0, inference_ms=1.0
        )


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("classes", "indices_only", "expected"),
    [(["all"], False, "all"), (["L3"], False, ("L3",)), (["all"], True, ("L0", "L1"))],
)
async def test_few_probabilities_are_made_where_indices_are_wanted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    classes: Sequence[str],
    indices_only: bool,
    expected: str | tuple[str, ...],
) -> None:
    picture, segmenter = tmp_path / "a.png", Asked()
    Image.new("RGB", (8, 6)).save(picture)

    @asynccontextmanager
    async def opened() -> AsyncIterator[Asked]:
        yield segmenter

    async def load(model: Model, **options: object) -> Any:
        return opened()

    monkeypatch.setattr(SemanticSegmenter, "load", load)
    model = Model(Path("a.pte"), Card(name="a"))
    async with _finder(model, Config(), classes, indices_only=indices_only) as find:
        # Values that are no numbers are told all the same.
        if expected == ("L3",):
            await find(Item(picture, None))
        else:
            with pytest.raises(Exception, match="that are no numbers"):
                await find(Item(picture, None))
    assert segmenter.classes == [expected]


@pytest.mark.anyio
async def test_too_much_is_told_in_the_words_of_a_command() -> None:
    pixels = np.broadcast_to(np.uint8(0), (8000, 8000, 3))
    segmenter = Asked()
    with pytest.raises(InvalidUserInputError, match="give fewer with --classes") as caught:
        await of_semantic(segmenter, pixels, "a.png", "all")  # type: ignore[arg-type]
    assert "resize_to_input" not in str(caught.value)
    assert segmenter.classes == []


@pytest.mark.anyio
async def test_an_address_may_take_the_same_time_for_every_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[float] = []

    async def read_source(source: object, *, timeout_s: float) -> tuple[bytes, str]:
        asked.append(timeout_s)
        return (b"P6 1 1 255 abc", "it")

    monkeypatch.setattr(still_reading, "read_source", read_source)
    assert (await read_pixels("https://example.org/a.ppm")).shape == (1, 1, 3)
    assert asked == [30]
    assert "timeout_s" not in inspect.signature(read_pixels).parameters


def test_what_was_left_out_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    plan = Plan((Item(Path("a.png"), None),), left_out=("a_mask.png",))
    report = StillReport(results={"a.png": "a_mask.png"})
    print_stills(report, plan, as_json=True, quiet=False)
    assert json.loads(capsys.readouterr().out)["left_out"] == ["a_mask.png"]
    print_stills(report, plan, as_json=False, quiet=False)
    told = " ".join(capsys.readouterr().err.split())
    assert "1 earlier result was left out; to segment such a file too, give it by itself" in told
