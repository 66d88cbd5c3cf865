from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from streamseg.config import (
    Config,
    LiveConfig,
    Scenario,
    kind_of,
    load_config,
    load_live_config,
    to_toml,
)
from streamseg.effects.registry import create_effect
from streamseg.errors import ConfigError
from streamseg.session.serve_config import load_serve_config

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.toml"))


def written(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_scenario_is_valid_and_says_something(path: Path) -> None:
    loaders = {"file": load_config, "live": load_live_config, "serve": load_serve_config}
    defaults: dict[str, Scenario] = {
        "file": Config(),
        "live": LiveConfig(),
        "serve": load_serve_config(),
    }
    kind = kind_of(path)
    config: Scenario = loaders[kind](path)  # type: ignore[operator]

    assert config != defaults[kind]
    create_effect(config.effect.name, config.effect.options)


def test_there_are_scenarios() -> None:
    assert len(CONFIGS) >= 4


def test_options_override_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "[effect]\nname = 'blur'\nstrength = 20\n[output]\ncrf = 30\n")

    config = load_config(path, {"effect.strength": 80.0, "output.crf": None})

    assert config.effect.options == {"strength": 80.0}
    assert config.output.crf == 30


def test_another_effect_leaves_the_files_effect_options_out(tmp_path: Path) -> None:
    path = written(tmp_path, "[effect]\nname = 'replace'\nbackground = 'red'\n")

    assert load_config(path, {"effect.name": "blur"}).effect.options == {}
    assert load_config(path, {"effect.name": "replace"}).effect.options == {"background": "red"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[mask]\nsmothing = 1", r"unknown key 'mask\.smothing': did you mean 'smoothing'\?"),
        ("[mdoel]\nname = 'x'", r"unknown key 'mdoel': did you mean 'model'\?"),
        ("[output]\nzzz = 1", r"unknown key 'output\.zzz': expected one of encoder, crf"),
        ("[model]\nworkers = 0", r"model\.workers is 0: .* greater than or equal to 1"),
        ("[model]\nworkers = 'two'", r"model\.workers is 'two': .* integer"),
        ("[mask]\nsmoothing = nan", r"mask\.smoothing is nan"),
        ("model = 3", r"model is 3"),
        ("[model", "is not valid TOML"),
    ],
)
def test_a_wrong_file_is_told_with_file_key_and_hint(
    tmp_path: Path, text: str, message: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not text"):
        load_config(path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nope\.toml: cannot read the configuration: No such"):
        load_config(tmp_path / "nope.toml")


def test_what_is_shown_can_be_read_again(tmp_path: Path) -> None:
    config = load_config(None, {"effect.name": "tint", "effect.strength": 30.0})
    path = written(tmp_path, to_toml(config))

    assert tomllib.loads(to_toml(config))["effect"] == {"name": "tint", "strength": 30.0}
    assert load_config(path) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[flow]\nwhen_bsy = 'drop'", r"unknown key 'flow\.when_bsy': did you mean 'when_busy'\?"),
        ("[flow]\nwhen_busy = 'skip'", r"flow\.when_busy is 'skip': .*'drop', 'reuse' or 'wait'"),
        ("[[sink]]\nurl = 'x'", r"sink\.0\.uri is missing"),
        ("[[sink]]\nuri = 'x'\nzzz = 1", r"unknown key 'sink\.0\.zzz': expected one of uri"),
        ("[source]\nstart_s = 3", r"'source\.start_s': it belongs to 'streamseg run'"),
        ("[output]\ncrf = 3", r"'output': it belongs to 'streamseg run'"),
        ("[telemetry]\ninterval_s = 0", r"telemetry\.interval_s is 0"),
    ],
)
def test_wrong_keys_of_live_streams_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_live_config(written(tmp_path, text))


def test_a_live_streams_keys_are_told_apart_from_a_file_jobs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'sink': it belongs to 'streamseg live'"):
        load_config(written(tmp_path, "[[sink]]\nuri = 'x'"))


def test_live_configurations_survive_being_printed(tmp_path: Path) -> None:
    config = load_live_config(
        written(tmp_path, "[[sink]]\nuri = 'a.mp4'\nsegment_s = 600\n[[sink]]\nuri = 'null'")
    )
    assert load_live_config(written(tmp_path, to_toml(config))) == config
