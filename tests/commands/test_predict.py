"""``edgekit predict`` labels pictures through the bundle's recorded preprocessing."""

from __future__ import annotations

import csv
import io
import os
import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from edgekit.bundle.folder import open_bundle, write_bundle
from edgekit.bundle.manifest import Manifest
from edgekit.commands.export import export
from edgekit.commands.predict import predict
from edgekit.errors import BundleError, DataError
from edgekit.model import guesses, softmax
from edgekit.preprocess import pixels_of
from edgekit.progress import SILENT, Advance
from edgekit.reports.predict import Guess, Prediction, PredictReport
from edgekit.sources import ExportOptions
from tests.command_line import Command
from tests.ways import way


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (28, 28), mode: str = "L") -> Path:
    """Write a picture of noise with a bright band."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 200, (*size[::-1], 3), np.uint8)
    pixels[: size[1] // 3, :, seed % 3] = 250
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def by_hand(bundle: Path, path: Path) -> np.ndarray:
    """Probabilities without any of edgekit's prediction code: decode, scale, run, softmax."""
    described = open_bundle(bundle).manifest.preprocess
    assert described is not None
    with Image.open(path) as image:
        pixels = pixels_of(image, "grey", (28, 28)).astype(np.float64)
    x = (pixels / 255 - described.mean[0]) / described.std[0]
    session = onnxruntime.InferenceSession(bundle / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"input": x[None].astype(np.float32)})
    powers = np.exp(logits[0].astype(np.float64))
    shares: np.ndarray = powers / powers.sum()
    return shares


def reseal(root: Path, **changes: object) -> Manifest:
    opened = open_bundle(root)
    manifest = msgspec.structs.replace(opened.manifest, **changes)
    write_bundle(root, manifest, {name: (root / name).read_bytes() for name in opened.manifest.files})
    return manifest


@pytest.mark.parametrize(
    ("name", "size", "mode"),
    [("a.png", (28, 28), "L"), ("b.png", (28, 28), "RGB"), ("c.png", (90, 50), "RGB"), ("d.bmp", (7, 9), "L")],
)
def test_probabilities_are_those_of_the_recorded_preprocessing(
    bundle: Path, tmp_path: Path, name: str, size: tuple[int, int], mode: str
) -> None:
    path = picture(tmp_path / name, 3, size, mode)
    (prediction,) = predict(bundle, [path], top=10).predictions
    expected = by_hand(bundle, path)
    assert [guess.label for guess in prediction.guesses] == [f"class {index}" for index in np.argsort(-expected)]
    np.testing.assert_allclose([guess.probability for guess in prediction.guesses], np.sort(expected)[::-1], rtol=1e-4)
    assert sum(guess.probability for guess in prediction.guesses) == pytest.approx(1, abs=1e-12)


def test_other_preprocessing_in_the_manifest_gives_other_probabilities(bundle: Path, tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    before = predict(bundle, [path], top=10)
    described = open_bundle(bundle).manifest.preprocess
    assert described is not None
    reseal(bundle, preprocess=msgspec.structs.replace(described, mean=(0.9,)))
    after = predict(bundle, [path], top=10)
    first, second = ({guess.label: guess.probability for guess in report.predictions[0].guesses} for report in (before, after))
    assert max(abs(first[label] - second[label]) for label in first) > 1e-5
    np.testing.assert_allclose(sorted(second.values()), np.sort(by_hand(bundle, path)), rtol=1e-4)


def test_several_pictures_are_labelled_each_as_if_alone(bundle: Path, tmp_path: Path) -> None:
    paths = [picture(tmp_path / f"{seed}.png", seed) for seed in range(3)]
    together = predict(bundle, paths, top=2)
    assert [prediction.image for prediction in together.predictions] == list(map(str, paths))
    alone = [prediction for path in paths for prediction in predict(bundle, [path], top=2).predictions]
    assert alone == list(together.predictions)
    assert len({prediction.guesses for prediction in together.predictions}) == 3
    assert PredictReport.from_json(together.to_json()) == together


@pytest.mark.parametrize(("top", "shown"), [(1, 1), (3, 3), (10, 10), (99, 10)])
def test_as_many_labels_are_shown_as_asked_for_and_exist(bundle: Path, tmp_path: Path, top: int, shown: int) -> None:
    (prediction,) = predict(bundle, [picture(tmp_path / "a.png")], top=top).predictions
    assert len(prediction.guesses) == shown


def test_torch_and_onnxruntime_label_alike(bundle: Path, tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    reports = [predict(bundle, [path], way(kind), top=10) for kind in ("torch", "ort-cpu")]
    assert [report.backend for report in reports] == ["torch", "ort-cpu"]
    torch_side, file_side = ({guess.label: guess.probability for guess in report.predictions[0].guesses} for report in reports)
    assert torch_side == pytest.approx(file_side, rel=1e-4)


@pytest.mark.parametrize(("name", "format"), [("a.gif", "GIF"), ("a.png", "PNG"), ("a.webp", "WEBP")])
def test_of_an_animation_the_first_frame_is_labelled_and_a_note_says_so(
    run: Command, bundle: Path, tmp_path: Path, name: str, format: str
) -> None:
    frames = [Image.new("L", (28, 28), value) for value in (10, 200)]
    frames[0].save(tmp_path / name, format, save_all=True, append_images=frames[1:])
    still = picture(tmp_path / "still.png")
    note = f"1 picture with several frames, like {tmp_path / name}: the first one alone counts"
    result = run("predict", bundle, still, tmp_path / name, "--json")
    assert result.document["notes"] == [note]
    for said in (result, run("predict", bundle, still, tmp_path / name)):
        assert " ".join(said.err.split()) == f"note: {note}"
    assert run("predict", bundle, still, "--json").document["notes"] == []


def test_softmax_holds_for_large_logits() -> None:
    ranked = guesses(softmax(np.array([1000, 1001, -1000], np.float32)), ("a", "b", "c"), 3)
    assert [guess.label for guess in ranked] == ["b", "a", "c"]
    assert [guess.probability for guess in ranked] == pytest.approx([1 / (1 + np.exp(-1)), 1 / (1 + np.e), 0])


@pytest.mark.parametrize("damage", ["text", "truncated", "empty"])
def test_a_file_that_is_no_picture_fails_in_its_row_and_the_others_are_labelled(
    bundle: Path, tmp_path: Path, damage: str
) -> None:
    good, bad = picture(tmp_path / "good.png", size=(60, 60)), tmp_path / "bad.png"
    content = {"text": b"not a picture", "truncated": good.read_bytes()[:-900], "empty": b""}
    bad.write_bytes(content[damage])
    report = predict(bundle, [bad, good])
    failed, labelled = report.predictions
    assert failed.guesses == ()
    assert "bad.png" in failed.problem
    assert "\n" not in failed.problem
    assert predict(bundle, [good]).predictions == (labelled,)
    assert not report.passed
    assert PredictReport.from_json(report.to_json()) == report


def test_a_picture_that_memory_is_not_enough_for_fails_in_its_row(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [picture(tmp_path / name) for name in ("huge.png", "good.png")]
    opened = Image.open

    huge = paths[0].stat().st_ino

    def limited(stream: Any, **options: Any) -> Image.Image:
        if os.fstat(stream.fileno()).st_ino == huge:
            raise MemoryError
        return opened(stream, **options)

    monkeypatch.setattr(Image, "open", limited)
    failed, labelled = predict(bundle, paths).predictions
    assert "huge.png needs more memory than there is" in failed.problem
    assert labelled.guesses


@pytest.mark.parametrize("image", ["missing.png", "empty", "*.jpg"])
def test_a_path_without_a_picture_is_refused_before_anything_runs(bundle: Path, tmp_path: Path, image: str) -> None:
    (tmp_path / "empty").mkdir()
    for images in ([tmp_path / image], [tmp_path / "gone.png", tmp_path / image]):
        with pytest.raises(DataError, match=re.escape(images[0].name)):
            predict(bundle, images)


@pytest.mark.parametrize(
    ("image", "problem"), [("missing.png", "does not exist"), ("empty", "has no pictures"), ("*.jpg", "has no pictures")]
)
def test_a_path_without_a_picture_fails_in_its_row_and_the_others_are_labelled(
    bundle: Path, tmp_path: Path, image: str, problem: str
) -> None:
    (tmp_path / "empty").mkdir()
    good = picture(tmp_path / "good.png")
    failed, labelled = predict(bundle, [tmp_path / image, good]).predictions
    assert (failed.image, failed.guesses) == (str(tmp_path / image), ())
    assert problem in failed.problem
    assert predict(bundle, good).predictions == (labelled,)


def test_what_is_left_out_of_a_folder_is_said(bundle: Path, tmp_path: Path) -> None:
    class Said:
        lines: tuple[str, ...] = ()

        def task(self, title: str, total: int) -> AbstractContextManager[Advance]:
            return SILENT.task(title, total)

        def say(self, line: str) -> None:
            self.lines += (line,)

    photos = tmp_path / "photos"
    photos.mkdir()
    picture(photos / "a.png")
    (photos / "b.heic").write_bytes(b"")
    (photos / "c.png").symlink_to(tmp_path / "nowhere.png")
    said = Said()
    report = predict(bundle, photos, progress=said)
    assert report.passed
    assert [(row.count, row.example) for row in report.left_out] == [(1, "c.png"), (1, "b.heic")]
    assert PredictReport.from_json(report.to_json()) == report
    assert said.lines == (
        "left out: 1 x a link to nothing, like c.png",
        "left out: 1 x no picture format that is read: .heic, like b.heic",
    )


def test_folders_and_patterns_stand_for_the_pictures_in_them(bundle: Path, tmp_path: Path) -> None:
    shoes = tmp_path / "shoes" / "left"
    shoes.mkdir(parents=True)
    paths = [picture(tmp_path / "a.png", 1), picture(shoes / "b.png", 2), picture(shoes.parent / "c.png", 3)]
    (shoes / "notes.txt").write_text("no picture")
    below = predict(bundle, [tmp_path / "shoes"])
    assert {Path(prediction.image) for prediction in below.predictions} == set(paths[1:])
    for pattern in (tmp_path / "sh*", tmp_path / "shoes" / "**" / "*"):
        assert predict(bundle, [pattern]).predictions == below.predictions
    matched = predict(bundle, [str(tmp_path / "**" / "*.png"), paths[0]])
    assert sorted(prediction.image for prediction in matched.predictions) == sorted(map(str, paths))


def test_a_name_with_brackets_is_a_file_where_there_is_one(bundle: Path, tmp_path: Path) -> None:
    path = picture(tmp_path / "boot [1].png")
    assert [prediction.image for prediction in predict(bundle, path).predictions] == [str(path)]


class Ensemble(torch.nn.Module):
    """The mean of two softmaxes: no Softmax is the last operator."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (torch.softmax(x, 1) + torch.softmax(-2 * x, 1)) / 2


class TwoSided(torch.nn.Module):
    """A binary classifier's score beside its complement, behind a third that never is."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = torch.sigmoid(x[:, :1])
        return torch.cat([1 - score, score, torch.zeros_like(score)], 1)


class ByHand(torch.nn.Module):
    """A softmax that is written out."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        powers = torch.exp(x - x.amax(1, keepdim=True))
        return powers / powers.sum(1, keepdim=True)


OWN, SCORES = "the model's own probabilities", "the model's own scores"


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (torch.nn.Softmax(1), OWN),
        (torch.nn.Sequential(torch.nn.Softmax(1), torch.nn.Identity()), OWN),
        (Ensemble(), OWN),
        (TwoSided(), OWN),
        (ByHand(), OWN),
        (torch.nn.Sigmoid(), SCORES),
        (torch.nn.Hardsigmoid(), SCORES),
        (torch.nn.ReLU(), None),
        (torch.nn.Identity(), None),
        (torch.nn.LogSoftmax(1), None),
    ],
)
def test_a_model_that_gives_probabilities_itself_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layer: torch.nn.Module, expected: str | None
) -> None:
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3), layer)
    monkeypatch.setattr("tests.networks.last_layer", lambda: module, raising=False)
    labels = tmp_path / "labels.txt"
    labels.write_text("a\nb\nc\n")
    options = ExportOptions(input_shapes=("1x3x4x4",), mean=(0.5,) * 3, std=(0.5,) * 3, labels=labels)
    export("tests.networks:last_layer", tmp_path / "bundle", options)
    path = picture(tmp_path / "a.png", size=(4, 4), mode="RGB")
    report = predict(tmp_path / "bundle", path)
    with Image.open(path) as image:
        x = (pixels_of(image, "rgb", (4, 4)).astype(np.float32) / 255 - 0.5) / 0.5
    with torch.inference_mode():
        outputs = module(torch.from_numpy(x[None]))[0].double()
    values = outputs if expected else torch.softmax(outputs, 0)
    assert report.probabilities == (expected or "softmax of the output")
    probabilities = [guess.probability for guess in report.predictions[0].guesses]
    np.testing.assert_allclose(probabilities, values.sort(descending=True).values, rtol=1e-5)


def test_outputs_that_are_not_finite_fail_in_their_row(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def infinite(pixels: np.ndarray) -> np.ndarray:
        return np.full(pixels.shape, np.inf, np.float32)

    monkeypatch.setattr("edgekit.preprocess.Preprocess.normalise", lambda self, pixels: infinite(pixels))
    (prediction,) = predict(bundle, picture(tmp_path / "a.png")).predictions
    assert "not finite" in prediction.problem
    assert prediction.guesses == ()


def test_csv_has_a_row_for_each_label_and_each_problem(bundle: Path, tmp_path: Path) -> None:
    good, bad = picture(tmp_path / "good, really.png"), tmp_path / "bad.png"
    bad.write_bytes(b"")
    report = predict(bundle, [good, bad], top=2)
    rows = list(csv.DictReader(io.StringIO(report.to_csv())))
    assert [(row["picture"], row["rank"]) for row in rows] == [(str(good), "1"), (str(good), "2"), (str(bad), "")]
    written = [Guess(row["label"], float(row["probability"])) for row in rows[:2]]
    assert tuple(written) == report.predictions[0].guesses
    assert rows[2]["problem"] == report.predictions[1].problem


def test_jsonl_has_a_line_for_each_picture(bundle: Path, tmp_path: Path) -> None:
    report = predict(bundle, [picture(tmp_path / f"{seed}.png", seed) for seed in range(3)])
    lines = report.to_jsonl().splitlines()
    assert tuple(msgspec.json.decode(line, type=Prediction) for line in lines) == report.predictions


@pytest.mark.parametrize("lacking", ["preprocess", "labels"])
def test_a_bundle_that_records_too_little_says_how_to_export_it(bundle: Path, tmp_path: Path, lacking: str) -> None:
    reseal(bundle, **{lacking: None if lacking == "preprocess" else ()})
    with pytest.raises(BundleError, match=r"export it with --mean, --std and --labels"):
        predict(bundle, [picture(tmp_path / "a.png")])


def test_labels_that_do_not_fit_the_output_are_refused(bundle: Path, tmp_path: Path) -> None:
    reseal(bundle, labels=("cat", "dog"))
    with pytest.raises(BundleError, match=r"2 label\(s\) for an output of \(10,\)"):
        predict(bundle, [picture(tmp_path / "a.png")])


def test_a_name_in_two_spellings_of_unicode_is_one_picture_where_it_is_one_file(bundle: Path, tmp_path: Path) -> None:
    composed, decomposed = tmp_path / "caf\u00e9.png", tmp_path / "cafe\u0301.png"
    picture(composed, 1)
    if not decomposed.exists():
        decomposed.hardlink_to(composed)  # a file system that takes the two for one name
    assert [row.image for row in predict(bundle, [composed, decomposed, composed]).predictions] == [str(composed)]
    decomposed.unlink()
    picture(decomposed, 2)
    assert [row.image for row in predict(bundle, tmp_path).predictions] == [str(decomposed), str(composed)]


def test_a_picture_whose_name_is_no_text_is_labelled_and_every_form_is_text(bundle: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    os.rename(picture(tmp_path / "a.png"), os.fsencode(photos) + b"/caf\xe9.png")
    for images in (photos, photos / "*.png", next(photos.iterdir())):
        report = predict(bundle, images)
        assert report.passed
        assert len(report.predictions) == 1
        for text in (report.to_json(), report.to_jsonl(), report.to_csv().encode()):
            assert "caf" in text.decode()
