"""Real model processes, killed, stopped, and fed with broken programs."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import threading
import time
from pathlib import Path

import anyio
import numpy as np
import psutil
import pytest

from streamseg.errors import ModelError, WorkerDiedError, WorkerError, WorkerTimeoutError
from streamseg.models.card import Card, Model
from streamseg.models.registry import find_model
from streamseg.runtime.pool import ModelResult, WorkerPool

pytestmark = [pytest.mark.integration, pytest.mark.anyio]


def model(path: Path) -> Model:
    return Model(path, Card(name=path.stem))


def pixels(seed: int, size: tuple[int, int] = (256, 256)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def model_processes() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if any("streamseg.runtime.child" in part for part in child.cmdline())
    ]


def shared_segments() -> set[str]:
    return set(os.listdir("/dev/shm"))


@pytest.fixture(autouse=True)
async def nothing_left_behind():
    threads, fds = threading.active_count(), psutil.Process().num_fds()
    shared = shared_segments()
    yield
    # A process that was waited for is gone at once; its waiting thread ends just after it.
    for _ in range(100):
        if threading.active_count() <= threads and psutil.Process().num_fds() <= fds:
            break
        await anyio.sleep(0.02)
    assert [process.cmdline() for process in model_processes()] == []
    assert threading.active_count() <= threads
    assert psutil.Process().num_fds() <= fds + 1  # the event loop's own, opened on first use
    assert shared_segments() <= shared


async def test_results_belong_to_their_pictures(models: Path) -> None:
    pictures = [pixels(seed) for seed in range(12)]
    async with WorkerPool(model(models / "quick.pte"), workers=2) as pool:
        with anyio.fail_after(20):
            while len(pool.pids) < 2:
                await anyio.sleep(0.01)
        one_by_one = [(await pool.run(picture)).masks for picture in pictures]
        at_once = await asyncio.gather(*(pool.run(picture) for picture in pictures))
    for expected, result in zip(one_by_one, at_once, strict=True):
        np.testing.assert_array_equal(result.masks, expected)
    assert not np.array_equal(one_by_one[0], one_by_one[1])


async def test_probabilities_equal_those_of_torch(models: Path) -> None:
    """Three classes: softmax and argmax of the child against the masks' own sums."""
    async with WorkerPool(model(models / "classes.pte"), labels="all", class_map=True) as pool:
        result = await pool.run(pixels(1, (32, 48)))

    assert result.masks.shape == (3, 32, 48)
    np.testing.assert_allclose(result.masks.sum(axis=0), 1.0, atol=1e-5)
    np.testing.assert_array_equal(result.class_map, result.masks.argmax(axis=0))


async def test_each_picture_can_have_classes_of_its_own(models: Path) -> None:
    async with WorkerPool(model(models / "classes.pte"), labels="all", class_map=True) as pool:
        everything = await pool.run(pixels(1, (32, 48)))
        some, none = await asyncio.gather(
            pool.run(pixels(1, (32, 48)), classes=(2, 0)),
            pool.run(pixels(1, (32, 48)), classes=()),
        )

    np.testing.assert_allclose(some.masks, everything.masks[[2, 0]], atol=1e-6)
    assert none.masks.shape == (0, 32, 48)
    np.testing.assert_array_equal(none.class_map, everything.class_map)


async def test_raw_outputs_are_what_the_model_returned(models: Path) -> None:
    chosen = model(models / "classes.pte")
    async with WorkerPool(chosen, labels="all") as pool:
        masks = (await pool.run(pixels(1, (32, 48)))).masks
    async with WorkerPool(chosen, raw=True) as pool:
        assert pool.loaded.output_shapes == ((1, 3, 32, 48),)
        results = [await pool.run(pixels(seed, (32, 48))) for seed in (1, 2)]

    (logits,) = results[0].raw
    assert (logits.shape, logits.dtype) == ((1, 3, 32, 48), np.float32)
    exponents = np.exp(logits[0] - logits[0].max(axis=0))
    np.testing.assert_allclose(exponents / exponents.sum(axis=0), masks, atol=1e-5)
    assert not np.array_equal(logits, results[1].raw[0])
    assert results[0].masks.size == 0
    assert results[0].class_map is None


@pytest.mark.parametrize("name", ["quick.pte", "classes.pte", "selfie", "selfie-landscape"])
async def test_torch_without_its_python_part_computes_the_same(
    models: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = model(models / name) if name.endswith(".pte") else find_model(name)
    results, numpy_is_there = [], []
    for whole in ("", "1"):
        monkeypatch.setenv("STREAMSEG_WHOLE_TORCH", whole)
        async with WorkerPool(chosen, labels="all", class_map=True) as pool:
            size = pool.layout.input_size
            results.append([await pool.run(pixels(seed, size)) for seed in range(3)])
            maps = psutil.Process(pool.pids[0]).memory_maps()
            numpy_is_there.append(any("numpy" in part.path for part in maps))

    assert numpy_is_there == [False, True]
    for bare, all_of_it in zip(*results, strict=True):
        assert bare.masks.tobytes() == all_of_it.masks.tobytes()
        assert bare.class_map.tobytes() == all_of_it.class_map.tobytes()
    assert results[0][0].masks.any()


async def test_the_loop_runs_on_while_the_model_is_generating(models: Path) -> None:
    gaps: list[float] = []

    async def tick() -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.002)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    async with WorkerPool(model(models / "very_slow.pte")) as pool:
        ticker = asyncio.create_task(tick())
        results = [await pool.run(pixels(0)) for _ in range(3)]
        ticker.cancel()

    model_s = min(result.model_ms for result in results) / 1e3
    assert model_s > 0.1
    assert len(gaps) > 20
    assert max(gaps) < model_s / 2


async def test_a_killed_worker_is_replaced_and_its_pictures_are_done(models: Path) -> None:
    pictures = [pixels(seed) for seed in range(10)]
    async with WorkerPool(model(models / "slow.pte")) as pool:
        undisturbed = [(await pool.run(picture)).masks for picture in pictures]
        running = asyncio.gather(*(pool.run(p, index=i) for i, p in enumerate(pictures)))
        await asyncio.sleep(0.15)
        os.kill(pool.pids[0], signal.SIGKILL)
        disturbed = await running

        assert pool.statistics().restarts == 1
    for expected, result in zip(undisturbed, disturbed, strict=True):
        np.testing.assert_array_equal(result.masks, expected)


async def test_an_idle_worker_that_dies_is_replaced(models: Path) -> None:
    async with WorkerPool(model(models / "quick.pte")) as pool:
        os.kill(pool.pids[0], signal.SIGKILL)
        with anyio.fail_after(20):
            while pool.statistics().restarts == 0:
                await anyio.sleep(0.01)
            result = await pool.run(pixels(0))

    assert result.masks.shape == (1, 256, 256)


async def test_a_picture_that_ends_three_processes_fails_with_its_index(models: Path) -> None:
    async def killer(pool: WorkerPool) -> None:
        killed: set[int] = set()
        while True:
            for pid in set(pool.pids) - killed:
                await asyncio.sleep(0.05)
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
            await asyncio.sleep(0.005)

    async with WorkerPool(model(models / "very_slow.pte")) as pool:
        killing = asyncio.create_task(killer(pool))
        with pytest.raises(WorkerDiedError, match=r"frame 41 ended the model process 3 times"):
            await pool.run(pixels(0), index=41)
        killing.cancel()
        # The pool itself is none the worse for it.
        assert (await pool.run(pixels(0), index=42)).model_ms > 0


async def test_a_hung_worker_is_killed_and_its_picture_done_by_the_next(models: Path) -> None:
    async with WorkerPool(model(models / "quick.pte"), timeout_s=1.0) as pool:
        os.kill(pool.pids[0], signal.SIGSTOP)
        started = time.monotonic()
        result = await pool.run(pixels(0))

        assert 0.9 < time.monotonic() - started < 15
        assert pool.statistics().restarts == 1
    assert result.masks.shape == (1, 256, 256)


async def test_a_model_that_always_hangs_is_a_timeout(models: Path) -> None:
    async with WorkerPool(model(models / "very_slow.pte"), timeout_s=0.05) as pool:
        with pytest.raises(WorkerTimeoutError, match=r"frame 3: .* within 0.05 s, 3 times"):
            await pool.run(pixels(0), index=3)


async def test_cancelling_and_closing_take_no_time_while_the_model_runs(models: Path) -> None:
    async with WorkerPool(model(models / "very_slow.pte")) as pool:
        with anyio.move_on_after(0.05) as scope:
            await pool.run(pixels(0))
        assert scope.cancelled_caught
        started = time.monotonic()
    assert time.monotonic() - started < 2
    with pytest.raises(anyio.ClosedResourceError):
        await pool.run(pixels(0))
    await pool.aclose()


async def test_closing_while_others_wait_ends_their_waiting(models: Path) -> None:
    pool = WorkerPool(model(models / "very_slow.pte"))
    await pool.open()
    waiting = [asyncio.create_task(pool.run(pixels(0))) for _ in range(5)]
    await asyncio.sleep(0.05)
    await pool.aclose()
    results = await asyncio.gather(*waiting, return_exceptions=True)

    assert all(isinstance(result, anyio.ClosedResourceError) for result in results)


async def test_cancelled_while_the_worker_is_starting(models: Path) -> None:
    pool = WorkerPool(model(models / "quick.pte"))
    opening = asyncio.create_task(pool.open())
    with anyio.fail_after(10):
        while not model_processes():
            await anyio.sleep(0.001)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await pool.aclose()


async def test_a_prepared_process_is_the_one_that_is_opened(models: Path) -> None:
    pool = WorkerPool(model(models / "classes.pte"), labels="all")
    pool.prepare()
    with anyio.fail_after(10):
        while not model_processes():
            await anyio.sleep(0.001)
    prepared = [process.pid for process in model_processes()]
    pool.want(("CLASS_1",))
    async with pool:
        assert pool.pids == prepared
        assert pool.layout.mask_classes == (1,)
        assert (await pool.run(pixels(0, (32, 48)))).masks.shape == (1, 32, 48)


@pytest.mark.parametrize("loaded", [False, True])
async def test_a_prepared_process_that_nobody_opens_is_ended(models: Path, loaded: bool) -> None:
    pool = WorkerPool(model(models / "quick.pte"))
    pool.prepare()
    with anyio.fail_after(10):
        while not model_processes() or (loaded and not pool.is_prepared):
            await anyio.sleep(0.001)
    started = time.monotonic()
    await pool.aclose()

    assert time.monotonic() - started < 2
    assert model_processes() == []


async def test_a_prepared_process_that_cannot_load_is_told_at_opening(tmp_path: Path) -> None:
    path = tmp_path / "text.pte"
    path.write_text("no program at all")
    pool = WorkerPool(model(path))
    pool.prepare()
    with pytest.raises(ModelError, match="not an ExecuTorch program"):
        await pool.open()
    await pool.aclose()


async def test_a_picture_of_the_wrong_size_is_refused(models: Path) -> None:
    async with WorkerPool(model(models / "quick.pte")) as pool:
        with pytest.raises(ModelError, match=r"\(256, 256, 3\) uint8, got \(64, 64, 3\)"):
            await pool.run(pixels(0, (64, 64)))


def broken(models: Path, folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.pte"
    good = (models / "quick.pte").read_bytes()
    if kind == "vector":
        return models / "vector.pte"
    path.write_bytes(
        {
            "empty": b"",
            "truncated": good[: len(good) // 2],
            "random": np.random.default_rng(0).bytes(20_000),
            "unknown_backend": good.replace(b"XnnpackBackend", b"XnnpackBackenX"),
        }[kind]
    )
    return path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("empty", "not an ExecuTorch program"),
        ("truncated", "not a valid ExecuTorch program"),
        ("random", "not an ExecuTorch program"),
        ("unknown_backend", "backend"),
        ("vector", r"its input is \[1, 8\], expected \[1, 3, height, width\]"),
    ],
)
async def test_a_broken_program_is_a_model_error(
    models: Path, tmp_path: Path, kind: str, reason: str
) -> None:
    path = broken(models, tmp_path, kind)
    with pytest.raises(ModelError, match=reason) as caught:
        async with WorkerPool(model(path)):
            pass
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_damaged_programs_never_take_us_down(models: Path, tmp_path: Path) -> None:
    """A flipped byte may go unnoticed, fail, or crash the child: never the parent."""
    good = (models / "quick.pte").read_bytes()
    random = np.random.default_rng(7)
    refused = 0
    for number in range(6):
        damaged = bytearray(good)
        for position in random.integers(0, 2500, 24):
            damaged[position] ^= int(random.integers(1, 256))
        path = tmp_path / f"damaged{number}.pte"
        path.write_bytes(damaged)
        try:
            async with WorkerPool(model(path), timeout_s=5):
                pass
        except ModelError:
            refused += 1
    assert refused > 0


async def test_when_no_process_can_be_started_any_more_nobody_waits_for_ever(models: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with WorkerPool(model(models / "quick.pte")) as pool:
        resource.setrlimit(resource.RLIMIT_NOFILE, (psutil.Process().num_fds(), hard))
        try:
            os.kill(pool.pids[0], signal.SIGKILL)
            with anyio.fail_after(20), pytest.raises(WorkerError, match="Too many open files"):
                await pool.run(pixels(0))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_worker_that_is_lost_leaves_its_work_to_the_others(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with WorkerPool(model(models / "quick.pte"), workers=2) as pool:
        with anyio.fail_after(20):
            while len(pool.pids) < 2:
                await anyio.sleep(0.01)

        async def no_more() -> None:
            raise WorkerError("there are no processes left")

        monkeypatch.setattr(pool._starter, "again", no_more)
        for _ in range(2):  # the second time nobody is left
            waiting = [asyncio.create_task(pool.run(pixels(seed))) for seed in range(6)]
            await asyncio.sleep(0)
            os.kill(pool.pids[0], signal.SIGKILL)
            with anyio.fail_after(20):
                results = await asyncio.gather(*waiting, return_exceptions=True)
            if pool.pids:
                assert all(isinstance(result, ModelResult) for result in results)
        assert pool.pids == []
        with pytest.raises(WorkerError, match="no processes left"):
            await pool.run(pixels(0))


async def test_the_current_folder_is_not_imported_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("json", "torch", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('taken from the current folder')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)  # a relative one would name this folder
    async with WorkerPool(find_model("selfie")) as pool:
        assert (await pool.run(pixels(0))).model_ms > 0


async def test_bundled_models_are_ready_and_segment() -> None:
    for name in ("selfie", "selfie-landscape"):
        async with WorkerPool(find_model(name), labels="all") as pool:
            assert pool.labels == ("SELFIE", "BACKGROUND")
            result = await pool.run(pixels(0, pool.layout.input_size))
        np.testing.assert_allclose(result.masks.sum(axis=0), 1.0, atol=1e-5)


async def test_a_card_that_names_a_method_that_is_not_there_is_an_error(models: Path) -> None:
    wrong = Model(models / "classes.pte", Card(name="x", method="forward_384"))
    with pytest.raises(ModelError, match="no method 'forward_384' but forward"):
        async with WorkerPool(wrong):
            pass


async def test_a_card_with_the_wrong_number_of_labels_is_an_error(models: Path) -> None:
    wrong = Model(models / "classes.pte", Card(name="x", labels=("A", "B")))
    with pytest.raises(ModelError, match="its card has 2 labels"):
        async with WorkerPool(wrong):
            pass
