"""Small models of transformers, saved and exported: architectures of large ones, random weights.

The weights have a fixed seed and are spread so that pictures have several segments.
"""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from streamseg.models.card import Card
from tests.support.made_once import digest_of, made_once

ROOT = Path(__file__).parents[2]
SIZE = (96, 128)
QUERIES = 8
NAMES = ("segformer", "maskformer", "mask2former", "detr")
IN_INT8 = ("segformer",)
PICTURES = ROOT / "tests" / "golden" / "selfie"
CALIBRATION = ("astronaut.jpg", "nobody.jpg")
TOGETHER = (("mask2former", "segformer"), ("maskformer", "detr", "classifier"))
LABELS = ("sky", "road", "person", "dog", "tree", "car", "N/A", "N/A", "cat")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


# -- the models ---------------------------------------------------------------------------------


def _labels(count: int) -> dict[int, str]:
    return {index: (*LABELS, *map(str, range(count)))[index] for index in range(count)}


def _resnet(transformers: Any) -> Any:
    return transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )


def _segformer(transformers: Any) -> tuple[Any, Any]:
    config = transformers.SegformerConfig(
        id2label=_labels(9),
        num_encoder_blocks=2,
        depths=[1, 1],
        hidden_sizes=[8, 16],
        num_attention_heads=[1, 2],
        decoder_hidden_size=16,
        sr_ratios=[4, 2],
        patch_sizes=[7, 3],
        strides=[4, 2],
        mlp_ratios=[2, 2],
    )
    model = transformers.SegformerForSemanticSegmentation(config)
    return model, model.decode_head.classifier


def _maskformer(transformers: Any) -> tuple[Any, Any]:
    swin = transformers.SwinConfig(
        image_size=96,
        patch_size=4,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 1, 1],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    decoder = transformers.DetrConfig(
        d_model=16,
        encoder_layers=0,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=16,
        num_queries=QUERIES,
    )
    config = transformers.MaskFormerConfig(
        backbone_config=swin,
        decoder_config=decoder,
        fpn_feature_size=32,
        mask_feature_size=16,
        id2label=_labels(9),
    )
    model = transformers.MaskFormerForInstanceSegmentation(config)
    return model, model.class_predictor


def _mask2former(transformers: Any) -> tuple[Any, Any]:
    config = transformers.Mask2FormerConfig(
        backbone_config=_resnet(transformers),
        feature_size=32,
        mask_feature_size=16,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        dim_feedforward=16,
        num_queries=QUERIES,
        id2label=_labels(70),  # with as many, instances are painted in the order of their scores
    )
    model = transformers.Mask2FormerForUniversalSegmentation(config)
    return model, model.class_predictor


def _detr(transformers: Any) -> tuple[Any, Any]:
    config = transformers.DetrConfig(
        use_timm_backbone=False,
        backbone=None,
        use_pretrained_backbone=False,
        backbone_config=_resnet(transformers),
        d_model=128,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=8,
        decoder_attention_heads=8,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=QUERIES,
        id2label=_labels(9),
    )
    model = transformers.DetrForSegmentation(config)
    return model, model.detr.class_labels_classifier


_MODELS = {
    "segformer": (_segformer, "SegformerImageProcessorPil"),
    "maskformer": (_maskformer, "MaskFormerImageProcessorPil"),
    "mask2former": (_mask2former, "Mask2FormerImageProcessorPil"),
    "detr": (_detr, "DetrImageProcessorPil"),
}


def build(name: str) -> tuple[Any, Any]:
    """Return a model of this architecture and its image processor."""
    import torch
    import transformers
    from torch import nn

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    make, processor = _MODELS[name]
    torch.manual_seed(7)
    model, head = make(transformers)
    model.eval()
    # Initialised for training, everything is about the same everywhere.
    for parameter in model.parameters():
        if parameter.dim() == 4:
            nn.init.kaiming_normal_(parameter)
        elif parameter.dim() >= 2:
            nn.init.xavier_normal_(parameter, gain=1.5)
    with torch.no_grad():
        if (
            name == "detr"
        ):  # attention over all pixels is small, and so are the queries' differences
            model.mask_head.conv1.conv.weight[:, -8:] *= 1000
            for weight in model.bbox_attention.parameters():
                weight *= 2 if weight.dim() == 2 else 1
            model.detr.model.query_position_embeddings.weight *= 30
        # Classes that differ from place to place, or from query to query.
        coarse = torch.rand((1, 3, 6, 8), generator=torch.Generator().manual_seed(1))
        picture = (nn.functional.interpolate(coarse, SIZE, mode="bicubic") - 0.45) / 0.226
        found = model(pixel_values=picture)
        logits = (found.logits if "logits" in found else found.class_queries_logits)[0]
        logits = logits.flatten(1).T if logits.dim() == 3 else logits
        middle = logits.mean(0)
        gain = 4 / float((logits - middle).std())
        head.bias.sub_(middle).mul_(gain)
        head.weight.mul_(gain)
    size = {"height": SIZE[0], "width": SIZE[1]}
    return model, getattr(transformers, processor)(size=size)


def export_some(folder: str, *names: str) -> None:
    """Save and export models; run in a process of its own, for its warnings and its memory."""
    from streamseg.convert.transformers_models import export_transformers

    for name in names:
        if name == "classifier":
            _export_classifier(Path(folder) / "classifier.pte")
            continue
        for part in build(name):
            part.save_pretrained(Path(folder) / name)
        export_transformers(Path(folder) / name, Path(folder) / f"{name}.pte")
        if name in IN_INT8:
            export_int8(Path(folder), name, Path(folder))


def export_int8(saved: Path, name: str, folder: Path) -> None:
    """Export a saved model as the command line does it; its report goes beside the program."""
    from streamseg.cli.app import run_command

    arguments = ["export", "transformers", saved / name, "-o", folder / f"{name}-int8.pte"]
    arguments += ["--int8", "--json", "--picture", PICTURES / "astronaut_small.jpg"]
    for picture in CALIBRATION:
        arguments += ["--calibrate", PICTURES / picture]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = run_command([str(argument) for argument in arguments])
    assert code == 0
    (folder / f"{name}-int8.json").write_text(said.getvalue())


def _export_classifier(path: Path) -> None:
    import torch
    from torch import nn

    from streamseg.convert import export_module

    torch.manual_seed(7)
    module = nn.Sequential(nn.AvgPool2d(32), nn.Flatten(), nn.Linear(3, 6)).eval()
    labels = ("dog", "cat", "car", "tree", "sky", "road")
    card = Card(name="classifier", task="classification", labels=labels, mean=MEAN, std=STD)
    export_module(module, (1, 3, 32, 32), path, card=card, delegate="any")


def exported_models() -> Path:
    """Return a folder with all models; made once per version of what makes them."""
    pytest.importorskip("transformers", reason="transformers is not installed")
    convert = ROOT / "streamseg" / "convert"
    others = [convert / name for name in ("_lowering.py", "_trials.py", "quantize.py")]
    made_by = [Path(__file__), *sorted(convert.glob("transformers_models*.py")), *others]
    return made_once(f"transformers-{digest_of(made_by)}", _export_all)


def _export_all(folder: Path) -> None:
    code = "import sys; from tests.support import transformers_models as made; "
    code += "made.export_some(*sys.argv[1:])"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(folder), *names],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for names in TOGETHER
    ]
    try:
        for process in running:
            output, _ = process.communicate(timeout=500)
            assert process.returncode == 0, output[-3000:]
    finally:
        for process in running:
            process.kill()
