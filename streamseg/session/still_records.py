"""What was found in a picture, and the files that say so: PNG, npz, JSON, COCO.

Source of the COCO format: https://cocodataset.org/#format-data and #format-results; masks are
run-length encoded (``masks/rle.py``).
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from streamseg.errors import InvalidUserInputError
from streamseg.masks.rle import encode_rle
from streamseg.sinks.target import Protected, Target

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from streamseg.tasks.instance import InstanceSegmenter
    from streamseg.tasks.semantic import SemanticSegmenter

__all__ = [
    "CocoFile",
    "Found",
    "Region",
    "of_instances",
    "of_semantic",
    "write_bytes",
    "write_json",
    "write_npz",
    "write_palette_png",
]

_BACKGROUND = "BACKGROUND"


@dataclass(frozen=True, slots=True)
class Region:
    """The pixels of one class, or of one object.

    Attributes:
        label: Its class.
        mask: (H, W) bool, of the picture's size.
        score: In [0, 1]: of an object; of a class the mean probability of its pixels, None where
            probabilities were not asked for.
        box: (x, y, width, height) in pixels of the picture.
    """

    label: str
    mask: NDArray[np.bool_]
    score: float | None
    box: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Found:
    """What was found in one picture.

    Attributes:
        source: The picture.
        size: (height, width) in pixels.
        labels: All labels of the model.
        regions: The classes that are there, or the objects.
        class_map: (H, W) int32, None for objects.
        probabilities: Label -> (H, W) float32, of the labels asked for.
        model_ms: Time in the model process, in milliseconds.
    """

    source: Path
    size: tuple[int, int]
    labels: tuple[str, ...]
    regions: tuple[Region, ...]
    class_map: NDArray[np.int32] | None
    probabilities: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    model_ms: float = 0.0


async def of_semantic(segmenter: SemanticSegmenter[Any], path: Path, classes: Any) -> Found:
    """Return the classes of a picture.

    Args:
        segmenter: With its model loaded.
        path: The picture.
        classes: Labels of interest, ``all``, or none for all but the background.
    """
    import anyio.to_thread

    result = await segmenter.forward(path, classes)
    asked = set(result.keys()) - {"ARGMAX"}

    def regions() -> tuple[Region, ...]:
        found = []
        present = np.flatnonzero(np.bincount(result.ARGMAX.ravel(), minlength=len(result.labels)))
        for index in present:
            label = result.labels[index]
            if (asked and label not in asked) or (not asked and label.upper() == _BACKGROUND):
                continue
            mask = result.ARGMAX == index
            score = float(result[label][mask].mean()) if label in asked else None
            found.append(Region(label, mask, score, _box(mask)))
        return tuple(found)

    return Found(
        path,
        result.size,
        result.labels,
        await anyio.to_thread.run_sync(regions),
        result.ARGMAX,
        {label: result[label] for label in result if label != "ARGMAX"},
        result.model_ms,
    )


async def of_instances(segmenter: InstanceSegmenter, path: Path, classes: Sequence[str]) -> Found:
    """Return the objects of a picture; see ``of_semantic``."""
    import anyio.to_thread

    from streamseg.tasks.images import load_image

    picture = await load_image(path)  # its size is wanted where nothing is found, too
    result = await segmenter.forward(picture.pixels, classes_of_interest=classes)

    def regions() -> tuple[Region, ...]:
        found = []
        for item in result:
            x0, y0, x1, y1 = item.bbox
            box = (x0, y0, x1 - x0, y1 - y0)
            found.append(Region(item.label, item.whole_mask() != 0, item.score, box))
        return tuple(found)

    found = await anyio.to_thread.run_sync(regions)
    return Found(path, picture.size, segmenter.labels, found, None)


def write_palette_png(target: Path, found: Found, *, overwrite: bool) -> None:
    """Write the index of each pixel's class, coloured by a palette: 8 bits a pixel.

    Raises:
        InvalidUserInputError: If there are no classes, or over 256.
        SinkError: If it cannot be written.
    """
    import PIL.Image

    from streamseg.effects.palette import palette

    if found.class_map is None or len(found.labels) > 256:
        raise InvalidUserInputError(
            f"{target}: a PNG of class indices needs a model with up to 256 classes: "
            "use --format npz or json"
        )
    image = PIL.Image.fromarray(found.class_map.astype(np.uint8), mode="P")
    colours = (
        (0, 0, 0) if label.upper() == _BACKGROUND else colour
        for label, colour in zip(found.labels, palette(found.labels), strict=True)
    )
    image.putpalette([value for colour in colours for value in colour])
    content = io.BytesIO()
    image.save(content, "PNG")
    write_bytes(target, content.getvalue(), overwrite=overwrite, protected=(found.source,))


def write_npz(target: Path, found: Found, *, overwrite: bool) -> None:
    """Write arrays for numpy: ``ARGMAX`` and the probabilities, or ``masks``, and the labels.

    Raises:
        SinkError: If it cannot be written.
    """
    arrays: dict[str, Any] = {"labels": np.array(found.labels)}
    if found.class_map is not None:
        arrays |= {"ARGMAX": found.class_map, **found.probabilities}
    else:
        arrays["instance_labels"] = np.array([region.label for region in found.regions], np.str_)
        arrays["scores"] = np.array([region.score for region in found.regions], np.float32)
        arrays["boxes"] = np.array([region.box for region in found.regions], np.float32)
        arrays["boxes"] = arrays["boxes"].reshape(-1, 4)
        arrays["masks"] = np.array([region.mask for region in found.regions], np.bool_)
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    write_bytes(target, content.getvalue(), overwrite=overwrite, protected=(found.source,))


def write_json(target: Path, found: Found, *, overwrite: bool) -> None:
    """Write one JSON object: the picture, its size, and a record for each class or object.

    Raises:
        SinkError: If it cannot be written.
    """
    height, width = found.size
    record = {
        "picture": str(found.source),
        "size": [height, width],
        "labels": list(found.labels),
        "found": [
            {
                "label": region.label,
                "score": region.score,
                "pixels": int(region.mask.sum()),
                "bbox": list(region.box),
                "mask": encode_rle(region.mask),
            }
            for region in found.regions
        ],
    }
    content = json.dumps(record).encode() + b"\n"
    write_bytes(target, content, overwrite=overwrite, protected=(found.source,))


class CocoFile:
    """The annotations of all pictures in one file.

    Args:
        path: The file.
        model: The model's name.
        overwrite: Whether an existing file is replaced.
        protected: Files that are never replaced: the pictures.

    Raises:
        SinkOpenError: If it cannot be written.
    """

    def __init__(
        self, path: Path, model: str, *, overwrite: bool, protected: Sequence[Path]
    ) -> None:
        self._target = Target(path, overwrite=overwrite)
        self._target.check(Protected(protected))
        self._model = model
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._labels: tuple[str, ...] = ()

    def add(self, path: Path, found: Found) -> None:
        """Add a picture with what was found in it."""
        self._labels = found.labels
        height, width = found.size
        image = len(self._images) + 1
        self._images.append({"id": image, "file_name": str(path), "width": width, "height": height})
        for region in found.regions:
            annotation = {
                "id": len(self._annotations) + 1,
                "image_id": image,
                "category_id": found.labels.index(region.label) + 1,
                "segmentation": encode_rle(region.mask),
                "area": int(region.mask.sum()),
                "bbox": list(region.box),
                "iscrowd": 0,
            }
            if region.score is not None:
                annotation["score"] = region.score
            self._annotations.append(annotation)

    def write(self) -> None:
        """Write the file.

        Raises:
            SinkError: If that fails.
        """
        content = {
            "info": {"description": f"found by {self._model}"},
            "images": self._images,
            "categories": [
                {"id": number, "name": label} for number, label in enumerate(self._labels, 1)
            ],
            "annotations": self._annotations,
        }
        _put(self._target, json.dumps(content).encode() + b"\n")


def _box(mask: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (
        float(columns[0]),
        float(rows[0]),
        float(columns[-1] - columns[0] + 1),
        float(rows[-1] - rows[0] + 1),
    )


def write_bytes(
    path: Path, content: bytes, *, overwrite: bool, protected: Sequence[str | Path]
) -> None:
    """Write a file, whole or not at all.

    Args:
        path: The file.
        content: What it will hold.
        overwrite: Whether an existing file is replaced.
        protected: Files that are never replaced: what is being read.

    Raises:
        SinkError: If it cannot be written.
    """
    target = Target(path, overwrite=overwrite)
    target.check(Protected(protected))
    _put(target, content)


def _put(target: Target, content: bytes) -> None:
    try:
        target.create().write_bytes(content)
        target.commit()
    except OSError as exc:
        raise target.error(exc) from exc
    finally:
        target.release()
