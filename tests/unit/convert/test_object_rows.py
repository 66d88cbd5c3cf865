"""Objects of a program and of its module are compared whatever their order."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from streamseg.convert._object_rows import are_objects, paired_objects  # noqa: E402


def objects(count: int = 12, seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand((1, count, 4), generator=generator) * 300
    scores = torch.linspace(0.9, 0.1, count)[None, :, None]
    classes = torch.randint(0, 80, (1, count, 1), generator=generator).float()
    masks = torch.randn((1, count, 6, 6), generator=generator)
    return boxes, torch.cat([scores, classes], dim=2), masks


def largest(ours: tuple[torch.Tensor, ...], theirs: tuple[torch.Tensor, ...]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


def test_another_order_is_no_difference() -> None:
    exact = objects()
    order = torch.tensor([1, 0, 2, 3, 5, 4, 6, 7, 8, 9, 11, 10])
    moved = tuple(each[:, order] + 1e-5 for each in exact)
    assert largest(moved, exact) > 1
    ours, theirs = paired_objects(moved, exact, 1e-3)
    assert ours[0].shape[1] == 12
    assert largest(ours, theirs) < 1e-4


def test_at_the_end_of_the_list_another_object_may_be_there() -> None:
    exact = objects()
    other = tuple(each.clone() for each in exact)
    other[0][0, -1] += 120
    ours, theirs = paired_objects(other, exact, 1e-3)
    assert ours[0].shape[1] == 11
    assert largest(ours, theirs) == 0


@pytest.mark.parametrize(("output", "change"), [(0, 120.0), (1, 1.0), (2, 3.0)])
def test_an_object_that_is_not_the_same_stays_a_difference(output: int, change: float) -> None:
    exact = objects()
    wrong = tuple(each.clone() for each in exact)
    wrong[output][0, 3] += change
    assert largest(*paired_objects(wrong, exact, 1e-3)) >= change * 0.9


def test_objects_that_the_module_did_not_find_stay_a_difference() -> None:
    exact = objects()
    garbage = objects(seed=5)
    garbage[1][..., 0] = 1.0
    assert largest(*paired_objects(garbage, exact, 1e-3)) > 1
    invented = tuple(each.clone() for each in exact)
    invented[0][0, -1] = torch.tensor([0.0, 0.0, 384.0, 384.0])
    invented[1][0, -1, 0] = 0.99
    assert largest(*paired_objects(invented, exact, 1e-3)) > 0.8


def test_nothing_but_objects_is_taken_for_such() -> None:
    boxes, rows, masks = objects()
    assert are_objects((boxes, rows, masks))
    assert not are_objects((boxes, rows))
    assert not are_objects((boxes, boxes, masks))
    assert not are_objects((boxes[:, :3], rows, masks))
    assert not are_objects(tuple(each[:, :0] for each in (boxes, rows, masks)))
