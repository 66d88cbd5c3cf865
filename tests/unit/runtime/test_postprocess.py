from __future__ import annotations

import numpy as np
import pytest
import torch

from streamseg.runtime.postprocess import ResultWriter


def results(maps: np.ndarray, output: str, classes: tuple[int, ...]) -> tuple:
    masks = torch.full((len(classes), *maps.shape[1:]), 7.0)
    class_map = torch.full(maps.shape[1:], 7, dtype=torch.uint8)
    ResultWriter().write(torch.from_numpy(maps), output, classes, masks, class_map)
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


@pytest.mark.parametrize("channels", [2, 3, 21, 256])
def test_it_equals_torch_on_any_maps(channels: int) -> None:
    random = np.random.default_rng(channels)
    maps = random.normal(0, 8, (channels, 9, 7)).astype(np.float32)
    maps[:, 4:] = random.integers(0, 3, (channels, 5, 7))  # many are equal
    wanted = tuple(int(index) for index in random.permutation(channels)[:5])

    masks, classes = results(maps, "logits", wanted)

    np.testing.assert_array_equal(classes, maps.argmax(axis=0))
    expected = torch.softmax(torch.from_numpy(maps).double(), dim=0)[list(wanted)]
    np.testing.assert_allclose(masks, expected, atol=1e-6)


def test_it_remembers_nothing_but_its_memory() -> None:
    random = np.random.default_rng(0)
    writer = ResultWriter()
    for height, width in ((9, 7), (9, 7), (4, 16), (9, 7)):
        maps = random.normal(0, 8, (5, height, width)).astype(np.float32)
        masks, class_map = torch.zeros((1, height, width)), torch.zeros((height, width)).int()
        writer.write(torch.from_numpy(maps), "logits", (3,), masks, class_map)
        np.testing.assert_array_equal(class_map, maps.argmax(axis=0))
        expected = torch.softmax(torch.from_numpy(maps), dim=0)[3]
        np.testing.assert_allclose(masks[0], expected, atol=1e-6)
        alone = torch.zeros((1, height, width))
        writer.write(torch.from_numpy(maps), "logits", (3,), alone, None)
        np.testing.assert_array_equal(alone, masks)


def test_maps_may_lie_in_memory_in_any_way() -> None:
    maps = np.random.default_rng(0).normal(size=(6, 9, 5)).astype(np.float32).transpose(2, 0, 1)

    _, classes = results(maps, "logits", ())

    np.testing.assert_array_equal(classes, maps.argmax(axis=0))


def test_over_256_classes_keep_their_index() -> None:
    maps = np.random.default_rng(0).normal(size=(400, 4, 4)).astype(np.float32)
    class_map = torch.zeros((4, 4), dtype=torch.int32)

    ResultWriter().write(torch.from_numpy(maps), "logits", (), torch.zeros((0, 4, 4)), class_map)

    np.testing.assert_array_equal(class_map, maps.argmax(axis=0))


def test_a_class_may_be_asked_for_twice() -> None:
    maps = np.random.default_rng(0).normal(size=(3, 4, 4)).astype(np.float32)

    masks, _ = results(maps, "logits", (2, 0, 2))

    np.testing.assert_array_equal(masks[0], masks[2])
    assert not np.array_equal(masks[0], masks[1])


def test_probabilities_of_several_channels_are_kept() -> None:
    maps = np.array([0.2, 0.7, 0.1], np.float32).reshape(3, 1, 1)

    masks, classes = results(maps, "probability", (2, 1))

    assert masks[:, 0, 0] == pytest.approx([0.1, 0.7])
    assert classes[0, 0] == 1
