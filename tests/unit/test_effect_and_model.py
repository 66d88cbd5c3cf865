"""Which effect goes with which model, told before anything is loaded or fetched."""

from __future__ import annotations

import pytest

from streamseg.config import Config, EffectConfig, load_config
from streamseg.effects.registry import EFFECTS, create_effect
from streamseg.errors import ConfigError
from streamseg.models.card import Card
from streamseg.session.parts import check_effect, obtain_configured
from streamseg.session.serve import _effects_for
from streamseg.session.turns import Look, labels_for, mask_look, next_look
from streamseg.webrtc.choices import servable_effects

CLASSIFIER = Card(name="tones", task="classification", labels=("RED", "GREEN"))
SELFIE = Card(name="selfie")
OBJECTS = Card(name="discs", task="instance-segmentation", labels=("PERSON", "DOG"))


@pytest.mark.parametrize("name", EFFECTS)
def test_each_effect_takes_the_models_that_it_can_work_with(name: str) -> None:
    effect = create_effect(name)
    for card in (CLASSIFIER, SELFIE, OBJECTS):
        fits = effect.needs == "nothing" or (card is CLASSIFIER) == (effect.needs == "scores")
        if fits:
            check_effect(name, effect, card)
            continue
        with pytest.raises(ConfigError, match=name) as caught:
            check_effect(name, effect, card)
        assert card.name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_server_offers_what_its_model_can_do() -> None:
    assert set(_effects_for(CLASSIFIER, "labels")) == {"none", "labels"}
    for card in (SELFIE, OBJECTS):
        assert set(servable_effects()) - set(_effects_for(card, "blur")) == {"labels"}
    things = Card(name="things", task="instance-segmentation", labels=("CUP", "KEY"))
    able = _effects_for(things, "blur")
    assert "pixelate" not in able, "it is about people unless told otherwise"
    assert "blur" in able, "the operator has told it otherwise"


def test_masks_cannot_be_written_of_a_classifier() -> None:
    with pytest.raises(ConfigError, match="writing masks needs masks"):
        check_effect("labels", create_effect("labels"), CLASSIFIER, masks=True)


@pytest.mark.parametrize("name", ["blur", "tint", "mask", "cutout", "labels"])
def test_unknown_classes_are_told_as_soon_as_the_card_is_known(name: str) -> None:
    effect = create_effect(name, {"subject": ["dgo", "person"]})
    card = CLASSIFIER if effect.needs == "scores" else OBJECTS
    with pytest.raises(ConfigError, match="'dgo' is not a label"):
        check_effect(name, effect, card)


@pytest.mark.anyio
async def test_nothing_is_fetched_that_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    monkeypatch.setenv("STREAMSEG_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match="classifies pictures"):
        await obtain_configured(load_config(None, {"model.name": "efficientnet-v2-s"}))
    wrong = load_config(None, {"model.name": "yolo26n-seg", "effect.subject": ["zebbra"]})
    with pytest.raises(ConfigError, match="did you mean 'ZEBRA'"):
        await obtain_configured(wrong)
    said: list[float] = []
    model = await obtain_configured(Config(), said.append)
    assert model.card.task == "semantic-segmentation"
    assert said == [1.0]


def test_a_classifiers_key_leads_to_nothing_that_it_cannot_do() -> None:
    configured = EffectConfig.model_validate({"name": "labels", "top": 2})
    look = Look("labels", configured.options)
    names = []
    for _ in range(4):
        look = next_look(look, configured, classifies=True)
        names.append(look.name)
    assert names == ["none", "labels", "none", "labels"]
    assert look.options == {"top": 2}


def test_what_single_classes_hide_stays_hidden_by_the_next_effect() -> None:
    classes = {"PERSON": "blur", "CAR": {"name": "pixelate"}, "DOG": "none"}
    configured = EffectConfig.model_validate({"name": "per-class", "classes": classes})
    look = next_look(Look("per-class", configured.options), configured)
    assert look.name in ("blur", "replace", "pixelate")
    assert look.options["on"] == "subject"
    assert tuple(look.options["subject"]) == ("PERSON", "CAR")
    create_effect(*look)
    assert mask_look(Look("per-class", configured.options)).options["subject"] == ("PERSON", "CAR")


def test_a_live_model_returns_what_is_needed_and_not_all_that_it_knows() -> None:
    many = tuple(f"THING_{index}" for index in range(150))
    chosen = create_effect("blur", {"subject": ["thing_3"]})
    assert labels_for(chosen)(many) == ("THING_3",)
    assert labels_for(chosen)((*many, "PERSON")) == ("THING_3", "PERSON")
    assert labels_for(chosen)(many[:5]) == ("THING_3", "THING_0", "THING_1", "THING_2", "THING_4")
