from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys

import numpy as np
import pytest

from streamseg.effects import options as options_module
from streamseg.effects.blur import BlurOptions
from streamseg.effects.registry import EFFECTS, create_effect, option_names
from streamseg.effects.shaping import shape_mask
from streamseg.errors import ConfigError

VOC = ("BACKGROUND", "CAT", "PERSON")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("blurr", {}, "did you mean 'blur'"),
        ("Blur", {}, "did you mean 'blur'"),
        ("", {}, "there is no effect"),
        ("blur", {"strenght": 3}, "did you mean 'strength'"),
        ("none", {"strength": 3}, "it takes subject"),
        ("blur", {"strength": 101}, "strength must be a number between 0 and 100, got 101"),
        ("blur", {"strength": -1}, "strength must be"),
        ("blur", {"strength": float("nan")}, "strength must be"),
        ("blur", {"strength": "much"}, "strength must be.*'much'"),
        ("blur", {"strength": True}, "strength must be"),
        ("blur", {"threshold": 0.0}, "threshold must be.*ends excluded"),
        ("blur", {"threshold": 1.0}, "threshold must be"),
        ("blur", {"feather": 21}, "feather must be"),
        ("blur", {"on": "people"}, "on must be one of background, subject, got 'people'"),
        ("blur", {"on": None}, "on must be"),
        ("blur", {"subject": "SELFIE"}, "subject must be a list"),
        ("blur", {"subject": ("",)}, "subject must be a list"),
        ("blur", {"subject": 5}, "subject must be a list of labels, got 5"),
        ("blur", {"subject": None}, "subject must be a list"),
        ("blur", {"subject": {"CAT": 1}}, "subject must be a list"),
        ("blur", {"subject": [5]}, "subject must be a list"),
        ("blur", {"nmae": "tint"}, "did you mean 'name'"),
        ("tint", {"on": "subject"}, "--subject on the command line, option 'on' in files"),
        ("none", {"on": "subject"}, "blur, replace, cutout, pixelate, grayscale can"),
        ("replace", {"background": 5}, "background must be"),
        ("replace", {"fit": "covr"}, "did you mean 'cover'"),
        ("tint", {"colours": {"CAT": "bleu"}}, "did you mean 'blue'"),
        ("tint", {"colours": {"CAT": 7}}, "CAT must have a colour"),
        ("tint", {"colours": ["CAT"]}, "colours must map"),
        ("grayscale", {"strength": 200}, "strength must be"),
    ],
)
def test_wrong_options_are_config_errors_of_one_line(name, options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        create_effect(name, options)
    assert "\n" not in str(caught.value)


def test_options_are_frozen_values():
    options = BlurOptions(subject=["PERSON"])
    assert options.subject == ("PERSON",)
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.strength = 3


@pytest.mark.parametrize("name", EFFECTS)
def test_option_names_build_the_effect(name):
    assert set(option_names(name)) == {
        item.name for item in dataclasses.fields(EFFECTS[name].options_type)
    }


@pytest.mark.parametrize("name", ["blur", "replace", "cutout", "pixelate", "grayscale", "mask"])
def test_wanted_labels_are_the_people(name):
    effect = create_effect(name)
    assert effect.wanted_labels(("SELFIE", "BACKGROUND")) == ("SELFIE",)
    assert effect.wanted_labels(VOC) == ("PERSON",)
    assert create_effect(name, {"subject": ("CAT",)}).wanted_labels(VOC) == ("CAT",)
    with pytest.raises(ConfigError, match="did you mean 'PERSON'"):
        create_effect(name, {"subject": ("PERSN",)}).wanted_labels(VOC)
    with pytest.raises(ConfigError, match="subject must be given"):
        effect.wanted_labels(("BACKGROUND", "CAT"))


def test_labels_are_found_in_capitals_or_not():
    assert create_effect("blur").wanted_labels(("background", "person")) == ("person",)
    assert create_effect("blur").wanted_labels(("Person", "SELFIE")) == ("Person", "SELFIE")
    assert create_effect("blur", {"subject": ["Cat"]}).wanted_labels(VOC) == ("CAT",)
    both = create_effect("blur", {"subject": ["cat", "CAT"]})
    assert both.wanted_labels(("Cat", "cat", "CAT")) == ("cat", "CAT")
    assert both.wanted_labels(VOC) == ("CAT",)


def test_all_public_names_are_listed():
    public = {
        name
        for name, value in vars(options_module).items()
        if getattr(value, "__module__", "") == options_module.__name__ and name[0] != "_"
    }
    assert set(options_module.__all__) == public


def test_tint_wants_all_but_the_background_and_none_wants_nothing():
    assert create_effect("tint").wanted_labels(VOC) == ("CAT", "PERSON")
    assert create_effect("tint").wanted_labels(("SELFIE", "BACKGROUND")) == ("SELFIE",)
    assert create_effect("none").wanted_labels(VOC) == ()


def ramp(size=101):
    return np.linspace(0, 1, size, dtype=np.float32)[None].repeat(3, axis=0)


@pytest.mark.parametrize("threshold", [0.01, 0.2, 0.5, 0.8, 0.99])
def test_shaping_rises_with_the_probability_through_one_half_at_the_threshold(threshold):
    shaped = shape_mask(ramp(), threshold, 0.0)
    assert (np.diff(shaped[0]) >= 0).all()
    assert (shaped[0, 0], shaped[0, -1]) == (0.0, 1.0)
    assert shaped[0, round(threshold * 100)] == pytest.approx(0.5, abs=0.01)
    assert shaped.dtype == np.float32


def test_a_higher_threshold_never_makes_the_subject_larger():
    shapes = [shape_mask(ramp(), t / 50, 0.0) for t in range(1, 50)]
    assert all((a >= b - 1e-6).all() for a, b in itertools.pairwise(shapes))


def test_feather_widens_the_edge_and_leaves_it_where_it_was():
    hard = np.zeros((100, 200), np.float32)
    hard[:, :100] = 1.0
    widths = []
    for feather in (0, 1, 3, 6, 12, 20):
        soft = shape_mask(hard, 0.5, feather)
        widths.append(int(((soft[50] > 0.02) & (soft[50] < 0.98)).sum()))
        assert soft[50, 99] + soft[50, 100] == pytest.approx(1.0, abs=0.02)
        assert (np.diff(soft[50]) <= 1e-6).all()
    assert widths == sorted(widths)
    assert widths[0] == 0
    assert abs(widths[-1] - 20) <= 4  # percent of the shorter side, here pixels


def test_shaping_leaves_its_input_alone():
    mask = ramp()
    given = mask.copy()
    shape_mask(mask, 0.4, 5.0)
    assert np.array_equal(mask, given)


def test_importing_the_package_loads_no_library():
    code = (
        "import sys, streamseg.effects, streamseg.masks;"
        "print([m for m in ('av', 'cv2', 'numpy') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
