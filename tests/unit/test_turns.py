from __future__ import annotations

import pytest

from streamseg.config import EffectConfig, LiveConfig, load_live_config
from streamseg.effects.registry import create_effect
from streamseg.errors import ConfigError
from streamseg.session.places import check_targets
from streamseg.session.turns import Look, labels_for, mask_look, next_look

HIDING = {"blur", "replace", "pixelate", "cutout", "mask"}


def turns(look: Look, configured: EffectConfig, count: int = 12) -> list[Look]:
    looks = [look]
    for _ in range(count):
        looks.append(next_look(looks[-1], configured))
    return looks


@pytest.mark.parametrize(
    "name", ["none", "blur", "replace", "tint", "cutout", "pixelate", "grayscale", "mask"]
)
def test_the_key_never_leads_from_an_effect_that_hides_to_one_that_does_not(name: str) -> None:
    names = [look.name for look in turns(Look(name, {}), EffectConfig(name=name))]
    hides = [name in HIDING for name in names]
    assert hides == sorted(hides), names
    assert {"blur", "replace", "pixelate"} <= set(names)
    if name in HIDING:
        assert names.count(name) >= 2, "what was configured does not come again"


def test_what_is_hidden_stays_the_same() -> None:
    configured = EffectConfig.model_validate(
        {"name": "pixelate", "on": "subject", "strength": 90, "threshold": 0.3}
    )
    for look in turns(Look("pixelate", configured.options), configured):
        assert look.options["on"] == "subject", look
        assert look.options["threshold"] == 0.3
        create_effect(*look)
        if look.name == "pixelate":
            assert look.options["strength"] == 90

    # Chosen while running, and then back to the one of the configuration.
    blur = EffectConfig(name="blur")
    assert next_look(Look("pixelate", {"on": "subject"}), blur) == Look("blur", {"on": "subject"})


def test_the_mask_shown_is_the_one_in_use() -> None:
    look = mask_look(Look("blur", {"subject": ("DOG",), "threshold": 0.2, "strength": 80}))
    assert look == Look("mask", {"subject": ("DOG",), "threshold": 0.2})


def test_a_model_without_the_label_is_an_error_or_hides_everything(
    caplog: pytest.LogCaptureFixture,
) -> None:
    dog = create_effect("blur", {"subject": ["DOG"]})
    assert labels_for(dog)(("CAT", "DOG", "PERSON")) == ("DOG", "PERSON")
    with pytest.raises(ConfigError, match="DOG"):
        labels_for(dog)(("SELFIE",))
    assert labels_for(dog, strict=False)(("SELFIE",)) == ("SELFIE",)
    assert "hidden" in caplog.text


def config(*sinks: str, **more: object) -> LiveConfig:
    return load_live_config(None, {"sink": [{"uri": uri} for uri in sinks], **more})


@pytest.mark.parametrize(
    "sinks", [("a.mp4", "./a.mp4"), ("mjpeg://127.0.0.1:1", "mjpeg://127.0.0.1:1")]
)
def test_two_sinks_do_not_write_to_one_place(sinks: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="two sinks write to"):
        check_targets(config(*sinks))


def test_sinks_that_are_alike_and_harmless_are_allowed() -> None:
    check_targets(config("null", "null", "display", "display", "a.mp4", "b.mp4"))


@pytest.mark.parametrize("target", ["s.mp4", "out.mkv", "bg.png", "m.pte"])
def test_statistics_are_not_written_over_what_is_read_or_recorded(target: str) -> None:
    more = {
        "source.uri": "s.mp4",
        "model.name": "m.pte",
        "effect.name": "replace",
        "effect.background": "bg.png",
    }
    with pytest.raises(ConfigError, match=r"telemetry\.stats"):
        check_targets(config("out.mkv", **{**more, "telemetry.stats": f"./{target}"}))
    check_targets(config("out.mkv", **{**more, "telemetry.stats": "stats.jsonl"}))
    check_targets(config("out.mkv", **{**more, "telemetry.stats": "-"}))
