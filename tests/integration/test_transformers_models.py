"""Export of transformers' models: what is written, what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamseg.errors import ModelError
from streamseg.models.card import load_card
from tests.support.command import Command, one_line
from tests.support.transformers_models import (
    IN_INT8,
    MEAN,
    NAMES,
    PICTURES,
    SIZE,
    STD,
    export_int8,
    exported_models,
)

pytestmark = [
    pytest.mark.integration,
    # torch, ExecuTorch and transformers warn about themselves in many ways, none of them ours.
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module")
def exported() -> Path:
    return exported_models()


# -- what an export writes ----------------------------------------------------------------------


@pytest.mark.timeout(600)  # the first test that needs the models makes them
@pytest.mark.parametrize("name", NAMES)
def test_card_has_what_the_image_processor_and_the_configuration_say(
    exported: Path, name: str
) -> None:
    card = load_card(exported / f"{name}.toml")
    assert card.name == name
    assert card.input_size == SIZE
    assert (card.mean, card.std) == (MEAN, STD)
    assert (card.resample, card.antialias, card.letterbox) == ("bilinear", True, False)
    assert card.labels is not None
    # A card's labels are different from each other.
    assert card.labels[:9] == ("sky", "road", "person", "dog", "tree", "car", "N/A", "N/A_7", "cat")
    assert len(card.labels) == (70 if name == "mask2former" else 9)
    assert "noise, a ramp and portrait.jpg (comes with streamseg)" in card.verified_with
    assert "IoU 1.0000" in card.verified_with
    weights = (exported / name / "model.safetensors").read_bytes()
    assert card.source_sha256 == hashlib.sha256(weights).hexdigest()
    assert str(exported) not in (exported / f"{name}.toml").read_text()
    if name == "segformer":
        assert (card.task, card.output, card.masks) == ("semantic-segmentation", "logits", None)
    else:
        assert card.task == "mask-classification"
        assert card.masks is not None
        assert card.masks.family == name
        assert card.masks.subtasks == ("panoptic", "instance", "semantic")
        assert card.masks.fused == ()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["segformer", pytest.param("maskformer", marks=pytest.mark.slow)])
def test_int8_says_nearly_the_same_and_how_nearly(
    exported: Path, tmp_path: Path, name: str
) -> None:
    """The weights are random: which class is a little more likely than another is chance."""
    import torch

    folder = exported
    if name not in IN_INT8:
        export_int8(exported, name, tmp_path)
        folder = tmp_path

    from streamseg.convert._lowering import Program
    from streamseg.convert.agreement import AgreementMeter
    from streamseg.convert.pictures import read_picture

    report = json.loads((folder / f"{name}-int8.json").read_text())
    assert report["quantized"]
    told = "noise, a ramp, astronaut_small.jpg and 2 pictures of the calibration"
    assert report["compared_with"] == told
    agreement = report["agreement"]
    assert agreement["pictures"] == 3
    card = load_card(folder / f"{name}-int8.toml")
    assert "int8, calibrated with 2 pictures" in card.verified_with
    assert f"IoU {agreement['iou']:.4f}" in card.verified_with
    # What the report says holds for the files, on a picture that neither has seen.
    meter = AgreementMeter(card)
    picture = read_picture(PICTURES / "astronaut_wide.jpg", card, SIZE)
    results, expected = (
        Program(str(file))(picture)
        for file in (folder / f"{name}-int8.pte", exported / f"{name}.pte")
    )
    meter.add(results, expected)
    found = meter.result()
    assert found is not None
    print(f"{name}: {agreement}, on another picture {found}")
    assert min(agreement["iou"], found.iou or 0.0) > 0.8
    # And 8 bits are not 32: a program that still computed in float32 would be equal.
    assert not torch.allclose(results[0], expected[0], atol=1e-3)


def test_the_commands_options_are_those_of_the_other_exports(
    exported: Path, tmp_path: Path, streamseg: Command
) -> None:
    given = ("export", "transformers", exported / "segformer", "-o", tmp_path / "m.pte")
    one_line(streamseg(*given, "--int8"), 2, "--int8 needs pictures", "--calibrate FOLDER")
    absent = tmp_path / "absent.jpg"
    one_line(streamseg(*given, "--picture", absent), 2, "absent.jpg: cannot be read")
    assert list(tmp_path.iterdir()) == []


def folder_of(exported: Path, tmp_path: Path, name: str, **changes: Any) -> Path:
    """Return a copy of a saved model with another configuration of its image processor."""
    folder = tmp_path / name
    shutil.copytree(exported / name, folder)
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def load(source: Any, **options: Any) -> Any:
    from streamseg.convert.transformers_models import load_transformers

    return load_transformers(source, **options)


def test_size_can_be_chosen_and_is_rounded_as_the_image_processor_does_it(exported: Path) -> None:
    model = load(exported / "maskformer", size=(70, 100))
    assert model.input_shape == (1, 3, 96, 128)  # multiples of 32
    assert load(exported / "segformer", size=(70, 100)).input_shape == (1, 3, 70, 100)


def test_processor_that_keeps_the_shape_gets_one_size_and_the_card_says_so(
    exported: Path, tmp_path: Path
) -> None:
    folder = folder_of(exported, tmp_path, "detr", size={"shortest_edge": 90, "longest_edge": 200})
    card = load(folder).card
    assert card.input_size == (90, 120)
    assert "transformers keeps their shape" in card.description
    assert load(folder, size=(64, 64)).card.input_size == (64, 64)


def test_normalisation_is_read_as_one_of_rgb_from_0_to_1(exported: Path, tmp_path: Path) -> None:
    folder = folder_of(
        exported,
        tmp_path,
        "segformer",
        do_rescale=False,
        image_mean=[127.5] * 3,
        image_std=[127.5] * 3,
    )
    card = load(folder).card
    assert card.mean == pytest.approx((0.5, 0.5, 0.5))
    assert card.std == pytest.approx((0.5, 0.5, 0.5))


def test_subtasks_can_be_restricted(exported: Path) -> None:
    model = load(exported / "detr", subtasks=["semantic", "panoptic"])
    assert model.card.masks.subtasks == ("panoptic", "semantic")
    with pytest.raises(ModelError, match="cannot do panoptic: choose from semantic"):
        load(exported / "segformer", subtasks=["panoptic"])


# -- what is refused ----------------------------------------------------------------------------


def test_processor_that_does_more_than_a_card_can_say_is_refused(
    exported: Path, tmp_path: Path
) -> None:
    crops = {"do_center_crop": True, "crop_size": {"height": 64, "width": 64}}
    for kind, reason in (
        ("BeitImageProcessor", "does more with a picture than to stretch"),  # crops
        ("MobileViTImageProcessor", "does more with a picture than to stretch"),  # and turns to BGR
        ("ViTImageProcessor", "makes no segments of its model's outputs"),
    ):
        folder = folder_of(exported, tmp_path, "segformer", image_processor_type=kind, **crops)
        with pytest.raises(ModelError, match=reason):
            load(folder)
        shutil.rmtree(folder)


def test_pickled_weights_are_not_read(exported: Path, tmp_path: Path) -> None:
    import torch

    folder = folder_of(exported, tmp_path, "segformer")
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="weights cannot be read"):
        load(folder)


def test_weights_of_another_task_are_refused(exported: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = folder_of(exported, tmp_path, "segformer")
    weights = load_file(folder / "model.safetensors")
    left = {name: value for name, value in weights.items() if "decode_head" not in name}
    assert len(left) < len(weights)
    save_file(left, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="it was trained for another task"):
        load(folder)


def test_damaged_weights_are_one_line(exported: Path, tmp_path: Path) -> None:
    folder = folder_of(exported, tmp_path, "segformer")
    (folder / "model.safetensors").write_bytes(b"\x10" * 100)
    with pytest.raises(ModelError, match="weights cannot be read") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_other_folders_are_refused(exported: Path, tmp_path: Path) -> None:
    for nowhere in (tmp_path / "nowhere", "./nowhere", str(tmp_path / "nowhere")):
        with pytest.raises(ModelError, match="no such folder"):
            load(nowhere)
    with pytest.raises(ModelError, match=r"has no config\.json"):
        load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match="is a model of type bert, expected maskformer"):
        load(tmp_path)


def test_environment_without_transformers_is_told_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        "from streamseg.convert.transformers_models import export_transformers\n"
        "from streamseg.errors import ModelError\n"
        "try: export_transformers(sys.argv[1], 'model.pte')\n"
        "except ModelError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=100,
    )
    assert "pip install transformers" in done.stdout, done.stderr[-2000:]
    assert list(tmp_path.iterdir()) == []


class _Hub(ThreadingHTTPServer):
    """Counts requests, and has nothing."""

    daemon_threads = True

    def __init__(self) -> None:
        self.asked: list[str] = []
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                asked.append(self.path)
                self.send_error(404)

            do_GET = do_HEAD

            def log_message(self, format: str, *args: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)


def test_nothing_is_asked_of_the_hub_where_fetching_is_switched_off(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from streamseg.convert.transformers_models import load_transformers\n"
        "from streamseg.errors import StreamsegError\n"
        "for value in ('1', ''):\n"
        "    os.environ['STREAMSEG_OFFLINE'] = value\n"
        "    try: load_transformers('owner/a-segformer')\n"
        "    except StreamsegError as error: print(type(error).__name__, error)\n"
        "    print('--', flush=True)\n"
        "    sys.stdin.readline()\n"
    )
    with _Hub() as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        environment = {
            **os.environ,
            "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
            "HF_HOME": str(tmp_path),
            "NO_PROXY": "127.0.0.1",
        }
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
            environment.pop(name, None)
        with subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        ) as process:
            try:
                assert process.stdin is not None
                assert process.stdout is not None
                asked, said = [], []
                for _ in range(2):
                    said.append("".join(iter(process.stdout.readline, "--\n")))
                    asked.append(list(hub.asked))
                    process.stdin.write("\n")
                    process.stdin.flush()
            finally:
                process.kill()
        hub.shutdown()
    assert said[0].startswith("OfflineError hf://owner/a-segformer: is not in the cache")
    assert "unset STREAMSEG_OFFLINE" in said[0]
    assert asked[0] == []
    # Without it, that very server would have been asked.
    assert said[1].startswith("ModelError owner/a-segformer: its configuration cannot be read")
    assert asked[1] != []


# -- normalisation layers -----------------------------------------------------------------------


def test_written_out_norms_are_the_same_and_exact_on_even_surfaces() -> None:
    import torch
    from torch import nn

    from streamseg.convert.transformers_models_norms import write_out_norms

    torch.manual_seed(0)
    layer, group = nn.LayerNorm(24), nn.GroupNorm(4, 24)
    for module in (layer, group):
        nn.init.normal_(module.weight)
        nn.init.normal_(module.bias)
    bare = nn.LayerNorm(24, elementwise_affine=False)
    rows = torch.randn(1, 7, 24) * 1e-2 + 30  # far from zero, and nearly the same everywhere
    maps = rows.transpose(1, 2)[..., None].repeat(1, 1, 1, 5)
    expected = [layer(rows), bare(rows), group(maps), group(maps[..., 0])]
    model = nn.ModuleList([layer, bare, group])
    weights = set(model.state_dict())
    write_out_norms(model)
    assert set(model.state_dict()) == weights
    found = [layer(rows), bare(rows), group(maps), group(maps[..., 0])]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.detach(), other.detach(), atol=2e-3)
        assert not torch.equal(one, torch.zeros_like(one))
