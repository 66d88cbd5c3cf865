"""What users ask of a live session at bad moments: keys, models, configurations."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import anyio
import numpy as np
import pytest

from streamseg.config import load_live_config
from streamseg.errors import ConfigError, ModelError, StreamsegError
from streamseg.frames import luma_plane
from streamseg.runtime.segmenter import ModelSegmenter
from streamseg.session.live import LiveSession
from streamseg.session.parts import load_segmenter
from tests.integration.test_live import Running, Viewer, detail

pytestmark = [pytest.mark.integration, pytest.mark.anyio]


async def settled(running: Running, effect: str) -> None:
    while running.session.effect_name != effect:
        await anyio.sleep(0.01)


async def test_keys_pressed_before_anything_runs_are_obeyed() -> None:
    running = Running()

    async def script() -> None:
        await settled(running, "replace")

    running.session.ask("next-effect")
    statistics = await running.run(script)
    assert statistics.settings["effect"] == "replace"


async def test_quit_before_anything_runs_ends_the_run_at_once() -> None:
    running = Running()
    async with running.session as session:
        session.ask("quit")
        with anyio.fail_after(2):
            statistics = await session.run()
    assert statistics.in_flight == 0


async def test_looking_at_the_mask_leads_back_to_what_was_shown_before() -> None:
    running = Running({"effect.name": "none"})

    async def script() -> None:
        await running.session.set_effect("blur", {"strength": 90})
        await running.masks(5)
        running.session.ask("show-mask")
        await settled(running, "mask")
        running.session.ask("show-mask")
        await settled(running, "blur")
        running.session.ask("show-mask")
        running.session.ask("next-effect")
        await settled(running, "replace")

    await running.run(script)
    first = next(n for n, (_, mask) in enumerate(running.viewer.seen) if mask is not None)
    for frame, mask in running.viewer.seen[first:]:
        if mask is None:
            assert detail(luma_plane(frame.video)) < 0.2 * detail(running.tap.raw[frame.index])


async def test_the_effect_may_need_other_masks_while_the_model_still_loads() -> None:
    running = Running()

    async def script() -> None:
        await running.session.set_effect("tint", {"subject": ["BACKGROUND"]})
        for _ in range(2):  # while it loads, and then
            with pytest.raises(ConfigError, match="no such"):
                await running.session.set_effect("blur", {"subject": ["no such"]})
            await running.masks(3)

    statistics = await running.run(script)
    assert statistics.settings["effect"] == "tint"


@pytest.mark.parametrize("content", [b"garbage", b"\0\0\0\0ET12" + b"\xff" * 500])
async def test_a_broken_model_leaves_the_one_that_works(tmp_path: Path, content: bytes) -> None:
    broken = tmp_path / "broken.pte"
    broken.write_bytes(content)
    running = Running()

    async def script() -> None:
        await running.masks(5)
        with pytest.raises(ModelError, match=r"broken\.pte"):
            await running.session.set_model(str(broken))
        await running.masks(5)

    statistics = await running.run(script)
    assert statistics.settings["model"] == "selfie"
    seen = running.viewer.seen
    first = next(index for index, (_, mask) in enumerate(seen) if mask is not None)
    assert all(mask is not None for _, mask in seen[first:])


async def test_a_model_that_hangs_while_it_loads_can_be_replaced() -> None:
    running = Running({"model.name": "selfie-landscape"})

    async def script() -> None:
        segmenter = running.session.pipeline.segmenter
        assert isinstance(segmenter, ModelSegmenter)
        starter = segmenter.pool._starter
        # As a process does that never says that it is ready.
        assert starter._first is not None
        starter._first.cancel()
        starter._first = asyncio.ensure_future(asyncio.sleep(1e6))  # type: ignore[arg-type]
        await anyio.sleep(0.1)
        await running.session.set_model("selfie")
        await running.masks(5)

    await running.run(script)
    running.check_nobody_saw_the_room()


async def test_many_changes_at_once_are_made_one_after_the_other() -> None:
    running = Running()
    before = set(asyncio.all_tasks())

    async def script() -> None:
        await running.masks(3)
        async with anyio.create_task_group() as group:
            for name in ("pixelate", "replace", "tint", "mask", "blur"):
                group.start_soon(running.session.set_effect, name)
            for model in ("selfie-landscape", "selfie"):
                group.start_soon(running.session.set_model, model)
            for command in ("pause", "next-effect", "show-mask", "pause", "next-effect"):
                running.session.ask(command)
        await running.masks(5)

    statistics = await running.run(script)
    assert statistics.settings["model"] == "selfie"
    assert len(set(asyncio.all_tasks()) - before) == 0


async def test_a_wrong_configuration_changes_nothing() -> None:
    wanted = {"effect.name": "blur"}
    running = Running(wanted)
    running.session = LiveSession(
        running.session.config,
        source=running.tap,
        sinks=(running.viewer,),
        reread=lambda: load_live_config(None, wanted),
    )

    async def script() -> None:
        session = running.session
        await running.masks(3)
        filters = session.pipeline.mask_filters
        before = session.config
        for wrong in (
            {"effect.name": "cutout", "mask.smoothing": 0.1},
            {"effect.name": "blur", "effect.subject": ["DOG"], "mask.smoothing": 0.1},
            {"effect.name": "pixelate", "model.name": "nothing", "mask.smoothing": 0.1},
            {"effect.name": "pixelate", "model.workers": 0},
        ):
            wanted.clear()
            wanted.update(wrong)  # type: ignore[arg-type]
            with pytest.raises(StreamsegError):
                await session.reload()
            assert session.config == before
            assert session.pipeline.mask_filters is filters
            assert session.effect_name == "blur"
        wanted.clear()
        wanted.update({"effect.name": "pixelate", "model.name": "selfie-landscape"})
        await session.reload()
        await running.masks(3)

    statistics = await running.run(script)
    assert statistics.settings == {"model": "selfie-landscape", "effect": "pixelate"}


async def test_a_key_that_cannot_be_obeyed_ends_nothing(tmp_path: Path) -> None:
    running = Running()
    running.session = LiveSession(
        running.session.config,
        source=running.tap,
        sinks=(running.viewer,),
        reread=lambda: 1 // 0,  # type: ignore[arg-type, return-value]
        snapshots=tmp_path / "nowhere",
    )

    async def script() -> None:
        for command in ("snapshot", "reload", "snapshot"):
            running.session.ask(command)
        await running.masks(3)
        running.session.ask("snapshot")
        await running.masks(5)

    await running.run(script)


async def test_a_stopped_model_process_freezes_nothing_and_stopping_is_quick() -> None:
    running = Running()

    async def script() -> None:
        await running.masks(10)
        os.kill(running.worker, signal.SIGSTOP)
        before = len(running.viewer.seen)
        while not any(mask is None for _, mask in running.viewer.seen[before:]):
            await anyio.sleep(0.01)
        await anyio.sleep(0.5)

    statistics = await running.run(script)
    running.check_nobody_saw_the_room()
    assert statistics.dropped["model stalled"] == 1
    assert np.diff([frame.index for frame, _ in running.viewer.seen]).max() < 60


@pytest.mark.parametrize("after_s", [0.0, 0.05, 0.3, 1.0])
async def test_cancelling_at_any_moment_takes_under_two_seconds(after_s: float) -> None:
    before = set(asyncio.all_tasks())
    descriptors = len(os.listdir("/proc/self/fd"))
    running = Running()
    with anyio.move_on_after(after_s):
        async with running.session as session:
            await session.run()
    with anyio.fail_after(2):
        while set(asyncio.all_tasks()) - before:
            await anyio.sleep(0.01)
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 2


async def test_closing_a_segmenter_that_loads_ends_the_loading() -> None:
    segmenter = load_segmenter("selfie")
    async with anyio.create_task_group() as group:

        async def load() -> None:
            with pytest.raises(anyio.ClosedResourceError):
                await segmenter.open()

        group.start_soon(load)
        await anyio.sleep(0.05)
        with anyio.fail_after(2):
            await segmenter.aclose()


async def test_a_session_with_two_sinks_on_one_file_is_refused(tmp_path: Path) -> None:
    uri = str(tmp_path / "a.mp4")
    config = load_live_config(None, {"sink": [{"uri": uri, "overwrite": True}] * 2})
    with pytest.raises(ConfigError, match="two sinks"):
        async with LiveSession(config, sinks=(Viewer(),)):
            pass
    assert os.listdir(tmp_path) == []
