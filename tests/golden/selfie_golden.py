"""The golden selfie masks: which pictures there are, and how a mask is compared with one.

Used by the tests, by `make_selfie_golden.py` (in MediaPipe's own environment, so only numpy,
OpenCV and, for clips, PyAV are imported here) and by `scripts/build_models`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

FOLDER = Path(__file__).parent / "selfie"
# Card name -> MediaPipe's `model_selection`.
MODELS = {"selfie_general": 0, "selfie_landscape": 1}
MIN_IOU = 0.99
MAX_MEAN_DIFFERENCE = 0.01


@dataclass(frozen=True)
class Case:
    """One picture: a file of this folder, or of the assets, or one frame of a clip there."""

    name: str
    asset: str | None = None
    frame: int | None = None


CASES = (
    Case("astronaut"),
    Case("astronaut_wide"),
    Case("astronaut_small"),
    Case("astronaut_dark_tall"),
    Case("astronaut_large"),
    Case("astronaut_twice"),
    Case("nobody"),
    Case("grace_hopper", "media/grace_hopper.jpg"),
    Case("three_people", "media/three_people.jpg"),
    Case("skateboarder", "media/03_skateboarder.mp4", 20),
    Case("juggle", "media/05_default_juggle.mp4", 80),
    Case("pingpong", "media/06_pingpong.mp4", 60),
)


def read_picture(case: Case, assets: Path | None) -> np.ndarray:
    """Return the picture as uint8 RGB [H, W, 3]."""
    if case.asset is None:
        path = FOLDER / f"{case.name}.jpg"
    else:
        assert assets is not None
        path = assets / case.asset
    if case.frame is not None:
        return _read_frame(path, case.frame)
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert picture is not None, f"no picture in {path}"
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def _read_frame(path: Path, index: int) -> np.ndarray:
    import av
    from av.video.reformatter import Interpolation

    with av.open(str(path)) as container:
        for i, frame in enumerate(container.decode(video=0)):
            if i == index:
                # Without a change of size swscale's fast converter runs: no filter at all.
                return frame.to_ndarray(format="rgb24", interpolation=Interpolation.POINT)
    raise AssertionError(f"{path} has no frame {index}")


def sample(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the model's input, float32 [1, 3, height, width] in [0, 1].

    MediaPipe on a CPU samples at `i * size / model_size` (pixel corners, not centres) by
    plain bilinear interpolation, without a low-pass filter.
    Source: its `ImageToTensorCalculator`, which maps the picture's corners (0, 0) and (W, H)
    to (0, 0) and (width, height) and calls OpenCV's `warpPerspective`.
    """
    scale = np.array([[picture.shape[1] / width, 0, 0], [0, picture.shape[0] / height, 0]])
    small = cv2.warpAffine(
        picture, scale, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )
    chw = small.transpose(2, 0, 1)[None]
    return np.ascontiguousarray(chw, dtype=np.float32) / np.float32(255)


def read_golden(case: Case, model: str) -> np.ndarray:
    """Return MediaPipe's mask, float32 [H, W] in [0, 1] in steps of 1/255."""
    mask = cv2.imread(str(golden_path(case, model)), cv2.IMREAD_GRAYSCALE)
    assert mask is not None, f"no mask in {golden_path(case, model)}"
    return mask.astype(np.float32) / np.float32(255)


def golden_path(case: Case, model: str) -> Path:
    """Return where the mask of a picture by a model is kept."""
    return FOLDER / f"{case.name}.{model}.png"


def compare(mask: np.ndarray, golden: np.ndarray) -> tuple[float, float]:
    """Return (IoU at 0.5, mean absolute difference) after resizing to the golden's size.

    Args:
        mask: float32 [h, w] at model size.
        golden: float32 [H, W].
    """
    size: Any = (golden.shape[1], golden.shape[0])
    # MediaPipe brings its masks to the picture's size with OpenCV's default, pixel centres.
    full = cv2.resize(mask, size, interpolation=cv2.INTER_LINEAR)
    ours, theirs = full > 0.5, golden > 0.5
    union = int((ours | theirs).sum())
    iou = int((ours & theirs).sum()) / union if union else 1.0
    return iou, float(np.abs(full - golden).mean())
