"""``streamseg models``, as a user runs it, with a Hub and a web server on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import pytest

from streamseg.downloads.cache import Cache
from streamseg.downloads.fetching import fetch
from streamseg.downloads.locations import WebFile
from streamseg.errors import ModelError
from streamseg.models.card import Card
from streamseg.models.registry import card_of, find_model, model_names, obtain_model
from tests.unit.downloads.server import Fault, FileServer, file_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

PROGRAM = find_model("selfie").path.read_bytes()
SHA256 = hashlib.sha256(PROGRAM).hexdigest()
NAME = "lraspp-mobilenet-v3-large"
TARGET = card_of(NAME).url.removeprefix("https://huggingface.co")


def contents(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def damage(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(1000)
        file.write(b"damage")


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Machine:
    """A machine whose Hub and web server are here."""

    server: FileServer
    environment: dict[str, str]

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "streamseg", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment | environment,
        )

    async def run(self, *arguments: str, **environment: str) -> Done:
        process = self.start("models", *arguments, **environment)
        out, err = await anyio.to_thread.run_sync(lambda: process.communicate(timeout=60))
        assert "Traceback" not in err
        return Done(process.returncode, out, err)

    def serve_hub(self, data: bytes = PROGRAM, *faults: Fault, pause_s: float = 0.0) -> None:
        headers = {"X-Repo-Commit": "c0ffee" * 6 + "c0ff"}
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        self.server.serve(TARGET, data, *faults, etag=etag, headers=headers, pause_s=pause_s)


@pytest.fixture
async def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Machine]:
    async with file_server() as server:
        for name, value in {
            "STREAMSEG_CACHE": str(tmp_path / "cache"),
            "HF_HOME": str(tmp_path / "hub"),
            "HF_ENDPOINT": server.url(""),
            "COLUMNS": "80",
        }.items():
            monkeypatch.setenv(name, value)
        for name in ("STREAMSEG_OFFLINE", "HF_HUB_OFFLINE", "HTTP_PROXY", "HF_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        yield Machine(server, dict(os.environ))


async def test_the_life_of_a_model(machine: Machine) -> None:
    machine.serve_hub()
    before = await machine.run("path", NAME)
    assert before.code == 2
    assert f"{NAME} is not downloaded; run: streamseg models fetch {NAME}" in before.err

    fetched = await machine.run("fetch", NAME)
    assert fetched.code == 0, fetched.err
    first, summary = fetched.out.splitlines()
    assert first.startswith(f"{NAME}: ")
    assert first.endswith("(473.7 kB, BSD-3-Clause)")
    assert summary.startswith("1 of 1 here, 473.7 kB fetched, ")

    path = Path((await machine.run("path", NAME)).out.strip())
    assert contents(path) == PROGRAM
    assert find_model(NAME).path == path

    listed = json.loads((await machine.run("list", "--json")).out)
    states = {row["name"]: row["state"] for row in listed["models"]}
    assert list(states) == list(model_names())
    assert [name for name, state in states.items() if state == "cached"] == [NAME]
    assert states["selfie"] == "embedded"
    assert listed["cache_bytes"] == len(PROGRAM)
    assert listed["others"] == []

    again = await machine.run("fetch", NAME, "selfie")
    assert again.out.count("was here)") == 2
    assert len(machine.server.asked_for(TARGET)) == 1

    verified = await machine.run("verify")
    assert verified.code == 0
    assert "3 checked, 0 wrong" in verified.out
    damage(path)
    verified = await machine.run("verify", NAME)
    assert verified.code == 1
    assert f"WRONG {NAME}: SHA-256 is " in verified.out

    removed = await machine.run("remove", NAME, NAME)
    assert removed.out == f"{NAME}: 473.7 kB freed\n{NAME}: was not here\n"
    assert contents(path) is None


async def test_a_file_of_ones_own_is_compared_with_its_card(
    machine: Machine, tmp_path: Path
) -> None:
    program = tmp_path / "mine.pte"
    program.write_bytes(PROGRAM)
    unknown = await machine.run("verify", str(program))
    assert unknown.code == 2
    assert unknown.err == (
        f"streamseg: {program}: its card has no sha256 to compare it with; write it there\n"
    )
    program.with_suffix(".toml").write_text(f'name = "mine"\nsha256 = "{SHA256}"\n')
    assert "1 checked, 0 wrong" in (await machine.run("verify", str(program))).out
    damage(program)
    assert (await machine.run("verify", str(program))).code == 1

    kept = await machine.run("remove", str(program))
    assert kept.code == 2
    assert "not in the cache" in kept.err
    assert program.exists()


async def test_several_of_which_some_fail(machine: Machine) -> None:
    machine.serve_hub()
    good = machine.server.serve("/x.pte", PROGRAM, Fault(cut_after=100_000))
    page = machine.server.serve("/y.pte", b"no program at all")

    done = await machine.run("fetch", "nonsense", "fcn-resnet50", good, page, NAME)

    assert done.code == 2  # of the first that failed
    assert "unknown model 'nonsense'" in done.err
    assert "xnnpack/fcn_resnet50_xnnpack_fp32.pte: the Hub has no such file" in done.err
    assert "y.pte: cannot be used as a model: it is not an ExecuTorch program" in done.err
    assert f"{good}: " in done.out
    assert done.out.splitlines()[-1].startswith("2 of 5 here, ")
    assert all(len(line) < 250 for line in done.err.splitlines())
    assert Cache().find(WebFile(page)) is None

    listed = json.loads((await machine.run("list", "--json")).out)
    [other] = listed["others"]
    assert (other["source"], other["complete"]) == (good, True)
    assert find_model(good).path == Path(other["path"])
    info = json.loads((await machine.run("info", good, "--json")).out)
    assert (info["state"], info["size_bytes"]) == ("file", len(PROGRAM))


async def test_interrupting_keeps_what_is_here(machine: Machine) -> None:
    data = PROGRAM * 12
    url = machine.server.serve("/x.pte", data, pause_s=0.03)
    process = machine.start("models", "fetch", url)
    with anyio.fail_after(20):
        while machine.server.sent_bytes < 2_500_000:
            await anyio.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = await anyio.to_thread.run_sync(lambda: process.communicate(timeout=20))
    assert process.returncode == 130
    assert "interrupted" in err

    part = json.loads((await machine.run("list", "--json")).out)["others"][0]
    assert not part["complete"]
    machine.server.files["/x.pte"].pause_s = 0.0
    done = await machine.run("fetch", url)

    assert done.code == 0, done.err
    assert find_model(url).path.read_bytes() == data
    assert machine.server.requests[-1].begin == part["size_bytes"] > 2_000_000


async def test_offline_is_told(machine: Machine) -> None:
    machine.serve_hub()
    done = await machine.run("fetch", NAME, HF_HUB_OFFLINE="1")
    assert done.code == 2
    assert "fetching is switched off; unset STREAMSEG_OFFLINE and HF_HUB_OFFLINE" in done.err
    assert machine.server.requests == []


async def test_a_table_for_people(machine: Machine) -> None:
    done = await machine.run("list")
    lines = done.out.splitlines()
    assert lines[0].split() == ["name", "task", "size", "licence", "state"]
    assert "selfie" in lines[1]
    assert lines[1].split()[-4:] == ["473.7", "kB", "Apache-2.0", "embedded"]
    assert max(map(len, lines[: len(model_names())])) <= 80
    assert any(line.split()[-2:] == ["AGPL-3.0-only", "remote"] for line in lines)

    done = await machine.run("info", "yolo26n-seg")
    assert "80: PERSON, BICYCLE" in done.out
    assert "not yet verified" in done.out
    assert "AGPL-3.0-only" in done.out
    info = json.loads((await machine.run("info", "efficientnet-v2-s", "--json")).out)
    assert len(info["labels"]) == 1000
    assert (info["state"], info["path"], info["size_bytes"]) == ("remote", None, None)


async def test_listing_loads_nothing_heavy(machine: Machine) -> None:
    code = (
        "import sys; from streamseg.cli.app import run_command; run_command(['models', 'list']);"
        "heavy = {'numpy', 'torch', 'av', 'cv2', 'aiohttp', 'huggingface_hub', 'executorch'};"
        "print(heavy & set(sys.modules), file=sys.stderr)"
    )
    done = await anyio.to_thread.run_sync(
        lambda: subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env=machine.environment,
            check=True,
            timeout=60,
        )
    )
    assert done.stderr.strip() == "set()"


async def test_obtaining_a_model_fetches_it_with_progress(machine: Machine) -> None:
    machine.serve_hub(pause_s=0.03)
    seen: list[float] = []

    model = await obtain_model(NAME, on_progress=seen.append)

    assert model == find_model(NAME)
    assert model.card == card_of(NAME)
    assert len(seen) > 1
    assert seen[-1] == 1.0
    # The second time it is here, whatever the switch says.
    assert await obtain_model(NAME, offline=True) == model


@pytest.mark.parametrize("offline", [False, True])
async def test_a_file_of_the_hub_that_is_no_program_stays_in_its_cache(
    machine: Machine, tmp_path: Path, offline: bool
) -> None:
    """Other programs use the Hub's cache too."""
    machine.serve_hub(b"weights of somebody")
    if offline:
        await fetch(card_of(NAME).url, cache=Cache(tmp_path / "of another program"))

    with pytest.raises(ModelError, match="cannot be used as a model: it is not an ExecuTorch"):
        await obtain_model(NAME, offline=offline)

    [file] = (tmp_path / "hub").rglob("*_fp32.pte")
    assert contents(file) == b"weights of somebody"
    assert Cache().entries() == []


async def test_what_was_here_before_and_is_no_program_stays(machine: Machine) -> None:
    url = machine.server.serve("/x.pte", b"no program at all")
    path = await fetch(url)
    with pytest.raises(ModelError, match="not an ExecuTorch program"):
        await obtain_model(url, offline=True)
    assert contents(path) == b"no program at all"

    other = machine.server.serve("/y.pte", b"no program at all")
    with pytest.raises(ModelError, match="not an ExecuTorch program"):
        await obtain_model(other)
    assert [entry.source for entry in Cache().entries()] == [url]


async def test_a_file_that_cannot_be_read_is_not_taken_for_a_wrong_one(machine: Machine) -> None:
    url = machine.server.serve("/x.pte", PROGRAM)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def use_up_all_files(progress: float) -> None:
        if progress == 1.0:
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))

    try:
        with pytest.raises(ModelError, match="cannot read the model: Too many open files"):
            await obtain_model(url, on_progress=use_up_all_files)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert contents(find_model(url).path) == PROGRAM


async def test_converted_models_are_removed(machine: Machine, tmp_path: Path) -> None:
    source = tmp_path / "road.tflite"
    source.write_bytes(b"what was converted")
    cache = Cache()
    for sha256 in (hashlib.sha256(source.read_bytes()).hexdigest(), "0" * 64):
        program = cache.converted_folder(sha256, "1-1.3.0") / "road.pte"
        program.parent.mkdir(parents=True)
        program.write_bytes(PROGRAM)
    listed = await machine.run("list")
    assert listed.out.count("road.pte (473.7 kB)") == 2

    nothing = await machine.run("remove")
    assert nothing.code == 2
    assert nothing.err == (
        "streamseg: name what to remove, or give --converted; see: streamseg models list\n"
    )
    one = await machine.run("remove", str(source))
    assert one.out == f"{source}: 473.7 kB freed\n"
    assert len(cache.converted()) == 1
    assert (await machine.run("remove", "--converted")).out == "converted models: 473.7 kB freed\n"
    assert json.loads((await machine.run("list", "--json")).out)["cache_bytes"] == 0
    assert source.exists()


async def test_a_fetched_model_that_is_another_one_than_its_card_says(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = machine.server.serve("/x.pte", PROGRAM)
    card = Card(name="mine", url=url, sha256="0" * 64)
    monkeypatch.setattr("streamseg.models.registry.card_of", lambda name: card)
    with pytest.raises(ModelError, match=r"SHA-256 is .* expected 000000000000"):
        await obtain_model("mine")
    with pytest.raises(ModelError, match="mine is not downloaded"):
        find_model("mine")


async def test_a_card_beside_a_file_of_ones_own(machine: Machine, tmp_path: Path) -> None:
    model = tmp_path / "road.pte"
    shutil.copyfile(find_model("selfie").path, model)
    card = model.with_suffix(".toml")
    card.write_text("title = 'Roads'\n")
    done = await machine.run("info", str(model))
    assert done.code == 2
    assert f"{card}: the model's card: name: is missing" in done.err

    card.write_text("name = 'road'\nlabels = 'voc'\nlicence = 'MIT'\n")
    info = json.loads((await machine.run("info", str(model), "--json")).out)
    assert (info["licence"], info["path"], len(info["labels"])) == ("MIT", str(model), 21)
    # It has one channel: the card is refused as soon as the program is loaded.
    picture = tmp_path / "x.ppm"
    picture.write_bytes(b"P6 64 64 255\n" + bytes(3 * 64 * 64))
    process = machine.start("segment", str(picture), "--model", str(model))
    _, err = await anyio.to_thread.run_sync(lambda: process.communicate(timeout=60))
    assert process.returncode == 2
    assert "its card has 21 labels, but its output of 1 channel(s) needs 2" in err
