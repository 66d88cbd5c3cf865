from __future__ import annotations

import pytest

from streamseg.errors import ConfigError
from streamseg.models.labels import VOC_LABELS
from streamseg.runtime.classes import choose_classes


def test_people_are_chosen_where_the_model_knows_them() -> None:
    assert choose_classes(VOC_LABELS, "people") == (15,)
    assert choose_classes(("SELFIE", "BACKGROUND"), "people") == (0,)


def test_without_people_all_classes_are_chosen() -> None:
    assert choose_classes(("ROAD", "SKY"), "people") == (0, 1)


def test_names_are_taken_in_any_case_and_keep_their_order() -> None:
    assert choose_classes(VOC_LABELS, ("person", "Dog")) == (15, 12)


def test_unknown_label_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'persn': did you mean PERSON\?"):
        choose_classes(VOC_LABELS, ("persn",))
