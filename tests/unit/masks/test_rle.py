from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from streamseg.masks.rle import decode_rle, encode_rle


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (37, 53), (480, 640)])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_round_trip_through_json(shape, share):
    mask = np.random.default_rng(1).random(shape) < share
    encoded = json.loads(json.dumps(encode_rle(mask)))
    assert encoded["size"] == list(shape)
    assert np.array_equal(decode_rle(encoded), mask)


def test_area_agrees_with_coco():
    mask = np.zeros((20, 30), np.uint8)
    mask[3:9, 5:20] = 7
    encoded = encode_rle(mask)
    assert coco.area({"size": encoded["size"], "counts": encoded["counts"].encode()}) == 6 * 15


def test_probabilities_are_cut_at_one_half():
    mask = np.array([[0.2, 0.5, 0.51, 1.0]], np.float32)
    assert decode_rle(encode_rle(mask)).tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize("mask", [np.zeros((2, 2, 2)), np.zeros(4), np.zeros((0, 3))])
def test_what_is_no_mask_is_refused(mask):
    with pytest.raises(ValueError, match=r"must be \(H, W\)"):
        encode_rle(mask)


@pytest.mark.parametrize(
    "rle",
    [
        {},
        {"size": [4, 4]},
        {"size": [4, 4], "counts": ""},
        {"size": [4, 4], "counts": b"`0"},
        {"size": [4], "counts": "`0"},
        {"size": [4.0, 4], "counts": "`0"},
        {"size": [True, 16], "counts": "`0"},
        {"size": [0, 4], "counts": "`0"},
        {"size": [-4, -4], "counts": "`0"},
        {"size": [1 << 20, 1 << 20], "counts": "`0"},
        {"size": [4, 4], "counts": "o0"},
        {"size": [4, 4], "counts": "\x00"},
        {"size": [4, 4], "counts": "é"},
        {"size": [4, 4], "counts": "P"},
        {"size": [4, 4], "counts": "oooooooooooo0"},
        {"size": [4, 4], "counts": "M"},
    ],
)
def test_malformed_input_is_a_value_error_of_one_line(rle):
    with pytest.raises(ValueError, match=r"size|counts") as caught:
        decode_rle(rle)
    assert "\n" not in str(caught.value)


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=12))
def test_any_text_decodes_or_is_refused(counts):
    try:
        decoded = decode_rle({"size": [6, 7], "counts": counts})
    except ValueError:
        return
    assert decoded.shape == (6, 7)
    assert set(np.unique(decoded)) <= {0, 1}
