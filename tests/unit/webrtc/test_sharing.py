"""One model for many streams; with the real model's processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import anyio
import numpy as np
import pytest

from streamseg.errors import ModelError, WorkerError
from streamseg.models.card import Card, Model
from streamseg.models.registry import find_model
from streamseg.runtime.pool import WorkerPool
from streamseg.runtime.sharing import SharedModel, SharedSegmenter
from tests.unit.fakes import make_frame

pytestmark = pytest.mark.anyio


def shared() -> SharedModel:
    return SharedModel(WorkerPool(find_model("selfie"), attempts=1))


async def test_streams_have_a_turn_each_however_much_they_bring() -> None:
    async with shared() as model:
        counts = {"greedy": 0, "one": 0, "two": 0}
        enough = anyio.Event()

        async def keep_busy(name: str, segmenter: SharedSegmenter) -> None:
            index = 0
            while not enough.is_set():
                result = await segmenter.segment(make_frame(index))
                assert result.index == index
                counts[name] += 1
                index += 1
                if sum(counts.values()) >= 150:
                    enough.set()

        segmenters = {name: model.segmenter() for name in counts}
        for segmenter in segmenters.values():
            await segmenter.open()
            assert segmenter.workers == 1
        assert model.users == 3
        async with anyio.create_task_group() as group:
            for _ in range(8):  # all at once, as no pipeline does
                group.start_soon(keep_busy, "greedy", segmenters["greedy"])
            group.start_soon(keep_busy, "one", segmenters["one"])
            group.start_soon(keep_busy, "two", segmenters["two"])
        assert max(counts.values()) <= min(counts.values()) + 15, counts


async def test_at_most_one_frame_of_a_stream_waits_in_the_pool() -> None:
    async with shared() as model:
        segmenter = model.segmenter()
        await segmenter.open()
        most = 0
        run = model.pool.run
        inside = 0

        async def counting(pixels: np.ndarray, *, index: int = 0):  # type: ignore[no-untyped-def]
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            try:
                return await run(pixels, index=index)
            finally:
                inside -= 1

        model.pool.run = counting  # type: ignore[method-assign]
        async with anyio.create_task_group() as group:
            for index in range(10):
                group.start_soon(segmenter.segment, make_frame(index))
        assert most == 1


async def test_a_stream_that_ends_leaves_the_others_their_model() -> None:
    async with shared() as model:
        first, second = model.segmenter(), model.segmenter()
        async with first, second:
            await first.aclose()
            await first.aclose()
            assert model.users == 1
            with pytest.raises(anyio.ClosedResourceError):
                await first.segment(make_frame(0))
            assert (await second.segment(make_frame(1))).masks
            assert second.labels == ("SELFIE",)
        assert model.users == 0
        assert model.pool.pids  # warm for the next
        async with model.segmenter() as third:
            assert (await third.segment(make_frame(2))).masks
    assert not model.pool.pids


async def test_a_cancelled_frame_gives_its_turn_back() -> None:
    async with shared() as model, model.segmenter() as segmenter:
        for _ in range(5):
            with anyio.move_on_after(0.001):
                await segmenter.segment(make_frame(0))
        with anyio.fail_after(5):
            assert (await segmenter.segment(make_frame(1))).index == 1


async def test_who_gives_up_waiting_does_not_end_the_loading() -> None:
    async with shared() as model:
        assert model.not_ready == "the model is being loaded"
        with anyio.move_on_after(0.01) as scope:
            await model.segmenter().open()
        assert scope.cancelled_caught
        async with model.segmenter() as segmenter:
            assert model.not_ready is None
            assert (await segmenter.segment(make_frame(0))).masks
    assert model.not_ready == "the model is closed"


async def test_closing_fails_those_who_wait_and_leaves_no_process() -> None:
    model = shared()
    errors: list[BaseException] = []

    async def wait() -> None:
        with pytest.raises(anyio.ClosedResourceError) as caught:
            await model.segmenter().open()
        errors.append(caught.value)

    async with anyio.create_task_group() as group, model:
        for _ in range(3):
            group.start_soon(wait)
        await anyio.sleep(0.05)
        with anyio.fail_after(2):
            await model.aclose()
    assert len(errors) == 3
    assert not model.pool.pids
    with pytest.raises(anyio.ClosedResourceError):
        await model.segmenter().open()


async def test_a_process_that_dies_fails_its_frame_and_comes_back() -> None:
    async with shared() as model, model.segmenter() as one, model.segmenter() as other:
        await one.segment(make_frame(0))
        os.kill(model.pool.pids[0], signal.SIGKILL)
        failed = 0
        with anyio.fail_after(20):
            while True:
                try:
                    await one.segment(make_frame(1))
                    if failed:
                        break
                except WorkerError:
                    failed += 1
                    await anyio.sleep(0.01)
        assert (await other.segment(make_frame(2))).masks
        assert one.restarts == other.restarts == 1
        async with model.segmenter() as later:
            assert later.restarts == 0  # before its time


async def test_a_model_that_cannot_be_used_is_said_to_everybody(tmp_path: Path) -> None:
    broken = tmp_path / "broken.pte"
    broken.write_bytes(b"nonsense")
    model = SharedModel(WorkerPool(Model(broken, Card(name="broken")), attempts=1))
    async with model:
        messages = set()
        for _ in range(2):
            with pytest.raises(ModelError) as caught:
                await model.segmenter().open()
            messages.add(str(caught.value))
        assert len(messages) == 1
        assert model.not_ready == "the model cannot be used"
