from __future__ import annotations

import numpy as np
import pytest
import torch

from streamseg.runtime.postprocess import write_result


def results(maps: np.ndarray, output: str, classes: tuple[int, ...]) -> tuple:
    masks = torch.full((len(classes), *maps.shape[1:]), 7.0)
    class_map = torch.full(maps.shape[1:], 7, dtype=torch.uint8)
    write_result(torch.from_numpy(maps), output, classes, masks, class_map)
    return masks.numpy(), class_map.numpy()


def test_several_channels_are_a_stable_softmax() -> None:
    maps = np.array([1000.0, 1001.0, 0.0], np.float32).reshape(3, 1, 1)

    masks, classes = results(maps, "logits", (0, 1, 2))

    expected = np.exp([-1.0, 0.0]) / np.exp([-1.0, 0.0]).sum()
    assert masks[:, 0, 0] == pytest.approx([*expected, 0.0], abs=1e-6)
    assert classes[0, 0] == 1


def test_ties_go_to_the_lowest_class() -> None:
    _, classes = results(np.ones((4, 2, 2), np.float32), "logits", ())

    assert np.all(classes == 0)


def test_one_channel_is_the_foreground_and_its_complement() -> None:
    maps = np.array([[[0.2, 0.5, 0.9]]], np.float32)

    masks, classes = results(maps, "probability", (1, 0))

    assert masks[1, 0] == pytest.approx([0.2, 0.5, 0.9])
    assert masks[0, 0] == pytest.approx([0.8, 0.5, 0.1])
    assert classes[0].tolist() == [1, 1, 0]  # foreground only above 0.5


def test_probabilities_stay_within_their_range() -> None:
    maps = np.array([[[-0.1, 1.2]]], np.float32)

    masks, _ = results(maps, "probability", (0, 1))

    assert masks[0, 0] == pytest.approx([0.0, 1.0])
    assert masks[1, 0] == pytest.approx([1.0, 0.0])
