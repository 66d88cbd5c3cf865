"""Makes the golden selfie masks, and the pictures for them, with MediaPipe itself.

In an environment of its own (MediaPipe 0.10.21 needs numpy 1):

    python -m venv /tmp/mediapipe
    /tmp/mediapipe/bin/pip install "mediapipe==0.10.21" "numpy<2" "scikit-image<0.27" av
    /tmp/mediapipe/bin/python tests/golden/make_selfie_golden.py pictures
    STREAMSEG_TEST_ASSETS=... /tmp/mediapipe/bin/python tests/golden/make_selfie_golden.py masks
"""

import os
import sys
from pathlib import Path

import cv2
import numpy as np
import selfie_golden as golden
import skimage.data
from mediapipe.python.solutions.selfie_segmentation import SelfieSegmentation


def main(what: str) -> None:
    if what == "pictures":
        make_pictures()
    elif what == "masks":
        assets = os.environ.get("STREAMSEG_TEST_ASSETS")
        make_masks(Path(assets) if assets else None)
    else:
        raise SystemExit(f"unknown command {what!r}: use pictures or masks")


def make_masks(assets: Path | None) -> None:
    for case in golden.CASES:
        if case.asset and assets is None:
            print(f"{case.name}: left as it is, STREAMSEG_TEST_ASSETS is not set")
            continue
        picture = golden.read_picture(case, assets)
        for model, selection in golden.MODELS.items():
            mask = segment(picture, selection)
            pixels = np.rint(np.clip(mask, 0, 1) * 255).astype(np.uint8)
            write(golden.golden_path(case, model), pixels, [cv2.IMWRITE_PNG_COMPRESSION, 9])


def segment(picture: np.ndarray, selection: int) -> np.ndarray:
    # A new instance for each picture, so that nothing can carry over.
    with SelfieSegmentation(model_selection=selection) as model:
        return model.process(picture).segmentation_mask


def make_pictures() -> None:
    portrait = skimage.data.astronaut()
    rocket = skimage.data.rocket()
    alpha = segment(portrait, 0)
    small = cv2.resize(portrait, (280, 280), interpolation=cv2.INTER_AREA)
    small_alpha = cv2.resize(alpha, (280, 280), interpolation=cv2.INTER_AREA)
    large = cv2.resize(portrait, (720, 720), interpolation=cv2.INTER_CUBIC)
    large_alpha = cv2.resize(alpha, (720, 720), interpolation=cv2.INTER_LINEAR)

    dark = (255 * (portrait[:, 110:398] / 255.0) ** 2.2 * 0.8).astype(np.uint8)
    twice = paste(gradient(360, 640), small, small_alpha, 80, 20)
    twice = paste(twice, small[:, ::-1], small_alpha[:, ::-1], 80, 340)
    pictures = {
        "astronaut": portrait,
        "astronaut_wide": cv2.resize(portrait[:288, ::-1], (640, 360)),
        "astronaut_small": paste(rocket, small, small_alpha, 147, 40),
        "astronaut_dark_tall": dark,
        "astronaut_large": paste(gradient(720, 1280), large, large_alpha, 0, 400),
        "astronaut_twice": twice,
        "nobody": rocket,
    }
    for name, picture in pictures.items():
        bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        write(golden.FOLDER / f"{name}.jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 80])


def paste(
    background: np.ndarray, person: np.ndarray, alpha: np.ndarray, top: int, left: int
) -> np.ndarray:
    result = background.astype(np.float32)
    height, width = alpha.shape
    part = result[top : top + height, left : left + width]
    part += alpha[..., None] * (person.astype(np.float32) - part)
    return np.rint(result).astype(np.uint8)


def gradient(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    channels = 90 + 80 * x / width, 120 + 60 * y / height, 160 - 50 * x / width
    return np.stack(channels, axis=-1).astype(np.uint8)


def write(path: Path, pixels: np.ndarray, options: list[int]) -> None:
    path.parent.mkdir(exist_ok=True)
    if not cv2.imwrite(str(path), pixels, options):
        raise SystemExit(f"cannot write {path}")
    print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) == 2 else "")
