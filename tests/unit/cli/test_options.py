from __future__ import annotations

import pytest

from streamseg.cli.options import parse_classes, parse_seconds, scenario_values
from streamseg.config import load_config, load_live_config
from streamseg.errors import ConfigError
from streamseg.session.serve_config import load_serve_config


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("1.5", 1.5),
        ("1:30", 90),
        ("01:02:03.5", 3723.5),
        (" 7 ", 7),
        ("10m", 600),
        ("1h30m", 5400),
        ("2m30.5s", 150.5),
        (None, None),
    ],
)
def test_times_are_read(text: str | None, seconds: float | None) -> None:
    assert parse_seconds("--start", text) == seconds


@pytest.mark.parametrize("text", ["", "-3", "1:2:3:4", "soon", "1e3", "nan", "1.2.3"])
def test_what_is_no_time_is_told(text: str) -> None:
    with pytest.raises(ConfigError, match="--start is"):
        parse_seconds("--start", text)


def test_options_become_configuration() -> None:
    values = scenario_values(
        model="m.pte", workers=2, classes="person, dog", subject=True, strength=30.0, refine=False
    )
    config = load_config(
        None, {"effect.name": "pixelate", **{k: v for k, v in values.items() if v is not None}}
    )
    assert (config.model.name, config.model.workers, config.mask.refine) == ("m.pte", 2, False)
    assert config.effect.options == {
        "subject": ["person", "dog"],
        "strength": 30.0,
        "on": "subject",
    }


def test_every_command_takes_the_same_names() -> None:
    """A key that configurations do not have would be told for every use of its option."""
    for kind in (load_config, load_live_config, load_serve_config):
        config = kind(
            None, scenario_values(model="m", workers=1, threads=1, refine=True, effect="blur")
        )
        assert config.model.threads == 1


def test_classes_are_a_list_of_labels() -> None:
    assert parse_classes(None) is None
    assert parse_classes(" dining table ,dog,") == ["dining table", "dog"]
    for text in ("", " , "):
        with pytest.raises(ConfigError, match="--classes is"):
            parse_classes(text)
