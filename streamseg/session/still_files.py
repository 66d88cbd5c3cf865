"""The files that say what was found in a picture: PNG, npz, JSON, COCO.

All are written in pieces, so that writing ends soon when nobody wants the file any more, and with
one mask at a time in memory.

Source of the formats: https://cocodataset.org/#format-data and #format-results, with masks run-length
encoded (``masks/rle.py``); https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html.
"""

from __future__ import annotations

import json
import zipfile
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy

from streamseg.errors import InvalidUserInputError
from streamseg.masks.rle import encode_rle
from streamseg.models.labels import COCO_CATEGORY_LABELS, COCO_LABELS
from streamseg.session.still_records import is_background
from streamseg.sinks.target import Protected, Target
from streamseg.tasks.threads import Watched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from streamseg.session.still_records import Found
    from streamseg.tasks.threads import Check

__all__ = ["CocoFile", "ResultWriter", "fill_json", "fill_npz", "fill_palette_png"]

# Half of what is written is noise in the last digits of probabilities: more effort gains little.
_ZIP_LEVEL = 1
_PIECE_BYTES = 1 << 20


class ResultWriter:
    """Writes files, whole or not at all.

    Args:
        overwrite: Whether an existing file is replaced.
        protected: Files that are never replaced: what is being read.
    """

    def __init__(self, *, overwrite: bool, protected: Iterable[str | Path]) -> None:
        self._overwrite = overwrite
        self._protected = Protected(protected)

    def check(self, path: Path) -> None:
        """Fail early where it is clear that a file cannot be written.

        Raises:
            SinkOpenError: With what to try instead.
        """
        self._target(path)

    def write(self, path: Path, fill: Callable[[Watched], object], check: Check) -> None:
        """Write a file.

        Args:
            path: The file.
            fill: Writes what it will hold.
            check: See ``in_thread``.

        Raises:
            SinkError: If it cannot be written.
        """
        target = self._target(path)
        try:
            with target.create().open("wb") as file:
                fill(Watched(file, check, fd=target.fd))
            check()
            target.commit()
        except OSError as exc:
            raise target.error(exc) from exc
        finally:
            target.release()

    def _target(self, path: Path) -> Target:
        target = Target(path, overwrite=self._overwrite)
        target.check(self._protected)
        return target


def fill_palette_png(found: Found, file: Watched) -> None:
    """Write the index of each pixel's class, coloured by a palette: 8 bits a pixel.

    Raises:
        InvalidUserInputError: If there are no classes, or over 256.
    """
    import PIL.Image

    from streamseg.effects.palette import palette

    if found.class_map is None or len(found.labels) > 256:
        raise InvalidUserInputError(
            f"{found.name}: a PNG of class indices needs a model with up to 256 classes: "
            "use --format npz or json"
        )
    image = PIL.Image.fromarray(found.class_map.astype(np.uint8), mode="P")
    colours = (
        (0, 0, 0) if is_background(label) else colour
        for label, colour in zip(found.labels, palette(found.labels), strict=True)
    )
    image.putpalette([value for colour in colours for value in colour])
    image.save(file, "PNG")  # type: ignore[arg-type] # writing, seeking and telling is all it does


def fill_npz(found: Found, file: Watched) -> None:
    """Write arrays for numpy.

    Always ``labels``. Of classes ``ARGMAX``, and the probabilities by their labels; a label that is
    the name of something else here has a ``_`` behind it. Of N objects or segments
    ``instance_labels``, ``scores`` (NaN where there is none), ``boxes`` (N, 4) and ``masks``
    (N, H, W); of segments ``SEGMENTS`` too, the number of each pixel's row in these, from 1.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=_ZIP_LEVEL) as archive:  # type: ignore[call-overload]
        add = partial(_add, archive)
        add("labels", np.array(found.labels, np.str_))
        if found.class_map is not None:
            add("ARGMAX", found.class_map)
            for key, label in _keys(found.probabilities, {"labels", "ARGMAX"}).items():
                add(key, found.probabilities[label])
            return
        regions = found.regions
        if found.segment_map is not None:
            add("SEGMENTS", found.segment_map)
        add("instance_labels", np.array([region.label for region in regions], np.str_))
        scores = [np.nan if region.score is None else region.score for region in regions]
        add("scores", np.array(scores, np.float32))
        add("boxes", np.array([region.box for region in regions], np.float32).reshape(-1, 4))
        masks = (region.mask() for region in regions)
        _add_parts(archive, "masks", (len(regions), *found.size), np.dtype(np.bool_), masks)


def _keys(labels: Iterable[str], taken: set[str]) -> Mapping[str, str]:
    """Return label by key: a name within an archive that is not taken yet."""
    keys: dict[str, str] = {}
    for label in labels:
        key = "".join(c if c.isprintable() and c not in "/\\" else "_" for c in label)
        while key in keys or key in taken:
            key += "_"
        keys[key] = label
    return keys


def _add(archive: zipfile.ZipFile, key: str, array: NDArray[Any]) -> None:
    _add_parts(archive, key, array.shape, array.dtype, [array])


def _add_parts(
    archive: zipfile.ZipFile,
    key: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    parts: Iterable[NDArray[Any]],
) -> None:
    """Write an array that is never there as a whole."""
    header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
        npy.write_array_header_1_0(member, header)
        for part in parts:
            samples = np.ascontiguousarray(part, dtype).reshape(-1).view(np.uint8)
            for start in range(0, len(samples), _PIECE_BYTES):
                member.write(samples[start : start + _PIECE_BYTES].data)


def fill_json(found: Found, file: Watched) -> None:
    """Write one JSON object: the picture, its size, and a record for each class or object."""
    head = {"picture": found.name, "size": list(found.size), "labels": list(found.labels)}
    _write_object(file, head, {"found": _records(found)})


def _records(found: Found) -> Iterator[str]:
    for region in found.regions:
        mask = region.mask()
        record = {
            "label": region.label,
            "score": region.score,
            "pixels": int(np.count_nonzero(mask)),
            "bbox": list(region.box),
            "mask": encode_rle(mask),
        }
        yield json.dumps(record)


def _write_object(
    file: Watched, head: Mapping[str, Any], lists: Mapping[str, Iterable[str]]
) -> None:
    """Write a JSON object with lists at its end, whose items are JSON already."""
    file.write(json.dumps(head)[:-1].encode())
    for name, items in lists.items():
        file.write(f", {json.dumps(name)}: [".encode())
        for number, item in enumerate(items):
            file.write(f"{', ' if number else ''}{item}".encode())
        file.write(b"]")
    file.write(b"}\n")


class CocoFile:
    """The annotations of all pictures, for one file.

    Categories have COCO's own ids where a model has COCO's labels. Otherwise they are numbered from
    1 in the model's order; where its first label stands for nothing, that would be 0.

    Args:
        model: The model's name.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        # As JSON already: as objects they take several times the memory.
        self._images: list[str] = []
        self._annotations: list[str] = []
        self._categories: dict[int, str] = {}

    def add(self, found: Found, check: Check) -> None:
        """Add a picture with what was found in it.

        Args:
            found: The classes, objects or segments.
            check: See ``in_thread``.
        """
        ids = _category_ids(found.labels)
        image, first = len(self._images) + 1, len(self._annotations) + 1
        annotations = []
        for number, region in enumerate(found.regions, first):
            check()
            mask = region.mask()
            annotation = {
                "id": number,
                "image_id": image,
                "category_id": ids[region.index],
                "segmentation": encode_rle(mask),
                "area": int(np.count_nonzero(mask)),
                "bbox": list(region.box),
                "iscrowd": 0,
            }
            if region.score is not None:
                annotation["score"] = region.score
            annotations.append(json.dumps(annotation))
        height, width = found.size
        picture = {"id": image, "file_name": found.name, "width": width, "height": height}
        self._images.append(json.dumps(picture))
        self._annotations += annotations
        for index, label in enumerate(found.labels):
            if not is_background(label):
                self._categories[ids[index]] = label
        for region in found.regions:  # the background too, where it was asked for
            self._categories[ids[region.index]] = region.label

    def fill(self, file: Watched) -> None:
        """Write the file."""
        categories = (
            json.dumps({"id": number, "name": label})
            for number, label in sorted(self._categories.items())
        )
        _write_object(
            file,
            {"info": {"description": f"found by {self._model}"}},
            {
                "images": self._images,
                "categories": categories,
                "annotations": self._annotations,
            },
        )


def _category_ids(labels: tuple[str, ...]) -> tuple[int, ...]:
    if labels == COCO_LABELS:
        return tuple(COCO_CATEGORY_LABELS.index(label) for label in labels)
    # "N/A" is what transformers' DETR models call the id that COCO does not use.
    first = 0 if labels and (is_background(labels[0]) or labels[0] == "N/A") else 1
    return tuple(range(first, first + len(labels)))
