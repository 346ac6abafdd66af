"""``edgekit evaluate`` judges every runtime on labelled pictures, and says which differ and which pictures are wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from edgekit.bundle.folder import open_bundle
from edgekit.commands.evaluate import SHEET, Bars, evaluate
from edgekit.data import fashion_mnist
from edgekit.errors import BundleError, DataError, OutputError, UsageError
from edgekit.reports.evaluate import EvaluateReport
from tests.bundle.editing import edit, put
from tests.command_line import Command
from tests.converted import convert

LABELS = ("Bag", "Coat", "Trouser")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve test pictures of each of three classes of Fashion-MNIST, in a folder for each class."""
    root = tmp_path_factory.mktemp("photos")
    _, test = fashion_mnist.load(fashion_mnist.locate())
    for name in LABELS:
        (root / name).mkdir()
        for index in np.flatnonzero(test.labels == fashion_mnist.CLASSES.index(name))[:12]:
            Image.fromarray(test.images[index, 0]).save(root / name / f"{index}.png")
    return root


@pytest.fixture
def lenet(repository: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(repository / "exported" / "lenet", tmp_path / "lenet"))


def by_hand(bundle: Path, folder: Path) -> dict[str, tuple[str, float]]:
    """What ONNX Runtime says of each picture, without any of edgekit's code: its class and probability."""
    session = onnxruntime.InferenceSession(bundle / "model.onnx", providers=["CPUExecutionProvider"])
    said = {}
    for path in sorted(folder.rglob("*.png")):
        with Image.open(path) as image:
            pixels = np.asarray(image, np.float32)[None, None]
        (logits,) = session.run(None, {"input": (pixels / 255 - np.float32(0.286)) / np.float32(0.353)})
        shares = np.exp(logits[0].astype(np.float64)) / np.exp(logits[0].astype(np.float64)).sum()
        said[f"{path.parent.name}/{path.name}"] = fashion_mnist.CLASSES[int(shares.argmax())], float(shares.max())
    return said


def test_a_folder_of_classes_gives_the_accuracy_that_counting_by_hand_gives(lenet: Path, folder: Path) -> None:
    report = evaluate(lenet, folder, ["ort-cpu"])
    said = by_hand(lenet, folder)
    (row,) = report.rows
    right = {name: name.startswith(label + "/") for name, (label, _) in said.items()}
    assert report.pictures == len(said) == 36
    assert row.top1 == pytest.approx(sum(right.values()) / 36)
    assert {each.name for each in report.wrong} == {name for name, is_right in right.items() if not is_right}
    for each in report.wrong:
        assert each.predicted == said[each.name][0]
        assert each.confidence == pytest.approx(said[each.name][1], abs=1e-5)
    assert [each.confidence for each in report.wrong] == sorted((each.confidence for each in report.wrong), reverse=True)
    present = [share is not None for share in row.per_class]
    assert [name for name, here in zip(report.labels, present, strict=True) if here] == [
        name for name in fashion_mnist.CLASSES if name in LABELS
    ]
    assert sum(map(sum, row.confusion)) == 36
    assert row.flips is None
    assert any("does not record the original's predictions" in text for text in report.notes)


def test_the_bundles_own_test_set_is_compared_with_the_originals_predictions(lenet: Path) -> None:
    report = evaluate(lenet, setups=["ort-cpu"])
    (row,), (pair,) = report.rows, report.paired
    assert report.pictures == 10_000
    assert row.top1 == open_bundle(lenet).manifest.test_accuracy
    assert (row.flips, pair.first, pair.only_first, pair.only_second, pair.p) == (0, "the original", 0, 0, 1.0)


def test_a_file_that_answers_otherwise_flips_and_is_told_from_the_original(lenet: Path) -> None:
    import onnx
    from onnx import numpy_helper

    model = onnx.load(lenet / "model.onnx")
    tensor = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 2)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(0.2), tensor.name))
    put(lenet, "model.onnx", model.SerializeToString())
    report = evaluate(lenet, setups=["ort-cpu"], bars=Bars(max_drop=0.003))
    (row,), (pair,) = report.rows, report.paired
    assert row.flips is not None
    assert row.flips > 100
    assert pair.high < 0
    assert pair.p < 0.05
    assert not report.passed


def test_bars_decide_the_exit_code(run: Command, lenet: Path, folder: Path) -> None:
    words = ("evaluate", str(lenet), "--data", str(folder), "--backend", "ort-cpu")
    assert run(*words, "--min-accuracy", "0.5").code == 0
    failed = run(*words, "--min-accuracy", "1", "--json")
    assert failed.code == 1
    assert EvaluateReport.from_json(failed.out.encode()).min_accuracy == 1
    shown = run(*words)
    assert shown.code == 0
    assert "accuracy of" in shown.out


def test_two_setups_are_compared_with_each_other_on_pictures_of_ones_own(lenet: Path, folder: Path) -> None:
    report = evaluate(lenet, folder, ["ort-cpu threads=1", "ort-cpu threads=2"])
    (pair,) = report.paired
    assert (pair.first, pair.second) == ("ort-cpu threads=1", "ort-cpu threads=2")


def test_a_divided_folder_is_judged_by_its_test_half(lenet: Path, folder: Path, tmp_path: Path) -> None:
    for name in LABELS:
        pictures = sorted((folder / name).iterdir())
        for half, chosen in (("train", pictures[:8]), ("test", pictures[8:])):
            (tmp_path / "set" / half / name).mkdir(parents=True)
            for path in chosen:
                shutil.copy(path, tmp_path / "set" / half / name)
    assert evaluate(lenet, tmp_path / "set", ["ort-cpu"]).pictures == 12


def test_a_contact_sheet_is_written_and_replaces_only_its_own(lenet: Path, folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "sheets"
    for _ in range(2):
        report = evaluate(lenet, folder, ["ort-cpu"], wrong=place)
        assert report.sheet == str(place / SHEET)
        with Image.open(place / SHEET) as sheet:
            assert sheet.size[0] > 400
    (place / SHEET).write_bytes(b"a picture of the user's")
    with pytest.raises(OutputError, match="edgekit did not make it"):
        evaluate(lenet, folder, ["ort-cpu"], wrong=place)
    assert (place / SHEET).read_bytes() == b"a picture of the user's"


def test_a_class_that_the_bundle_does_not_have_is_named(lenet: Path, folder: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "photos"))
    (other / "Bag").rename(other / "Handbag")
    with pytest.raises(DataError, match="'Handbag'"):
        evaluate(lenet, other, ["ort-cpu"])


def test_what_cannot_be_judged_is_one_sentence(lenet: Path, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="records no data set; give --data RECIPE"):
        evaluate(bundle)
    with pytest.raises(DataError, match="no folder of pictures and no recipe"):
        evaluate(lenet, tmp_path / "nothing")
    edit(lenet, lambda document: document.update(labels=[]))
    with pytest.raises(BundleError, match="does not classify pictures"):
        evaluate(lenet)


def test_a_report_holds_every_wrong_picture_and_the_page_the_surest(run: Command, lenet: Path) -> None:
    result = run("evaluate", str(lenet), "--backend", "ort-cpu", "--json")
    document = json.loads(result.out)
    assert len(document["wrong"]) == round(10_000 * (1 - document["rows"][0]["top1"]))
    assert result.code == 0


def test_a_drop_that_nothing_can_be_compared_with_is_wrong_usage(lenet: Path, folder: Path) -> None:
    with pytest.raises(UsageError, match=r"--max-drop has nothing to compare with.*add --backend torch"):
        evaluate(lenet, folder, ["ort-cpu"], bars=Bars(max_drop=0.5))
    assert evaluate(lenet, folder, ["ort-cpu threads=1", "ort-cpu threads=2"], bars=Bars(max_drop=0.5)).passed


def swap(labels: list[str]) -> None:
    labels[0], labels[9] = labels[9], labels[0]


def test_swapped_labels_fail_though_every_runtime_gives_the_same_answers(lenet: Path) -> None:
    edit(lenet, lambda document: swap(document["labels"]))
    report = evaluate(lenet, setups=["ort-cpu"])
    (row,), (pair,) = report.rows, report.paired
    assert not report.passed
    assert (row.flips, row.recorded) == (0, open_bundle(lenet).manifest.test_accuracy)
    assert row.top1 < 0.8
    assert pair.high < -0.1  # the original is judged by the classes that the pictures had at export
    relabelled, accuracy = report.faults
    assert "2,000 of 10,000 pictures are of another class" in relabelled
    assert "'Ankle boot' is class 0 in manifest.json, and was class 9" in relabelled
    assert f"the manifest records {row.recorded:.2%} on this test set" in accuracy


def test_a_changed_mean_fails_and_the_bundle_as_it_was_does_not(lenet: Path) -> None:
    sound = evaluate(lenet, setups=["ort-cpu"])
    assert sound.faults == ()
    edit(lenet, lambda document: document["preprocess"].update(mean=[0.5]))
    report = evaluate(lenet, setups=["ort-cpu"])
    (fault,) = report.faults
    assert fault.startswith(f"ort-cpu: the manifest records {sound.rows[0].recorded:.2%}")
    assert not report.passed


def test_outputs_that_are_not_finite_are_of_no_class_and_fail(run: Command, lenet: Path, folder: Path) -> None:
    import onnx
    from onnx import numpy_helper

    model = onnx.load(lenet / "model.onnx")
    tensor = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 2)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(np.nan), tensor.name))
    put(lenet, "model.onnx", model.SerializeToString())
    report = evaluate(lenet, folder, ["ort-cpu"])
    (row,) = report.rows
    assert (row.top1, row.not_finite, sum(map(sum, row.confusion)), report.passed) == (0, 36, 0, False)
    assert {each.predicted for each in report.wrong} == {"outputs are not finite"}
    shown = run("evaluate", str(lenet), "--data", str(folder), "--backend", "ort-cpu")
    assert shown.code == 1
    assert "FAIL ort-cpu gives numbers that are not finite for 36 of 36 pictures" in shown.out.splitlines()[-1]


def test_a_label_that_no_folder_can_be_called_is_written_with_a_dash_or_an_underscore(
    lenet: Path, folder: Path, tmp_path: Path
) -> None:
    for name in ("T-shirt-top", "t_shirt_top"):
        shutil.copytree(folder / "Trouser", tmp_path / name / name)
        shutil.copytree(folder / "Bag", tmp_path / name / "Bag")
        assert evaluate(lenet, tmp_path / name, ["ort-cpu"]).rows[0].per_class[0] is not None
    (tmp_path / "t_shirt_top" / "Bag").rename(tmp_path / "t_shirt_top" / "Trousers")
    with pytest.raises(
        DataError, match=r"no class 'Trousers'.*did you mean 'Trouser'.*T-shirt/top, Trouser, .*, or by their numbers"
    ):
        evaluate(lenet, tmp_path / "t_shirt_top", ["ort-cpu"])


def test_pictures_of_one_class_alone_are_judged(lenet: Path, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "Trouser", tmp_path / "one" / "Trouser")
    report = evaluate(lenet, tmp_path / "one", ["ort-cpu"])
    said = by_hand(lenet, tmp_path / "one")
    assert report.pictures == 12
    assert report.rows[0].top1 == sum(label == "Trouser" for label, _ in said.values()) / 12


def test_a_class_that_two_labels_are_called_is_refused_and_its_numbers_are_not(lenet: Path, folder: Path, tmp_path: Path) -> None:
    labels = list(open_bundle(lenet).manifest.labels)
    labels[0] = "Trouser"
    edit(lenet, lambda document: document.update(labels=labels))
    with pytest.raises(DataError, match="the class 'Trouser' may be any of the bundle's labels 0, 1; name all folders by"):
        evaluate(lenet, folder, ["ort-cpu"])
    for name in LABELS:
        shutil.copytree(folder / name, tmp_path / "numbers" / str(fashion_mnist.CLASSES.index(name)))
    assert evaluate(lenet, tmp_path / "numbers", ["ort-cpu"]).pictures == 36


def test_int8_accuracy_from_another_kind_of_cpu_is_noted_and_is_no_fault(
    lenet: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(lenet, "int8", cpu="avx512_vnni")
    edit(lenet, lambda document: document["variants"][1].update(accuracy=0.5))  # there it was another
    elsewhere, same = ("avx2",), ("avx_vnni",)
    for names, faults in ((elsewhere, 0), (same, 1)):
        monkeypatch.setattr("edgekit.parity.other_cpu.instruction_sets", lambda names=names: names)
        report = evaluate(lenet, setups=["ort-cpu variant=int8"])
        assert len(report.faults) == faults
        assert any("was measured on a CPU with avx512_vnni" in note for note in report.notes) == (faults == 0)


def test_every_variant_can_be_evaluated_at_once(lenet: Path, folder: Path) -> None:
    convert(lenet, "int8")
    report = evaluate(lenet, folder, ["ort-cpu variant=every"])
    assert [row.setup.variant for row in report.rows] == ["float32", "int8"]
    assert [row.setup.variant for row in evaluate(lenet, folder, ["ort-cpu"]).rows] == ["float32"]


def test_pictures_with_several_frames_are_noted(bundle: Path, tmp_path: Path) -> None:
    frames = [Image.new("L", (28, 28), value) for value in (10, 200)]
    for name in ("class 0", "class 1"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        frames[0].save(tmp_path / "photos" / name / "still.png")
    assert not any("frame" in text for text in evaluate(bundle, tmp_path / "photos", ["ort-cpu"]).notes)
    frames[0].save(tmp_path / "photos" / "class 1" / "a.gif", save_all=True, append_images=frames[1:])
    report = evaluate(bundle, tmp_path / "photos", ["ort-cpu"])
    assert "1 picture with several frames, like class 1/a.gif: the first one alone counts" in report.notes
