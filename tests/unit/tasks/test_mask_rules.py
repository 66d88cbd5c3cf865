"""Rules of post-processing, on queries that are made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from streamseg.tasks.mask_rules import (
    Family,
    SegmentMap,
    Thresholds,
    class_segments,
    largest_class,
    query_class_maps,
    query_segments,
)
from streamseg.tasks.mask_rules_order import largest_first

SKY, DOG, NOTHING = 0, 1, 2
SIZE = (8, 8)


def classes(*chosen: tuple[int, float]) -> NDArray[np.float32]:
    """Return class logits (Q, 3): each query's class with its probability."""
    shares = np.array(
        [[p if c == k else (1 - p) / 2 for c in range(3)] for k, p in chosen], np.float32
    )
    return np.log(shares)


def boxes(*boxes: tuple[int, int, int, int]) -> NDArray[np.float32]:
    """Return mask logits (Q, 8, 8): 10 in top, left, bottom, right, -10 elsewhere."""
    maps = np.full((len(boxes), *SIZE), -10, np.float32)
    for each, (top, left, bottom, right) in zip(maps, boxes, strict=True):
        each[top:bottom, left:right] = 10
    return maps


def panoptic(
    class_logits: NDArray[np.float32], mask_logits: NDArray[np.float32], **options: float
) -> SegmentMap:
    return query_segments(
        "detr", "panoptic", class_logits, mask_logits, SIZE, Thresholds(**options)
    )


def test_pixels_go_to_the_query_with_the_largest_weighed_mask() -> None:
    found = panoptic(classes((SKY, 0.95), (DOG, 0.99)), boxes((0, 0, 8, 6), (0, 4, 8, 8)))
    assert [(each.id, each.label_id, each.score) for each in found.segments] == [
        (1, SKY, pytest.approx(0.95, abs=1e-6)),
        (2, DOG, pytest.approx(0.99, abs=1e-6)),
    ]
    assert found.ids[0].tolist() == [1, 1, 1, 1, 2, 2, 2, 2]
    assert found.mask(found.segments[1])[0].tolist() == [0, 0, 0, 0, 255, 255, 255, 255]


def test_queries_of_nothing_and_of_low_scores_have_no_segment() -> None:
    logits = classes((NOTHING, 0.99), (SKY, 0.9), (DOG, 0.91))
    found = panoptic(logits, boxes(*[(0, 0, 8, 8)] * 3), score=0.9)
    assert [each.label_id for each in found.segments] == [DOG]
    assert (found.ids == 1).all()


def test_picture_of_nothing_has_no_segments() -> None:
    found = panoptic(classes((NOTHING, 0.99), (NOTHING, 0.9)), boxes(*[(0, 0, 8, 8)] * 2))
    assert found.segments == ()
    assert not found.ids.any()


def test_segment_that_keeps_too_little_of_its_mask_is_dropped_and_its_pixels_are_nobodys() -> None:
    # The sky keeps 8 of its 32 pixels, a quarter.
    logits, masks = classes((SKY, 0.95), (DOG, 0.99)), boxes((0, 0, 4, 8), (0, 0, 3, 8))
    assert len(panoptic(logits, masks, overlap=0.2).segments) == 2
    found = panoptic(logits, masks, overlap=0.3)
    assert [each.label_id for each in found.segments] == [DOG]
    assert found.ids[2:4, 0].tolist() == [1, 0]


def test_mask_threshold_counts_after_the_score_was_multiplied() -> None:
    logits, masks = classes((SKY, 0.6)), boxes((0, 0, 4, 8))
    assert len(panoptic(logits, masks, score=0.5, mask=0.5).segments) == 1
    assert len(panoptic(logits, masks, score=0.5, mask=0.65).segments) == 0


def test_fused_classes_share_an_id_and_others_never_get_it() -> None:
    logits = classes((SKY, 0.95), (DOG, 0.96), (SKY, 0.97), (DOG, 0.98))
    masks = boxes((0, 0, 8, 2), (0, 2, 8, 4), (0, 4, 8, 6), (0, 6, 8, 8))
    found = query_segments("maskformer", "panoptic", logits, masks, SIZE, Thresholds(), fused={SKY})
    assert [(each.id, each.label_id) for each in found.segments] == [
        (1, SKY),
        (2, DOG),
        (1, SKY),
        (3, DOG),
    ]
    assert found.ids[0].tolist() == [1, 1, 2, 2, 1, 1, 3, 3]


def test_instances_of_maskformer_are_painted_over_each_other() -> None:
    logits, masks = classes((SKY, 0.95), (DOG, 0.99)), boxes((0, 0, 8, 8), (0, 4, 8, 8))
    found = query_segments("maskformer", "instance", logits, masks, SIZE, Thresholds(score=0.5))
    by_label = {each.label_id: each for each in found.segments}
    assert set(by_label) == {SKY, DOG}
    # A mask's own certainty is part of the score.
    certainty = 1 / (1 + np.exp(-10.0))
    assert by_label[DOG].score == pytest.approx(0.99 * certainty, abs=2e-6)
    assert set(np.unique(found.ids)) <= {1, 2}
    assert (found.ids[:, 4:] == found.segments[-1].id).all()  # both are there


@pytest.mark.parametrize("family", ["maskformer", "mask2former", "detr"])
def test_semantic_adds_up_all_queries_of_a_class(family: Family) -> None:
    logits = classes((SKY, 0.5), (SKY, 0.5), (DOG, 0.6))
    maps = query_class_maps(family, logits, boxes((0, 0, 8, 4), (0, 0, 8, 4), (0, 0, 8, 8)))
    assert maps.shape == (2, *((384, 384) if family == "mask2former" else SIZE))
    found = class_segments(largest_class(maps, SIZE))
    assert found.ids[0].tolist() == [1] * 4 + [2] * 4
    assert [(each.id, each.label_id, each.score) for each in found.segments] == [
        (1, SKY, None),
        (2, DOG, None),
    ]


def test_equal_scores_go_to_the_first_class() -> None:
    assert not largest_class(np.zeros((3, 2, 2), np.float32), (4, 4)).any()


def test_infinite_logits_are_no_error() -> None:
    logits = np.array([[np.inf, 0, 0], [0, 3e38, 0]], np.float32)
    masks = np.stack([np.full(SIZE, np.inf, np.float32), np.full(SIZE, -3e38, np.float32)])
    for subtask in ("panoptic", "instance"):
        found = query_segments("maskformer", subtask, logits, masks, SIZE, Thresholds(score=0.1))
        assert found.ids.shape == SIZE


def test_largest_values_are_the_largest_ones_in_either_order() -> None:
    values = np.random.default_rng(3).random(1000).astype(np.float32)
    largest = set(np.argsort(values)[-20:].tolist())
    found = largest_first(values, 20)
    assert len(found) == 20
    assert set(found) == largest
    few = largest_first(values, 10)  # a hundredth: sorted
    assert few == np.argsort(-values)[:10].tolist()
    assert sorted(largest_first(values[:7], 7)) == list(range(7))
