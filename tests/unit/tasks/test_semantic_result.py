from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from streamseg.models.labels import SELFIE_LABELS, VOC_LABELS
from streamseg.models.registry import card_of, model_names
from streamseg.tasks.labels import SelfieLabel, SelfieModel, VocLabel, VocModel
from streamseg.tasks.semantic_result import SemanticResult

ARGMAX = np.zeros((4, 5), np.int32)
CAT, PERSON = np.full((2, 4, 5), 0.5, np.float32)


def result() -> SemanticResult:
    return SemanticResult(
        ARGMAX,
        {"CAT": CAT, "PERSON": PERSON},
        labels=VOC_LABELS,
        model_ms=1.0,
        inference_ms=0.5,
    )


def test_it_is_a_mapping_and_has_attributes() -> None:
    found = result()

    assert found["ARGMAX"] is found.ARGMAX is ARGMAX
    assert found["CAT"] is found["cat"] is found[VocLabel.CAT] is found.CAT is CAT
    assert list(found) == list(found.keys()) == ["ARGMAX", "CAT", "PERSON"]
    assert found.items()[2] == ("PERSON", PERSON)
    assert len(found) == len(found.values()) == 3
    assert "person" in found
    assert "DOG" not in found
    assert 3 not in found
    assert dict(found)["PERSON"] is PERSON
    assert isinstance(found, Mapping)
    assert found.size == (4, 5)
    assert repr(found) == "SemanticResult(4x5: ARGMAX, CAT, PERSON)"


def test_what_was_not_asked_for_is_told() -> None:
    with pytest.raises(KeyError, match="DOG was not asked for, only ARGMAX, CAT, PERSON"):
        result()["DOG"]
    with pytest.raises(AttributeError, match="DOG was not asked for"):
        _ = result().DOG
    assert not hasattr(result(), "__array__")


def test_the_enumerations_are_the_label_sets() -> None:
    assert tuple(VocLabel) == VOC_LABELS
    assert tuple(SelfieLabel) == SELFIE_LABELS


@pytest.mark.parametrize(
    ("names", "labels"), [(VocModel, VOC_LABELS), (SelfieModel, SELFIE_LABELS)]
)
def test_the_typed_names_are_all_models_with_these_labels(
    names: object, labels: tuple[str, ...]
) -> None:
    known = {
        name
        for name in model_names()
        if card_of(name).task == "semantic-segmentation" and card_of(name).labels == labels
    }
    assert set(names.__args__) == known
