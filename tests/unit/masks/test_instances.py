"""Objects out of a model's outputs, which is which from frame to frame, and their motion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from streamseg.errors import ConfigError, InvalidModelOutputError
from streamseg.masks.instances import check_instance_shapes, instance_labels, select_instances
from streamseg.masks.tracking import InstanceTracker, box_iou
from streamseg.segmentation import FrameInstance

LABELS = ("PERSON", "DOG")
SIZE = (100, 200)


@dataclass(frozen=True)
class Rule:
    confidence: float = 0.5
    iou: float = 0.5
    max_instances: int = 100
    suppress: bool = True


def outputs(*rows, shape=(25, 50)):
    """Of rows (box, score, class): the mask of each is certain everywhere."""
    boxes = np.array([[row[0] for row in rows]], np.float32).reshape(1, -1, 4)
    scores = np.array([[row[1:3] for row in rows]], np.float32).reshape(1, -1, 2)
    return boxes, scores, np.full((1, len(rows), *shape), 9.0, np.float32)


def chosen(*rows, rule=None):
    return [each.row for each in select_instances(outputs(*rows), rule or Rule(), LABELS, SIZE)]


BOX = (10, 10, 60, 60)


def test_the_surest_come_first_and_unsure_ones_not_at_all():
    rows = [((0, 0, 20, 20), 0.6, 0), ((100, 0, 150, 50), 0.9, 1), ((30, 30, 50, 50), 0.49, 0)]
    assert chosen(*rows) == [1, 0]
    assert chosen(*rows, rule=Rule(max_instances=1)) == [1]
    assert chosen(*rows, rule=Rule(confidence=0.0)) == [1, 0, 2]
    assert chosen() == []


def test_boxes_of_one_class_suppress_each_other_and_others_do_not():
    near = (12, 10, 62, 60)
    assert chosen((BOX, 0.7, 0), (near, 0.8, 0)) == [1]
    assert chosen((BOX, 0.7, 0), (near, 0.8, 1)) == [1, 0]
    assert chosen((BOX, 0.7, 0), (near, 0.8, 0), rule=Rule(iou=0.95)) == [1, 0]
    assert chosen((BOX, 0.7, 0), (near, 0.8, 0), rule=Rule(suppress=False)) == [1, 0]


def test_suppression_is_the_greedy_rule_on_random_boxes():
    rng = np.random.default_rng(5)
    corners = rng.uniform(0, 80, (60, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 40, (60, 2))], axis=1)
    boxes = boxes.clip(0, 100).astype(np.float32)
    scores, classes = rng.permutation(60) / 61 + 0.01, rng.integers(0, 2, 60)
    expected: list[int] = []
    for index in np.argsort(-scores):
        overlaps = [
            box_iou(tuple(boxes[index]), tuple(boxes[kept]))
            for kept in expected
            if classes[kept] == classes[index]
        ]
        if all(overlap <= 0.4 for overlap in overlaps):
            expected.append(int(index))
    rows = [
        (tuple(box), score, label) for box, score, label in zip(boxes, scores, classes, strict=True)
    ]
    assert chosen(*rows, rule=Rule(confidence=0.0, iou=0.4)) == expected
    assert len(expected) < 60


SCATTERED = [((0, 0, 10, 10), 0.6, 0), ((1, 0, 11, 10), 0.9, 0), ((0, 0, 10, 10), 0.7, 1),
             ((50, 50, 60, 60), 0.8, 0), ((5, 0, 15, 10), 0.5, 0)]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Rule(suppress=False), [1, 3, 2, 0, 4]),
        (Rule(), [1, 3, 2, 4]),  # box 0 overlaps box 1 by 9 / 11, box 4 by 6 / 14
        (Rule(iou=0.4), [1, 3, 2]),
        (Rule(iou=0.9), [1, 3, 2, 0, 4]),
        (Rule(max_instances=2), [1, 3]),
        (Rule(iou=0.0), [1, 3, 2]),
        (Rule(iou=1.0), [1, 3, 2, 0, 4]),
    ],
)
def test_the_better_of_two_boxes_of_one_class_stays(rule, expected):
    assert chosen(*SCATTERED, rule=rule) == expected


def test_equal_scores_keep_their_order_and_a_score_of_0_is_one():
    rows = [((20 * n, 0, 20 * n + 10, 10), score, 0) for n, score in enumerate((0, 0.5, 0.5, 0))]
    assert chosen(*rows, rule=Rule(confidence=0.0)) == [1, 2, 0, 3]


def test_classes_are_chosen_before_the_best_are_counted():
    found = select_instances(outputs(*SCATTERED), Rule(max_instances=1), LABELS, SIZE, classes={1})
    assert [(each.row, each.label) for each in found] == [(2, "DOG")]


def test_boxes_without_area_in_the_picture_are_left_out():
    rows = [
        ((50, 10, 40, 60), 0.9, 0), ((10, 10, 10, 60), 0.9, 0), ((300, 0, 400, 50), 0.9, 0),
        ((80, 0, 99, 20), 0.9, 0), (BOX, 0.9, 0),
    ]  # fmt: skip
    assert chosen(*rows) == [3, 4]
    raw, bars = outputs(*rows), (25, 0, 75, 200)
    assert [each.row for each in select_instances(raw, Rule(), LABELS, SIZE, content=bars)] == [4]


NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((BOX, NAN, 0), "score that is not finite"),
        ((BOX, INFINITE, 0), "score that is not finite"),
        ((BOX, 7.5, 0), "score of 7.5, expected at most 1"),
        (((NAN, 0, 9, 9), 0.9, 0), "box that is not finite"),
        (((0, 0, 9, INFINITE), 0.9, 0), "box that is not finite"),
        ((BOX, 0.9, 0.5), "class 0.5, but its card has 2 labels, 0 to 1"),
    ],
)
def test_what_makes_no_sense_is_refused_and_not_left_out(row, message):
    with pytest.raises(InvalidModelOutputError, match=message):
        chosen((BOX, 0.9, 0), row)


def test_a_mask_that_is_no_number_is_refused():
    raw = outputs((BOX, 0.9, 0), ((100, 0, 150, 50), 0.8, 1))
    raw[2][0, 1, 3, 3] = NAN
    with pytest.raises(InvalidModelOutputError, match="mask with values that are no number"):
        select_instances(raw, Rule(), LABELS, SIZE)
    assert len(select_instances(raw, Rule(max_instances=1), LABELS, SIZE)) == 1


def test_below_the_confidence_there_may_be_padding():
    raw = outputs((BOX, 0.9, 0), ((NAN, 0, 0, 0), 0.0, -1))
    raw[2][0, 1] = NAN
    assert [each.row for each in select_instances(raw, Rule(), LABELS, SIZE)] == [0]


def test_boxes_are_given_as_shares_of_the_picture():
    (found,) = select_instances(outputs(((-50, 50, 100, 900), 1.0005, 1)), Rule(), LABELS, SIZE)
    assert found.box_within() == (0.0, 0.5, 0.5, 1.0)
    assert found.box_within((25, 0, 75, 200)) == (0.0, 0.5, 0.5, 1.0)
    assert found.score == 1.0
    assert found.label == "DOG"


@pytest.mark.parametrize("labels", [None, ()])
def test_a_card_without_labels_is_refused(labels):
    with pytest.raises(InvalidModelOutputError, match="its card has no labels"):
        instance_labels(labels)


def test_masks_are_probabilities_within_the_box():
    boxes, scores, logits = outputs(((40, 20, 80, 60), 0.9, 0))
    logits[0, 0, :, :15] = -1e30
    (found,) = select_instances((boxes, scores, logits), Rule(), LABELS, SIZE)
    mask = found.mask()
    assert mask.shape == (25, 50)
    assert mask[5:15, 15:20].min() > 0.999
    assert mask[5:15, :15].max() < 1e-20
    assert mask[:5].max() == mask[15:].max() == mask[:, 20:].max() == 0.0


@pytest.mark.parametrize(
    "shapes",
    [
        [],
        [(1, 21, 64, 64)],
        [(1, 5, 4), (1, 5, 2), (1, 4, 8, 8)],
        [(1, 5, 4), (1, 5, 3), (1, 5, 8, 8)],
        [(2, 5, 4), (2, 5, 2), (2, 5, 8, 8)],
    ],
)
def test_other_outputs_are_refused_in_one_line(shapes):
    with pytest.raises(InvalidModelOutputError, match="instance model has boxes"):
        check_instance_shapes(shapes)


@pytest.mark.parametrize("number", [-1, 2, 7, float("nan"), float("inf"), -float("inf"), 3e38])
def test_a_class_without_a_label_is_an_error_and_not_a_guess(number):
    with pytest.raises(InvalidModelOutputError, match="its card has 2 labels"):
        chosen((BOX, 0.9, number))
    assert chosen((BOX, 0.1, number)) == []


# -- which is which ----------------------------------------------------------------------------


def thing(left, label="PERSON", width=0.2):
    mask = np.zeros((4, 4), np.float32)
    return FrameInstance(label, 0.9, (left, 0.2, left + width, 0.8), mask)


def test_numbers_follow_the_objects_whatever_their_order():
    tracker = InstanceTracker()
    assert tracker.assign([thing(0.1), thing(0.6)], 0) == [0, 1]
    assert tracker.assign([thing(0.63), thing(0.12)], 1) == [1, 0]
    assert tracker.assign([thing(0.15)], 2) == [0]
    assert tracker.assign([thing(0.66), thing(0.4), thing(0.18)], 3) == [1, 2, 0]


def test_another_class_in_the_same_place_is_another_object():
    tracker = InstanceTracker()
    assert tracker.assign([thing(0.1)], 0) == [0]
    assert tracker.assign([thing(0.1, "DOG")], 1) == [1]


def test_a_number_is_free_again_after_a_while_only():
    tracker = InstanceTracker(patience=5)
    tracker.assign([thing(0.1), thing(0.6)], 0)
    assert tracker.assign([thing(0.1), thing(0.4)], 5) == [0, 2]
    assert tracker.assign([thing(0.1), thing(0.8, width=0.1)], 6) == [0, 1]


def test_numbers_are_bounded_and_the_longest_unseen_is_given_anew():
    tracker = InstanceTracker(numbers=2)
    assert tracker.assign([thing(0.0), thing(0.5)], 0) == [0, 1]
    assert tracker.assign([thing(0.5)], 1) == [1]
    assert tracker.assign([thing(0.5), thing(0.8)], 2) == [1, 0]
    crowd = [thing(index / 10, width=0.05) for index in range(10)]
    numbers = tracker.assign(crowd, 3)
    assert set(numbers) == {0, 1}
    with pytest.raises(ConfigError):
        InstanceTracker(numbers=0)


def test_a_stream_that_begins_again_forgets():
    tracker = InstanceTracker()
    tracker.assign([thing(0.1), thing(0.6)], 100)
    assert tracker.assign([thing(0.6)], 0) == [0]


def test_overlap_of_boxes():
    assert box_iou((0, 0, 1, 1), (0, 0, 1, 1)) == 1.0
    assert box_iou((0, 0, 1, 1), (0.5, 0, 1.5, 1)) == pytest.approx(1 / 3)
    assert box_iou((0, 0, 1, 1), (2, 2, 3, 3)) == 0.0
    assert box_iou((0, 0, 0, 0), (0, 0, 0, 0)) == 0.0
