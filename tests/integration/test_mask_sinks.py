"""MaskSink: grey videos, numbered pictures and run lengths of what the model saw."""

from __future__ import annotations

import json
import warnings
from fractions import Fraction as F
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest
from pycocotools import mask as coco

from streamseg.errors import SinkOpenError, SinkWriteError
from streamseg.segmentation import Segmentation
from streamseg.sinks import MaskSink
from tests.unit.sinks.helpers import closing, info_of, leftovers, listing, make_frame, read

if TYPE_CHECKING:
    from pathlib import Path

    from streamseg.abc import Sink

pytestmark = [pytest.mark.anyio, pytest.mark.integration]

WIDTH, HEIGHT = 128, 72


def segmentation(number: int) -> Segmentation:
    """Person on the left half, a dog in the lower right quarter; 32x18."""
    person = np.zeros((18, 32), np.float32)
    person[:, :16] = 1
    dog = np.zeros((18, 32), np.float32)
    dog[9:, 16:] = 0.75
    return Segmentation(
        number, ("background", "person", "dog"), masks={"person": person, "dog": dog}
    )


def decode(rle: dict[str, Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools' own, with numpy 2
        return coco.decode(rle)


async def send(sink: Sink, count: int = 5, *, ticks: tuple[int, ...] = ()) -> None:
    async with closing(sink):
        await sink.open(info_of(width=WIDTH, height=HEIGHT))
        for number in range(count):
            pts = ticks[number] if ticks else None
            frame = make_frame(number, pts, width=WIDTH, height=HEIGHT)
            await sink.send(frame, None if number == 2 else segmentation(number))
            await sink.send_packets([object()])
        await sink.finish()
        await sink.commit()


@pytest.mark.parametrize(
    ("name", "codec", "tolerance"),
    [("m.mkv", "ffv1", 1), ("m.mp4", "h264", 6), ("m.mov", "h264", 6), ("m.webm", "vp9", 8)],
)
async def test_mask_video_is_full_range_grey_at_picture_size_and_time(
    tmp_path: Path, name: str, codec: str, tolerance: int
) -> None:
    ticks = (0, 512, 1_024, 3_072, 12_800)
    await send(MaskSink(tmp_path / name, labels=["person"]), ticks=ticks)
    after = read(tmp_path / name)
    assert (after.codec, after.size, after.colour.range) == (codec, (WIDTH, HEIGHT), 2)
    assert after.decoded == [F(tick, 12_800) for tick in ticks]
    with av.open(str(tmp_path / name)) as container:
        masks = [np.asarray(f.to_ndarray())[:HEIGHT, :WIDTH] for f in container.decode(video=0)]
    for number in (0, 1, 3, 4):
        assert masks[number][:, :56].min() >= 255 - tolerance
        assert masks[number][:, 72:].max() <= tolerance
    assert masks[2].max() <= tolerance, "no segmentation is no mask"


async def test_mask_video_of_several_labels_is_their_sum(tmp_path: Path) -> None:
    await send(MaskSink(tmp_path / "m.mkv", labels=["person", "dog"]))
    with av.open(str(tmp_path / "m.mkv")) as container:
        mask = next(container.decode(video=0)).to_ndarray()
    assert mask[60, 10] == 255
    assert abs(int(mask[60, 110]) - 191) <= 1
    assert mask[10, 110] == 0


async def test_mask_pictures_are_8_bit_grey(tmp_path: Path) -> None:
    await send(MaskSink(tmp_path / "m_%05d.png", labels=["dog"]))
    assert listing(tmp_path) == [f"m_{n:05d}.png" for n in range(5)]
    with av.open(str(tmp_path / "m_00000.png")) as container:
        picture = next(container.decode(video=0))
    assert (picture.format.name, picture.width, picture.height) == ("gray", WIDTH, HEIGHT)
    mask = picture.to_ndarray()
    assert abs(int(mask[60, 110]) - 191) <= 1
    assert mask[:, :56].max() == 0


async def test_lines_are_read_back_by_pycocotools(tmp_path: Path) -> None:
    await send(MaskSink(tmp_path / "m.jsonl"))
    lines: list[dict[str, Any]] = [
        json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()
    ]
    assert [line["index"] for line in lines] == list(range(5))
    assert [line["pts"] for line in lines] == [n * 512 for n in range(5)]
    first = lines[0]
    assert (first["time_base"], first["width"], first["height"]) == ("1/12800", WIDTH, HEIGHT)
    assert lines[3]["time_s"] == 0.12
    assert [mask["label"] for mask in first["masks"]] == ["person", "dog"]
    assert lines[2]["masks"] == []
    for mask in first["masks"]:
        rle = {"size": mask["size"], "counts": mask["counts"].encode()}
        decoded = decode(rle)
        assert decoded.shape == (HEIGHT, WIDTH)
        assert decoded.sum() == mask["area"]
    mask = first["masks"][0]
    person = decode({"size": mask["size"], "counts": mask["counts"].encode()})
    assert person[:, :62].all()
    assert not person[:, 66:].any()


@pytest.mark.parametrize("name", ["m.jsonl", "m.mkv", "m_%d.png"])
async def test_unknown_label_says_which_there_are(tmp_path: Path, name: str) -> None:
    sink = MaskSink(tmp_path / name, labels=["cat"])
    with pytest.raises(SinkWriteError, match="no mask of 'cat'; the model gives: person, dog"):
        await send(sink)
    assert listing(tmp_path) == []


@pytest.mark.parametrize("name", ["m.jsonl", "m.mkv", "m_1.png"])
async def test_masks_follow_the_overwrite_rule(tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    target.write_bytes(b"old")
    pattern = tmp_path / name.replace("_1", "_%d")
    async with closing(MaskSink(pattern)) as sink:
        with pytest.raises(SinkOpenError, match="exists; use --overwrite"):
            await sink.open(info_of())
    await send(MaskSink(pattern, overwrite=True))
    assert target.read_bytes() != b"old"
    assert leftovers(tmp_path) == []


async def test_unfinished_masks_leave_nothing(tmp_path: Path) -> None:
    for name in ("m.jsonl", "m.mkv", "m_%d.png"):
        async with closing(MaskSink(tmp_path / name)) as sink:
            await sink.open(info_of(width=WIDTH, height=HEIGHT))
            await sink.send(make_frame(0, width=WIDTH, height=HEIGHT), segmentation(0))
    assert listing(tmp_path) == []


async def test_names_that_hold_no_masks_are_refused(tmp_path: Path) -> None:
    async with closing(MaskSink(tmp_path / "m.txt")) as sink:
        with pytest.raises(SinkOpenError, match=r"\.jsonl"):
            await sink.open(info_of())
