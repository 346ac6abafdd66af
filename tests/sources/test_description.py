"""Labels and preprocessing of an ONNX file: from the command line, or the file's own metadata."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import onnx
import pytest
from PIL import Image

from edgekit.bundle.folder import open_bundle
from edgekit.preprocess import Preprocess
from edgekit.sources.labels import label_list
from tests.command_line import Command
from tests.onnx.crafted import conv, model_of, node, norm, statistics, tensor


def classifier(**metadata: str) -> onnx.ModelProto:
    """A file that gives six numbers for a colour picture of 8 x 8."""
    nodes = [conv(), norm("c", "n"), node("GlobalAveragePool", ["n"], "p"), node("Flatten", ["p"], "y")]
    model = model_of(nodes, [tensor("w", 6, 3, 3, 3), *statistics("bn", 6)], shape=("N", 3, 8, 8), rank=2)
    for key, value in metadata.items():
        model.metadata_props.add(key=key.replace("__", "."), value=value)
    return model


def exported(run: Command, folder: Path, model: onnx.ModelProto, *words: object) -> tuple[int, str]:
    (folder / "net.onnx").write_bytes(model.SerializeToString())
    result = run("export", folder / "net.onnx", "--output", folder / "bundle", *words)
    return result.code, result.err


NAMES = tuple("abcdef")


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("names", str(dict(enumerate(NAMES)))),
        ("names", json.dumps(list(NAMES))),
        ("id2label", json.dumps(dict(enumerate(NAMES)))),
        ("labels", "a,b,c,d,e,f"),
        ("classes", "a\nb\nc\nd\ne\nf\n"),
        ("edgekit__labels", json.dumps(NAMES)),
    ],
)
def test_labels_that_the_file_names_are_taken_and_noted(key: str, text: str, run: Command, tmp_path: Path) -> None:
    assert exported(run, tmp_path, classifier(**{key: text}))[0] == 0
    manifest = open_bundle(tmp_path / "bundle").manifest
    assert manifest.labels == NAMES
    assert any("the labels are the file's own, under" in note for note in manifest.notes)


def test_names_of_another_number_are_noted_and_not_used(run: Command, tmp_path: Path) -> None:
    assert exported(run, tmp_path, classifier(names="a,b"))[0] == 0
    manifest = open_bundle(tmp_path / "bundle").manifest
    assert manifest.labels == ()
    assert any("names 2 classes under 'names', and its first output is batch x 6: not used" in note for note in manifest.notes)


@pytest.mark.parametrize("text", ["{0: 'a', 2: 'b'}", "{'x': 1}", "__import__('os')(", "[" * 5000, "3"])
def test_a_literal_that_is_no_list_of_names_gives_none_or_itself_and_runs_nothing(text: str) -> None:
    assert len(label_list(text)) <= 1


def test_options_give_labels_and_preprocessing_and_predict_works(run: Command, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("\n".join("uvwxyz"))
    words = ("--labels", tmp_path / "labels.txt", "--mean", "0.5,0.4,0.3", "--std", "0.2,0.2,0.2")
    assert exported(run, tmp_path, classifier(names="a,b,c,d,e,f"), *words)[0] == 0
    manifest = open_bundle(tmp_path / "bundle").manifest
    assert manifest.labels == tuple("uvwxyz")
    assert manifest.preprocess == Preprocess("rgb", 8, 8, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    Image.effect_noise((9, 9), 90).convert("RGB").save(tmp_path / "p.png")
    assert run("predict", tmp_path / "bundle", tmp_path / "p.png").code == 0


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (("--mean", "0,0,0"), "--mean and --std go together"),
        (("--mean", "0", "--std", "1"), "--mean and --std do not fit the input"),
        (("--mean", "123,116,103", "--std", "58,57,57"), "divide by 255"),
        (("--input-shape", "1x3x8x8"), "--input-shape does not go with an ONNX file"),
    ],
)
def test_options_that_do_not_fit_are_one_sentence(words: tuple[str, ...], fault: str, run: Command, tmp_path: Path) -> None:
    code, err = exported(run, tmp_path, classifier(), *words)
    assert (code, fault in err) == (2, True), err
    assert not (tmp_path / "bundle").exists()


def test_labels_of_another_number_are_refused(run: Command, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("a\nb\n")
    code, err = exported(run, tmp_path, classifier(), "--labels", tmp_path / "labels.txt")
    assert (code, "--labels has 2 label(s) for an output of batch x 6" in err) == (2, True), err


OWN = Preprocess("rgb", 8, 8, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@pytest.mark.parametrize(
    ("metadata", "preprocess", "note"),
    [
        ({"edgekit__preprocess": msgspec.json.encode(OWN).decode()}, OWN, "the preprocessing is the file's own"),
        ({"edgekit__preprocess": "{"}, None, "cannot be read: not used"),
        ({"edgekit__preprocess": msgspec.json.encode(msgspec.structs.replace(OWN, height=9)).decode()}, None, "does not fit"),
        (
            {"Image__NominalPixelRange": "Normalized_1_1", "Image__BitmapPixelFormat": "Rgb8"},
            Preprocess("rgb", 8, 8, (0.5,) * 3, (0.5,) * 3),
            "Image.NominalPixelRange is Normalized_1_1",
        ),
        (
            {"image__nominalpixelrange": "nominalrange_0_255", "IMAGE__BitmapPixelFormat": "RGB8"},
            Preprocess("rgb", 8, 8, (0.0,) * 3, (1 / 255,) * 3),
            "0_255",
        ),
        ({"Image__NominalPixelRange": "NominalRange_0_255"}, None, "does not say whether it wants pixels as RGB or BGR"),
        (
            {
                "Image__NominalPixelRange": "NominalRange_0_255",
                "Image__BitmapPixelFormat": "Rgb8",
                "Image__ColorSpaceGamma": "Linear",
            },
            None,
            "wants linear light",
        ),
        ({"Image__NominalPixelRange": "Normalized_0_1", "Image__BitmapPixelFormat": "Bgr8"}, None, "wants pixels as Bgr8"),
        ({"Image__NominalPixelRange": "16_235"}, None, ""),
    ],
)
def test_image_metadata_that_fit_are_the_preprocessing(
    metadata: dict[str, str], preprocess: Preprocess | None, note: str, run: Command, tmp_path: Path
) -> None:
    assert exported(run, tmp_path, classifier(**metadata))[0] == 0
    manifest = open_bundle(tmp_path / "bundle").manifest
    assert manifest.preprocess == preprocess
    assert any(note in text for text in manifest.notes)


def test_a_file_that_edgekit_wrote_keeps_its_labels_and_preprocessing(run: Command, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "again.onnx").write_bytes((bundle / "model.onnx").read_bytes())
    before = open_bundle(bundle).manifest
    assert run("export", tmp_path / "again.onnx", "--output", tmp_path / "again").code == 0
    after = open_bundle(tmp_path / "again").manifest
    assert (after.labels, after.preprocess) == (before.labels, before.preprocess)
