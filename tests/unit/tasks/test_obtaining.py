"""Which models of TensorFlow Lite are converted, and what is said of those that are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamseg.errors import InvalidConfigError, ModelError
from streamseg.models.registry import find_model
from streamseg.tasks.base import StillTask
from streamseg.tasks.classifier import Classifier
from streamseg.tasks.image_segmenter import ImageSegmenter
from streamseg.tasks.instance import InstanceSegmenter
from streamseg.tasks.obtaining import is_tflite, obtain
from streamseg.tasks.panoptic import PanopticSegmenter
from streamseg.tasks.semantic import SemanticSegmenter

TASKS = (SemanticSegmenter, ImageSegmenter, PanopticSegmenter, InstanceSegmenter, Classifier)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/deeplab.tflite", True),
        (Path("DeepLab.TFLite"), True),
        ("file:///models/x%20y.tflite", True),
        ("https://example.org/x.tflite?token=1", True),
        ("selfie", False),
        ("x.tflite.pte", False),
        ("https://example.org/x.pte?from=x.tflite", False),
    ],
)
def test_what_is_a_tflite(name: str | Path, expected: bool) -> None:
    assert is_tflite(name) is expected


@pytest.mark.anyio
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://user:hunter2@example.org/x.tflite", "https://***@example.org/x.tflite"),
        ("https://example.org/x.tflite?token=hunter2", "https://example.org/x.tflite?token=***"),
        (Path("https://user:hunter2@example.org/x.tflite"), "https://***@example.org/x.tflite"),
        ("hf://org/repo/x.tflite", "hf://org/repo/x.tflite"),
    ],
)
async def test_one_of_another_machine_is_refused_without_its_password(
    task: type[StillTask], address: str | Path, shown: str
) -> None:
    segmenter = task(address)
    with pytest.raises((ModelError, InvalidConfigError)) as caught:
        await segmenter.open()
    assert str(caught.value).startswith(f"{shown}: a .tflite ")
    assert "hunter2" not in f"{caught.value}{caught.value.__cause__}{segmenter.error}"
    await segmenter.aclose()


@pytest.mark.anyio
async def test_an_address_that_is_none_is_told_without_its_password() -> None:
    with pytest.raises(ModelError, match=r"ftp://\*\*\*@example.org/x.tflite: cannot be fetched"):
        await obtain("ftp://user:hunter2@example.org/x.tflite")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("task", "told"),
    [(Classifier, "no classifier: use"), (InstanceSegmenter, "not one that finds objects: use")],
)
async def test_other_tasks_refuse_one_before_it_is_converted(
    task: type[StillTask], told: str
) -> None:
    with pytest.raises(
        InvalidConfigError, match=rf"x\.tflite: a \.tflite becomes a model that .*, {told}"
    ):
        await task.load("x.tflite")


@pytest.mark.anyio
@pytest.mark.parametrize("task", [SemanticSegmenter, PanopticSegmenter, ImageSegmenter])
async def test_tasks_of_classes_take_one(task: type[StillTask], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot read .*none\.tflite"):
        await task.load(tmp_path / "none.tflite")


@pytest.mark.anyio
async def test_everything_else_is_found_as_ever(tmp_path: Path) -> None:
    told: list[float] = []
    assert await obtain("selfie", told.append) == find_model("selfie")
    assert told == [1.0]
    with pytest.raises(ModelError, match=r"cannot read .*none\.tflite"):
        await obtain(tmp_path / "none.tflite", told.append)
    with pytest.raises(ModelError, match=r"cannot read .*none\.tflite"):
        await obtain((tmp_path / "none.tflite").as_uri(), told.append)
    with pytest.raises(ModelError, match="unknown model 'selfy'"):
        await obtain("selfy")
    assert told == [1.0]
