"""What a sender may say over the data channel, and what it may not."""

from __future__ import annotations

import inspect
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from streamseg.effects.registry import EFFECTS, create_effect, option_names
from streamseg.errors import ConfigError
from streamseg.telemetry import PipelineStatistics, StageTimes
from streamseg.webrtc.choices import FILE_OPTIONS, Menu, servable_effects
from streamseg.webrtc.control import Control, figures
from streamseg.webrtc.statistics import PeerStatistics
from streamseg.webrtc.uploads import Uploads
from tests.unit.fakes import FakeSource
from tests.unit.webrtc.fakes import FakePeer, FakeProcessing, SessionRequest
from tests.unit.webrtc.test_uploads import picture

pytestmark = pytest.mark.anyio


class Talk:
    def __init__(self, control: Control, peer: FakePeer, processing: FakeProcessing) -> None:
        self.control = control
        self.peer = peer
        self.processing = processing

    async def say(self, message: Any) -> dict[str, Any]:
        """Send a message and return the answer."""
        before = len(self.peer.said)
        self.control.receive(message if isinstance(message, str) else json.dumps(message))
        with anyio.fail_after(5):
            while len(self.peer.said) == before:
                await anyio.sleep(0.001)
        answer = self.peer.said[before]
        assert len(answer) <= 4096
        return json.loads(answer)


@asynccontextmanager
async def talking(
    menu: Menu | None = None, *, clock: Callable[[], float] | None = None
) -> AsyncIterator[tuple[Talk, Uploads]]:
    now = [0.0]

    def tick() -> float:  # slow enough for any number of messages
        now[0] += 1.0
        return now[0]

    peer = FakePeer(name="call 1")
    processing = FakeProcessing(FakeSource(0), [], SessionRequest("call 1"))
    async with Uploads(most=4, most_per_address=4) as uploads, anyio.create_task_group() as group:
        control = Control(peer, processing, uploads, menu=menu or Menu(), clock=clock or tick)
        group.start_soon(control.run)
        yield Talk(control, peer, processing), uploads
        group.cancel_scope.cancel()


async def test_effects_are_changed_and_confirmed() -> None:
    async with talking() as (talk, uploads):
        wish = {"effect": "blur", "options": {"strength": 60}}
        assert await talk.say(wish) == wish
        assert await talk.say({"effect": "none"}) == {"effect": "none", "options": {}}
        name = await uploads.add(picture(), "a")
        wish = {"effect": "replace", "options": {"background": name, "fit": "contain"}}
        assert await talk.say(wish) == wish  # and not the path
        choices = [change.effect for change in talk.processing.changes]
        assert [choice.name for choice in choices if choice] == ["blur", "none", "replace"]
        assert choices[2] is not None
        assert choices[2].options["background"] == uploads.path(name)


async def test_views_and_figures() -> None:
    async with talking() as (talk, _):
        assert await talk.say({"mask": True}) == {"mask": True}
        assert await talk.say({"bypass": False}) == {"bypass": False}
        told = (await talk.say({"statistics": True}))["statistics"]
        assert told["frames"] == 3
        assert told["codec"] == "H264"
        assert [change.mask for change in talk.processing.changes] == [True, None]


BLUR = {"name": "blur", "options": {"strength": 60.0, "subject": ["DOG"]}}
SHOWING = [
    {"bypass": True},
    {"effect": "none"},
    {"effect": "tint"},
    {"effect": "tint", "options": {"strength": 0}},
    {"effect": "grayscale"},
    {"effect": "labels"},
    {"effect": "blur", "options": {"on": "subject"}},
    {"effect": "blur", "options": {"subject": ["BACKGROUND"]}},
    {"effect": "replace", "options": {"background": "navy", "threshold": 0}},
    {"effect": "pixelate", "options": {"feather": 20}},
]


@pytest.mark.parametrize("wish", SHOWING, ids=str)
async def test_what_shows_the_room_needs_the_operators_leave(wish: dict[str, Any]) -> None:
    async with talking(Menu(may_bypass=False, own=BLUR)) as (talk, _):
        assert list(await talk.say(wish)) == ["error"]
        assert not talk.processing.changes
    async with talking(Menu(own=BLUR)) as (talk, _):
        assert "error" not in await talk.say(wish)


@pytest.mark.parametrize(
    ("effect", "strength", "least"),
    [("blur", 0, 60.0), ("blur", 59, 60.0), ("blur", 80, 80), ("pixelate", 0.0, 50.0)],
)
async def test_no_effect_is_weaker_than_the_operators_without_leave(
    effect: str, strength: float, least: float
) -> None:
    async with talking(Menu(may_bypass=False, own=BLUR)) as (talk, _):
        wish = {"effect": effect, "options": {"strength": strength}}
        assert await talk.say(wish) == {"effect": effect, "options": {"strength": least}}
        (change,) = talk.processing.changes
        assert change.effect is not None
        assert change.effect.options == {"strength": least}
        assert list(await talk.say(json.dumps(wish).replace(str(strength), '"0"')))


async def test_the_operators_own_effect_can_be_had_again() -> None:
    own = {"name": "tint", "options": {}}
    menu = Menu(may_bypass=False, own=own)
    assert list(menu.effects) == ["blur", "replace", "tint", "pixelate", "mask"]
    async with talking(menu) as (talk, _):
        wish = {"effect": "tint", "options": {"strength": 60}}
        assert await talk.say(wish) == wish
        assert await talk.say({"mask": True}) == {"mask": True}


@pytest.mark.parametrize(
    ("name", "given", "least"),
    [("tint", {}, 50.0), ("grayscale", {}, 100.0), ("grayscale", {"strength": 70.0}, 70.0)],
)
async def test_nor_is_the_operators_own_effect_made_weaker(
    name: str, given: dict[str, Any], least: float
) -> None:
    async with talking(Menu(may_bypass=False, own={"name": name, "options": given})) as (talk, _):
        wish = {"effect": name, "options": {"strength": 0}}
        assert await talk.say(wish) == {"effect": name, "options": {"strength": least}}
        for option in ("on", "subject", "threshold", "feather"):
            wish = {"effect": name, "options": {option: "subject" if option == "on" else 0}}
            assert list(await talk.say(wish)) == ["error"]
        assert len(talk.processing.changes) == 1


LONG = [
    {"effect": "blur", "options": {"subject": ["x" * 4040]}},
    {"effect": "tint", "options": {"colours": {"PERSON": "\U0001f600" * 900}}},
    {"effect": "blur", "options": {"strength": "\U0001f600" * 900}},
    {"effect": "\x01" * 32},
]


@pytest.mark.parametrize("wish", LONG, ids=lambda wish: str(wish)[:40])
async def test_a_reason_is_cut_until_it_can_be_sent(wish: dict[str, Any]) -> None:
    async with talking() as (talk, _):

        async def make(change: Any) -> None:
            raise ConfigError(f"a label is wrong: {change.effect.options!r}")

        talk.processing.control = make  # type: ignore[method-assign]
        answer = await talk.say(json.dumps(wish, ensure_ascii=False, separators=(",", ":")))
        assert list(answer) == ["error"]
        assert len(json.dumps(answer)) < 520
        assert await talk.say({"bypass": False})  # the talk goes on


async def test_a_long_wish_is_confirmed_without_its_options() -> None:
    async with talking() as (talk, _):
        wish = {"effect": "none", "options": {"subject": ["\U0001f600" * 900]}}
        text = json.dumps(wish, ensure_ascii=False)
        assert await talk.say(text) == {"effect": "none"}
        assert len(talk.processing.changes) == 1


async def test_what_cannot_be_said_does_not_end_the_talk(caplog) -> None:
    async with talking() as (talk, _):
        real, talk.peer.messages.send = talk.peer.messages.send, None  # type: ignore[assignment]
        talk.control.receive('{"mask": true}')
        with anyio.fail_after(5):
            while not caplog.records:
                await anyio.sleep(0.001)
        assert "could not be answered" in caplog.text
        talk.peer.messages.send = real
        assert await talk.say({"mask": True}) == {"mask": True}


NONSENSE = [
    "",
    "nonsense",
    "null",
    "[]",
    "7",
    "{}",
    '{"effect": "blur"',
    "[" * 4000,
    '{"a":' * 700,
    '{"options": {"strength": 5}}',
    '{"effect": "blur", "mask": true}',
    '{"effect": "blur", "surprise": 1}',
    '{"effect": 5}',
    '{"effect": ""}',
    '{"effect": null}',
    '{"effect": "cutout"}',
    '{"effect": "__class__"}',
    '{"mask": "yes"}',
    '{"mask": 1}',
    '{"bypass": null}',
    '{"statistics": false}',
    '{"effect": "blur", "options": []}',
    '{"effect": "blur", "options": {' + ",".join(f'"o{n}": 1' for n in range(30)) + "}}",
    '{"effect": "replace", "options": {"background": "/etc/passwd"}}',
    '{"effect": "replace", "options": {"background": "bg-guess"}}',
    '{"effect": "replace", "options": {"background": "../x"}}',
    '{"effect": "replace", "options": {"background": ["navy"]}}',
    '{"effect": "blur", "options": {"strength": "' + "x" * 5000 + '"}}',
    "\ud800",
]


@pytest.mark.parametrize("text", NONSENSE, ids=lambda text: ascii(text[:40]))
async def test_nonsense_is_answered_with_a_reason_and_changes_nothing(text: str) -> None:
    async with talking() as (talk, _):
        answer = await talk.say(text)
        assert list(answer) == ["error"]
        assert answer["error"]
        assert "passwd" not in answer["error"]
        assert not talk.processing.changes
        assert await talk.say({"mask": True}) == {"mask": True}  # the talk goes on


async def test_mutated_messages_are_answered() -> None:
    chance = random.Random(4)
    good = '{"effect": "replace", "options": {"background": "navy", "fit": "cover"}}'
    async with talking() as (talk, _):
        for _ in range(300):
            text = list(good)
            for _ in range(chance.randint(1, 4)):
                text[chance.randrange(len(text))] = chance.choice('{}[]":,x0\\\x00é')
            assert set(await talk.say("".join(text))) <= {"error", "effect", "options"}


async def test_an_error_of_the_pipeline_is_told_and_a_fault_is_not(caplog) -> None:
    async with talking() as (talk, _):

        async def refuse(change: Any) -> None:
            raise ConfigError("strength must be a number between 0 and 100")

        async def fail(change: Any) -> None:
            raise RuntimeError("secret detail")

        talk.processing.control = refuse  # type: ignore[method-assign]
        assert (await talk.say({"effect": "blur"}))["error"].startswith("strength must be")
        talk.processing.control = fail  # type: ignore[method-assign]
        assert "secret" not in (await talk.say({"effect": "blur"}))["error"]
        assert "RuntimeError" in caplog.text


async def test_a_flood_is_cut_and_bounded() -> None:
    async with talking(clock=lambda: 5.0) as (talk, _):
        gate = anyio.Event()

        async def slow(change: Any) -> None:
            await gate.wait()

        talk.processing.control = slow  # type: ignore[method-assign]
        for _ in range(10_000):
            talk.control.receive('{"mask": true}')
        assert len(talk.control._waiting) == 8
        gate.set()
        with anyio.fail_after(5):
            while len(talk.peer.said) < 8:
                await anyio.sleep(0.001)
        assert len(talk.peer.said) == 8


async def test_every_option_that_can_name_a_file_is_known() -> None:
    """Another effect with a path in its options must not be reachable from far away."""
    found = {
        (name, option)
        for name, kind in EFFECTS.items()
        for option, annotation in all_annotations(kind.options_type).items()
        if any(word in str(annotation) for word in ("Path", "file", "IO"))
    }
    assert found == FILE_OPTIONS
    assert Menu().effects.keys() <= EFFECTS.keys()
    async with Uploads(most=1, most_per_address=1) as uploads:
        for name, option in FILE_OPTIONS:
            for value in ("/etc/passwd", "clip.mp4", "", "/dev/video0", None, 5):
                with pytest.raises(ConfigError):
                    Menu().choose(name, {option: value}, uploads)


def test_what_strangers_may_choose_exists_and_every_other_effect_was_left_out_knowingly() -> None:
    """A new effect or option is the operator's alone until somebody has looked at it."""
    offered = Menu().effects
    assert set(EFFECTS) - set(offered) == {"cutout", "per-class"}
    for name, options in offered.items():
        assert set(options) == set(option_names(name)), name
    assert set(servable_effects()) - set(offered) == {"per-class"}


def wishes_for(name: str, file: str) -> list[dict[str, Any]]:
    """Every option of an effect with a file in it, however deep."""
    nested: dict[str, Any] = {"name": "replace", "background": file}
    values: list[Any] = [
        file,
        f"file:{file}",
        [file],
        {"PERSON": file},
        nested,
        {"PERSON": nested},
        {"PERSON": {**nested, "classes": {"PERSON": nested}}},
        [nested],
        {"background": file},
    ]
    options = {*option_names(name), "background", "classes", "name"}
    return [{option: value} for option in options for value in values]


async def test_no_option_of_any_effect_takes_a_file_from_a_stranger(tmp_path: Path) -> None:
    file = tmp_path / "room.png"
    file.write_bytes(picture())
    made = create_effect("replace", {"background": file})  # else the rest would prove nothing
    made.close()
    with pytest.raises(ConfigError):
        made.wanted_labels(("DOG",))
    taken = []
    async with Uploads(most=1, most_per_address=1) as uploads:
        for name in EFFECTS:
            for options in wishes_for(name, str(file)):
                try:
                    choice = Menu().choose(name, options, uploads)
                    effect = create_effect(choice.name, choice.options)
                except ConfigError:
                    continue
                # As a label that no model has: nothing is done with it.
                assert set(options) <= {"subject", "colours"}
                if "subject" in options:
                    with pytest.raises(ConfigError):
                        effect.wanted_labels(("PERSON",))
                taken.append(name)
                effect.close()
    assert set(taken) <= {"none", "blur", "replace", "tint", "pixelate", "grayscale"} | {
        "mask",
        "labels",
    }


@pytest.mark.parametrize(
    "classes",
    [
        {"PERSON": "blur"},
        {"PERSON": {"name": "replace", "background": "/etc/passwd"}},
        {"BACKGROUND": {"name": "replace", "background": "navy"}},
        {},
    ],
)
async def test_effects_of_effects_are_not_for_strangers(classes: dict[str, Any]) -> None:
    async with talking() as (talk, _):
        answer = await talk.say({"effect": "per-class", "options": {"classes": classes}})
        assert "no effect of this name" in answer["error"]
        answer = await talk.say({"effect": "blur", "options": {"classes": classes}})
        assert "no such option" in answer["error"]
        assert not talk.processing.changes


@pytest.mark.parametrize("value", [[["a"]], {"a": {"b": 1}}, {"a": ["b"]}, [{"a": 1}]])
async def test_an_option_is_not_nested(value: Any) -> None:
    async with talking() as (talk, _):
        answer = await talk.say({"effect": "tint", "options": {"colours": value}})
        assert "nested" in answer["error"]
        assert not talk.processing.changes


def all_annotations(kind: type) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for each in reversed(kind.__mro__):
        found.update(inspect.get_annotations(each))
    return found


def test_figures_add_up_drops_and_are_json() -> None:
    from streamseg.abc import SinkStatistics

    told = figures(
        PipelineStatistics(
            frames_out=7,
            dropped={"model busy": 2, "superseded": 1},
            sinks={"call 1": SinkStatistics(dropped={"superseded": 3, "none": 0})},
            recent={"total": StageTimes(p50_ms=12.34, rate_per_s=25.01)},
        ),
        PeerStatistics(rtt_ms=1.26, size=(640, 360)),
    )
    assert told["dropped"] == {"model busy": 2, "superseded": 4}
    assert (told["fps"], told["latency_ms"], told["rtt_ms"]) == (25.0, 12.3, 1.3)
    json.dumps(told, allow_nan=False)
