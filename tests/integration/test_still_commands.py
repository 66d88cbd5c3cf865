"""``streamseg segment`` and ``streamseg classify`` on real pictures, with real model processes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import cv2
import numpy as np
import PIL.Image
import pytest
from pycocotools import mask as coco
from pycocotools.coco import COCO

from tests.support.command import Command, one_line
from tests.support.servers import serve_folder

pytestmark = pytest.mark.integration

SAMPLE = Path(__file__).parents[1] / "media" / "sample.mp4"
SUBJECT, CORNER = (slice(150, 170), slice(300, 330)), (slice(0, 40), slice(0, 40))


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    with av.open(str(SAMPLE)) as container:
        return [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]


@pytest.fixture
def folder(tmp_path: Path, frames: list[np.ndarray]) -> Path:
    """Two pictures, one of them in a folder within, and a file that is no picture."""
    made = tmp_path / "in"
    (made / "more").mkdir(parents=True)
    cv2.imwrite(str(made / "a.png"), frames[10])
    cv2.imwrite(str(made / "more" / "b.jpg"), frames[40])
    (made / "notes.txt").write_text("not looked at")
    return made


def test_segment_writes_the_mask_of_a_picture(streamseg: Command, folder: Path) -> None:
    result = streamseg("segment", folder / "a.png")

    assert result.code == 0, result.err
    assert result.out.strip() == str(folder / "a_mask.png")
    mask = cv2.imread(str(folder / "a_mask.png"), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (360, 640)
    assert mask[CORNER].max() < 30
    assert mask[SUBJECT].min() > 225
    one_line(streamseg("segment", folder / "a.png"), 1, "exists", "--overwrite")
    assert streamseg("segment", folder / "a.png", "--overwrite").code == 0


def test_a_bad_picture_does_not_stop_the_rest(
    streamseg: Command, folder: Path, tmp_path: Path
) -> None:
    (folder / "aa.png").write_bytes(b"no picture at all")
    (folder / "empty.jpg").touch()

    for form, ending in (("png", "_blur.png"), ("json", "_masks.json")):
        effect = ("--effect", "blur") if form == "png" else ()
        result = streamseg(
            "segment", folder, "missing.png", "-o", tmp_path / form, "--format", form, *effect
        )

        assert result.code == 1
        lines = result.err.strip().splitlines()
        assert len(lines) == 3, result.err
        for name in ("aa.png", "empty.jpg", "missing.png"):
            assert sum(name in line for line in lines) == 1, result.err
        written = sorted(path for path in (tmp_path / form).rglob("*") if path.is_file())
        assert written == [tmp_path / form / f"a{ending}", tmp_path / form / f"more/b{ending}"]
        assert result.out.splitlines() == [str(path) for path in written]


# pycocotools gives numpy 2 an object that it deprecates
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_formats_agree_with_each_other(streamseg: Command, folder: Path, tmp_path: Path) -> None:
    out, classes = tmp_path / "out", ("--classes", "selfie")
    for form in ("npz", "json", "coco"):
        target = tmp_path / "all.json" if form == "coco" else out
        result = streamseg("segment", folder, "-o", target, "--format", form, *classes)
        assert result.code == 0, result.err
    arrays = np.load(out / "a_masks.npz")
    assert arrays["ARGMAX"].dtype == np.int32
    inside = arrays["ARGMAX"] == 0
    # One was enlarged by the nearest value, the other one smoothly.
    assert np.mean(inside == (arrays["SELFIE"] > 0.5)) > 0.98
    assert inside[SUBJECT].all()
    assert not inside[CORNER].any()

    record = json.loads((out / "a_masks.json").read_text())
    assert record["size"] == [360, 640]
    (found,) = record["found"]
    assert found["label"] == "SELFIE"
    assert found["pixels"] == inside.sum()
    assert found["score"] == pytest.approx(arrays["SELFIE"][inside].mean(), abs=1e-4)
    assert np.array_equal(coco.decode(found["mask"]).astype(bool), inside)
    x, y, width, height = map(int, found["bbox"])
    assert inside[y : y + height, x : x + width].sum() == inside.sum()

    annotations = COCO(tmp_path / "all.json")
    assert [image["file_name"] for image in annotations.imgs.values()] == [
        str(folder / "a.png"),
        str(folder / "more" / "b.jpg"),
    ]
    (annotation,) = annotations.loadAnns(annotations.getAnnIds(imgIds=[1]))
    assert np.array_equal(annotations.annToMask(annotation).astype(bool), inside)
    assert annotations.loadCats(annotation["category_id"])[0]["name"] == "SELFIE"
    assert annotation["area"] == inside.sum()


def test_all_classes_as_a_picture_of_indices(
    streamseg: Command, folder: Path, models: Path, tmp_path: Path
) -> None:
    arguments = ("segment", folder / "a.png", "--model", models / "classes.pte", "--classes", "all")
    result = streamseg(*arguments, "-o", tmp_path / "index.png")
    assert result.code == 0, result.err
    assert streamseg(*arguments, "-o", tmp_path / "arrays.npz", "--format", "npz").code == 0

    image = PIL.Image.open(tmp_path / "index.png")
    arrays = np.load(tmp_path / "arrays.npz")
    assert image.mode == "P"
    assert np.array_equal(np.asarray(image), arrays["ARGMAX"])
    colours = {tuple(image.getpalette()[3 * index : 3 * index + 3]) for index in range(3)}
    assert len(colours) == 3
    assert [name for name in arrays if name.startswith("CLASS")] == [
        "CLASS_0",
        "CLASS_1",
        "CLASS_2",
    ]


def test_a_folder_that_is_segmented_again_has_the_same_results(
    streamseg: Command, folder: Path
) -> None:
    assert streamseg("segment", folder).code == 0
    pictures = sorted(folder.rglob("*"))

    result = streamseg("segment", folder, "--overwrite")

    assert result.code == 0, result.err
    assert "2 earlier results were left out" in result.err
    assert result.out.splitlines() == [
        str(folder / "a_mask.png"),
        str(folder / "more" / "b_mask.png"),
    ]
    assert sorted(folder.rglob("*")) == pictures


def test_a_picture_on_a_server_has_its_result_here(
    streamseg: Command, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    with serve_folder(folder) as url:
        secret = url.replace("://", "://me:hunter2@")
        names = (f"{secret}/a.png?token=hunter2", f"{secret}/none.png", f"{secret}/notes.txt")
        result = streamseg("segment", *names, "--json")
    assert result.code == 1
    shown = url.replace("://", "://***@")
    assert result.json["results"] == {f"{shown}/a.png?token=***": "a_mask.png"}
    assert list(result.json["failed"]) == [f"{shown}/none.png", f"{shown}/notes.txt"]
    assert "answered 404" in result.json["failed"][f"{shown}/none.png"]
    assert "hunter2" not in result.out + result.err
    mask = cv2.imread(str(tmp_path / "a_mask.png"), cv2.IMREAD_UNCHANGED)
    assert mask[SUBJECT].min() > 225


def test_ctrl_c_ends_a_large_file_at_once(folder: Path, models: Path, tmp_path: Path) -> None:
    # All colours, coarse: probabilities that change smoothly are what takes longest to write.
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    picture, out = tmp_path / "large.bmp", tmp_path / "out"
    PIL.Image.fromarray(noise).resize((4000, 3000), PIL.Image.Resampling.NEAREST).save(picture)
    out.mkdir()
    command = ["segment", picture, "-o", out, "--format", "npz", "--classes", "all"]
    process = subprocess.Popen(
        [sys.executable, "-m", "streamseg", *command, "--model", models / "classes.pte"],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while process.poll() is None and not any(
            path.stat().st_size > 1 << 20 for path in out.iterdir()
        ):
            time.sleep(0.01)
        assert process.poll() is None, process.stderr
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        took_s = time.monotonic() - started
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert said.strip() == "streamseg: interrupted"
    assert list(out.iterdir()) == []
    assert took_s < 2


def test_patterns_and_repeated_names_give_each_picture_once(
    streamseg: Command, folder: Path, tmp_path: Path
) -> None:
    names = (folder / "*.png", folder / "a.png", folder)
    result = streamseg("segment", *names, "-o", tmp_path / "out", "--json")

    assert result.code == 0, result.err
    assert result.json["results"] == {
        str(folder / "a.png"): str(tmp_path / "out" / "a_mask.png"),
        str(folder / "more" / "b.jpg"): str(tmp_path / "out" / "more" / "b_mask.png"),
    }


def test_names_that_differ_in_their_suffix_have_it_in_their_results(
    streamseg: Command, folder: Path, tmp_path: Path
) -> None:
    (folder / "more" / "b.png").write_bytes((folder / "a.png").read_bytes())

    result = streamseg("segment", folder, "-o", tmp_path / "out")

    assert result.code == 0, result.err
    written = {path.relative_to(tmp_path / "out") for path in tmp_path.rglob("out/**/*.png")}
    assert written == {Path("a_mask.png"), Path("more/b_jpg_mask.png"), Path("more/b_png_mask.png")}


def test_an_effect_reads_pictures_of_every_kind(
    streamseg: Command, tmp_path: Path, frames: list[np.ndarray]
) -> None:
    """What there is besides plain RGB: none of it may change what is seen, or the result's name."""
    plain = PIL.Image.fromarray(np.ascontiguousarray(frames[10][:, :, ::-1]))
    made = tmp_path / "in"
    made.mkdir()
    plain.save(made / "plain.png")
    turned = PIL.Image.Exif()
    turned[0x0112] = 6  # shown a quarter turn clockwise
    plain.rotate(90, expand=True).save(made / "turned.jpg", exif=turned, quality=95)
    # This one plays with the first picture held: what comes later must not be looked at.
    black = PIL.Image.new("RGB", plain.size)
    plain.save(made / "moving.webp", save_all=True, append_images=[black], lossless=True)
    plain.save(made / "moving.png", save_all=True, append_images=[black])
    plain.convert("CMYK").save(made / "printed.jpg", quality=95)
    cv2.imwrite(str(made / "deep.png"), frames[10].astype(np.uint16) * 257)
    plain.save(made / "100 %d sure.png")
    veil = plain.copy()
    veil.putalpha(PIL.Image.linear_gradient("L").resize(plain.size))
    veil.save(made / "veil.png")

    result = streamseg("segment", made, "-o", tmp_path / "out", "--effect", "cutout")

    assert result.code == 0, result.err
    out = {path.name: np.asarray(PIL.Image.open(path)) for path in (tmp_path / "out").iterdir()}
    assert sorted(out) == [
        "100 %d sure_cutout.png",
        "deep_cutout.png",
        "moving_png_cutout.png",
        "moving_webp_cutout.png",
        "plain_cutout.png",
        "printed_cutout.png",
        "turned_cutout.png",
        "veil_cutout.png",
    ]
    whole = out["plain_cutout.png"]
    assert whole.shape == (360, 640, 4)
    assert np.abs(whole[SUBJECT][..., :3].astype(int) - np.asarray(plain)[SUBJECT]).max() <= 3
    assert whole[SUBJECT][..., 3].min() > 225
    assert whole[CORNER][..., 3].max() < 30
    for name, image in out.items():
        assert image.shape == whole.shape, name
        lossy = name.startswith(("turned", "printed"))
        difference = np.abs(image[SUBJECT].astype(int) - whole[SUBJECT])[..., :3]
        assert difference.mean() < (6 if lossy else 0.01), name
    ramp = np.asarray(veil)[SUBJECT][..., 3].astype(int)
    assert np.abs(out["veil_cutout.png"][SUBJECT][..., 3] - ramp).max() < 30


def test_a_picture_is_never_replaced_by_its_own_result(streamseg: Command, folder: Path) -> None:
    before = (folder / "a.png").read_bytes()
    for form in ("png", "json", "npz", "coco"):
        # What a picture's name ends with says nothing of it.
        picture = folder / f"a.{'json' if form == 'coco' else form}"
        picture.write_bytes(before)
        result = streamseg("segment", picture, "-o", picture, "--overwrite", "--format", form)
        assert result.code != 0
        assert "is being read" in result.err
        assert picture.read_bytes() == before
    # Nor by that of another one, which is read before or after it.
    other = folder / "a_mask.png"
    other.write_bytes(before)
    result = streamseg("segment", folder / "a.png", other, "--overwrite")
    assert result.code == 1
    assert "a_mask.png: it is a file that is being read" in result.err
    assert other.read_bytes() == before
    assert list(folder.glob(".*")) == []


def test_few_letters_are_no_picture(tmp_path: Path) -> None:
    """In a process of its own: which decoders are loaded must not matter."""
    (tmp_path / "bad.png").write_text("bad")
    done = subprocess.run(
        [sys.executable, "-m", "streamseg", "segment", "bad.png", "--format", "json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("streamseg: bad.png: is no picture that can be read")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.png"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nothing.png",), ("nothing.png", "no such picture")),
        (("{folder}/a.png", "--classes", "selfy"), ("selfy", "did you mean 'SELFIE'")),
        (("{folder}/a.png", "--classes", "all,selfie"), ("--classes",)),
        (("{folder}/a.png", "--format", "json", "--effect", "blur"), ("--format json", "--effect")),
        (
            ("{folder}/a.png", "--format", "npz", "--threshold", "0", "--no-refine"),
            ("--threshold, --refine would do nothing", "--format npz"),
        ),
        (
            ("{folder}/a.png", "--format", "coco", "--subject", "--legend", "--background", "red"),
            ("--subject", "--legend", "--background"),
        ),
        (
            ("{folder}/a.png", "--classes", "all", "--effect", "tint"),
            ("--effect would do nothing", "--classes all"),
        ),
        (("{folder}/a.png", "--legend"), ("'mask' has no option 'legend'",)),
        (("{folder}/a.png", "-o", "{folder}/b.png", "--format", "json"), ("b.png", ".json")),
        (("{folder}/a.png", "-o", "{folder}/b.npz", "--format", "coco"), ("b.npz", ".json")),
        (("ftp://me:hunter2@a.org/a.png",), ("ftp://***@a.org/a.png", "http")),
        (("{folder}/a.png", "--model", "selfy"), ("selfy", "selfie")),
        (("{folder}/a.png", "{folder}/more/a.png", "-o", "{folder}/out"), ("both",)),
        (("{folder}/a.png", "--format", "json", "--classes", "selfy"), ("selfy", "SELFIE")),
        (("{folder}/a.png", "-o", "{folder}/a.svg"), ("a.svg", ".png, .jpg")),
        (("{folder}/a.png", "-o", "{folder}/x.jpg", "--classes", "all"), ("x.jpg", ".png")),
        (("~nobody-here/a.png",), ("~nobody-here/a.png", "no such picture")),
        (("{folder}/a.png", "--model", "~nobody-here/a.pte"), ("~nobody-here/a.pte",)),
        (
            ("{folder}/a.png", "--model", "{folder}/notes.tflite"),
            ("notes.tflite", "check the path"),
        ),
        (("{folder}/*.png", "-o", "{folder}/notes.txt/x"), ("notes.txt", "folder")),
    ],
)
def test_what_cannot_be_is_one_line(
    streamseg: Command, folder: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    (folder / "more" / "a.png").write_bytes((folder / "a.png").read_bytes())
    before = sorted(folder.rglob("*"))

    result = streamseg("segment", *(argument.format(folder=folder) for argument in arguments))

    one_line(result, 2, *words)
    assert sorted(folder.rglob("*")) == before


def test_a_model_of_another_task_is_one_line(
    streamseg: Command, folder: Path, models: Path
) -> None:
    one_line(streamseg("classify", folder, "--model", "selfie"), 2, "selfie", "classification")
    program = folder / "classifier.pte"
    program.write_bytes((models / "classifier.pte").read_bytes())
    program.with_suffix(".toml").write_text('name = "mine"\ntask = "classification"\n')
    for form in ("png", "json"):
        result = streamseg("segment", folder / "a.png", "--model", program, "--format", form)
        one_line(result, 2, "mine", "classif")


@pytest.mark.parametrize("command", ["classify", "segment"])
def test_what_is_no_number_is_not_printed(
    streamseg: Command, folder: Path, models: Path, command: str
) -> None:
    task = "classification" if command == "classify" else "semantic-segmentation"
    name = "classifier" if command == "classify" else "classes"
    program = folder / "wild.pte"
    program.write_bytes((models / f"{name}.pte").read_bytes())
    program.with_suffix(".toml").write_text(
        f'name = "wild"\ntask = "{task}"\nstd = [1e-39, 1e-39, 1e-39]\n'  # overflows
    )
    options = () if command == "classify" else ("--format", "json", "--classes", "all")
    result = streamseg(command, folder / "a.png", "--model", program, "--json", *options)

    assert result.code == 1
    assert result.json["results"] == {}
    (reason,) = result.json["failed"].values()
    assert "number" in reason or "finite" in reason
    assert "NaN" not in result.out
    assert not list(folder.glob("*_masks.json"))


def test_outlines_and_a_legend_are_drawn(
    streamseg: Command, folder: Path, tmp_path: Path, frames: list[np.ndarray]
) -> None:
    for name, options in {"plain": (), "full": ("--contours", "3", "--legend")}.items():
        target = tmp_path / f"{name}.png"
        result = streamseg(
            "segment", folder / "a.png", "-o", target, "-e", "tint", "--strength", "0", *options
        )
        assert result.code == 0, result.err
    plain, full = (cv2.imread(str(tmp_path / f"{name}.png")) for name in ("plain", "full"))
    changed = np.abs(full.astype(int) - plain).max(axis=2) > 20
    assert changed[-60:, :160].any()  # the legend is in this corner
    assert not changed[CORNER].any()
    assert not changed[SUBJECT].any()
    assert 0.002 < changed.mean() < 0.2


def test_classify_prints_the_best_labels(streamseg: Command, folder: Path, models: Path) -> None:
    program = folder / "classifier.pte"
    program.write_bytes((models / "classifier.pte").read_bytes())
    program.with_suffix(".toml").write_text(
        'name = "mine"\ntask = "classification"\nlabels = ["A", "B", "C"]\n'
    )
    result = streamseg("classify", folder, "--model", program, "--top", "2", "--json")

    assert result.code == 0, result.err
    assert list(result.json["results"]) == [str(folder / "a.png"), str(folder / "more" / "b.jpg")]
    for labels in result.json["results"].values():
        assert len(labels) == 2
        assert labels[0][1] >= labels[1][1] > 0
    shown = streamseg("classify", folder / "a.png", "--model", program, "--top", "1")
    name, best = shown.out.splitlines()
    assert name == str(folder / "a.png")
    assert best.split()[2] == result.json["results"][name][0][0]
