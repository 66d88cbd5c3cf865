"""Configuration of a server, and the sums of its statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streamseg.abc import SinkStatistics
from streamseg.errors import ConfigError
from streamseg.session.serve_config import TOKENS_VARIABLE, load_serve_config, server_options
from streamseg.session.serve_metrics import merge_statistics, render_server
from streamseg.telemetry import BUCKETS_MS, PipelineStatistics, StageTimer
from streamseg.webrtc.sessions import SessionCounts

CONFIGS = Path(__file__).parents[3] / "configs"
TOKEN = "correct-horse-battery"


def test_the_scenario_that_is_shipped() -> None:
    config = load_serve_config(CONFIGS / "serve.toml")
    assert server_options(config).loopback


def test_defaults_listen_on_loopback_and_fail_closed() -> None:
    config = load_serve_config()
    options = server_options(config)
    assert options.host == "127.0.0.1"
    assert options.peer.ice_servers == ()
    assert (config.flow.when_busy, config.flow.on_missing_mask) == ("drop", "hide")


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"server.host": "0.0.0.0"}, "--tls-cert"),
        ({"server.port": 70_000}, "server.port"),
        ({"server.prot": 80}, "did you mean 'port'"),
        ({"flow.when_busy": "wait"}, "drop or reuse"),
        ({"limits.sessions": 0}, "limits.sessions"),
        ({"room": [{"name": "a/b", "source": {"uri": "test:"}}]}, "room.0.name"),
        (
            {"room": [{"name": "a", "source": {"uri": u}} for u in ("test:", "screen:")]},
            "same name",
        ),
        ({"webrtc.min_bitrate": 5_000_000}, "min_bitrate"),
        ({"webrtc.ice_server": [{"urls": []}]}, "urls"),
        ({"webrtc.ice_server": [{"urls": ["stuns:a.example"]}]}, "write stun:"),
        ({"server.origins": ["example.org"]}, "origin"),
        ({"server.token_file": "/no/such/file"}, "cannot read the tokens"),
    ],
)
def test_wrong_values_are_named(overrides: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        server_options(load_serve_config(None, overrides))
    assert "\n" not in str(caught.value)


def test_tokens_come_from_a_file_or_the_environment(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv(TOKENS_VARIABLE, raising=False)
    assert server_options(load_serve_config()).tokens == ()
    monkeypatch.setenv(TOKENS_VARIABLE, TOKEN)
    assert server_options(load_serve_config()).tokens == (TOKEN,)
    file = tmp_path / "tokens"
    file.write_text("another-token-of-a-file")
    config = load_serve_config(None, {"server.token_file": str(file)})
    assert server_options(config).tokens == ("another-token-of-a-file",)
    monkeypatch.setenv(TOKENS_VARIABLE, "short")
    with pytest.raises(ConfigError, match=TOKENS_VARIABLE) as caught:
        server_options(load_serve_config())
    assert "short," not in str(caught.value)


def test_ice_servers_keep_their_credentials_to_themselves() -> None:
    overrides = {
        "webrtc.ice_server": [{"urls": ["turn:a:3478"], "username": "u", "credential": "hidden"}]
    }
    config = load_serve_config(None, overrides)
    options = server_options(config)
    assert options.peer.ice_servers[0].credential == "hidden"
    assert "hidden" not in repr(config) + repr(options)


def times(*values_ms: float) -> Any:
    timer = StageTimer(kept=16)
    for value in values_ms:
        timer.add(value)
    return timer.times()


def test_statistics_add_up() -> None:
    one = PipelineStatistics(
        frames_in=10,
        frames_out=7,
        dropped={"model busy": 2},
        hidden=1,
        stages={"model": times(5, 7)},
        sinks={"call 1": SinkStatistics(7, 6, {"superseded": 1})},
        queues={"call 1": 1, "model": 1},
    )
    other = PipelineStatistics(
        frames_in=5,
        frames_out=5,
        dropped={"model busy": 1, "superseded": 1},
        stages={"model": times(100), "effect": times(1)},
        sinks={"call 2": SinkStatistics(5, 5), "room lobby": SinkStatistics(1, 1)},
        queues={"call 2": 1},
    )
    total = merge_statistics([one, other, PipelineStatistics()])
    assert (total.frames_in, total.frames_out, total.hidden) == (15, 12, 1)
    assert total.dropped == {"model busy": 3, "superseded": 1}
    assert total.stages["model"].count == 3
    assert total.stages["model"].sum_ms == 112
    assert sum(total.stages["model"].buckets) == 3
    assert len(total.stages["model"].buckets) == len(BUCKETS_MS) + 1
    assert total.stages["model"].max_ms == 100
    assert total.sinks["call"] == SinkStatistics(12, 11, {"superseded": 1})
    assert total.queues == {"call": 2, "model": 1}


@pytest.mark.anyio
async def test_metrics_page_has_pipelines_and_sessions() -> None:
    counts = SessionCounts(calls=2, viewers=3, pending=1, admitted=9, refused=4)
    kind, body = await render_server(PipelineStatistics(frames_in=5), counts, 1, "")
    text = body.decode()
    assert kind.startswith("text/plain")
    for line in (
        'streamseg_sessions{kind="call"} 2.0',
        'streamseg_sessions{kind="viewer"} 3.0',
        "streamseg_sessions_pending 1.0",
        "streamseg_sessions_refused_total 4.0",
        "streamseg_frames_captured_total 5.0",
        "streamseg_rooms 1.0",
    ):
        assert f"{line}\n" in text


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({"name": "blur", "strength": 70}, {"name": "blur", "options": {"strength": 70}}),
        (
            {"name": "replace", "background": "navy"},
            {"name": "replace", "options": {"background": "navy"}},
        ),
        (
            {"name": "replace", "background": "private/beach.jpg", "fit": "cover"},
            {"name": "replace", "options": {"fit": "cover"}, "files": ["background"]},
        ),
    ],
)
def test_page_is_told_what_a_call_begins_with_but_no_path(
    options: dict[str, Any], shown: dict[str, Any]
) -> None:
    overrides = {f"effect.{name}": value for name, value in options.items()}
    assert server_options(load_serve_config(None, overrides)).effect == shown
