"""Bundles that ``edgekit export`` writes: measured, repeatable, and never over the user's files."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgekit.bundle.folder import open_bundle
from edgekit.commands.export import export as export_bundle
from edgekit.errors import MissingError, ModelError, OutputError
from edgekit.graphs.golden import record
from edgekit.graphs.write import export_onnx
from edgekit.progress import Advance
from edgekit.sources import origin_of
from edgekit.tensors import worst_error
from tests.command_line import Command, contents, written
from tests.graphs.exports import export, small
from tests.onnx_files import image_spec


def test_export_refuses_a_folder_with_the_users_files_and_loses_nothing(run: Command, bundle: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    written(mine / "thesis.txt", "ten years of work")
    written(bundle / "notes.txt", "measured on Tuesday")
    for folder, name in ((mine, "thesis.txt"), (bundle, "notes.txt")):
        before = contents(folder)
        result = run("export", "lenet", "--output", folder)
        assert (result.code, result.out) == (2, "")
        assert name in result.err
        assert "--output" in result.err
        assert contents(folder) == before


def test_nothing_is_exported_into_a_bundle(run: Command, bundle: Path) -> None:
    before = contents(bundle)
    result = run("export", "lenet", "--output", bundle / "deep" / "inner")
    assert (result.code, result.out) == (2, "")
    assert "is a bundle, which is immutable; choose a place outside of it" in result.err
    assert contents(bundle) == before


def test_export_replaces_an_older_bundle(run: Command, bundle: Path) -> None:
    before = open_bundle(bundle).sha256_of()
    assert run("export", "lenet", "--output", bundle, "--no-fold-bn").code == 0
    assert open_bundle(bundle).sha256_of() != before
    assert list(bundle.parent.glob(".*")) == []


@pytest.mark.parametrize("name", ["golden.npz", "manifest.json"])
def test_a_full_disk_leaves_the_older_bundle_and_no_litter(
    run: Command, bundle: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    before = contents(bundle.parent)
    real = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.name == name:
            real(path, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return real(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    result = run("export", "lenet", "--output", bundle)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "No space left on device; free some disk space" in result.err
    monkeypatch.undo()
    assert contents(bundle.parent) == before


def test_exporting_a_model_without_weights_twice_gives_the_same_bundle_and_says_they_are_random(tmp_path: Path) -> None:
    reports = [export_bundle("lenet", tmp_path / name) for name in ("a", "b")]
    assert (tmp_path / "a" / "manifest.json").read_bytes() == (tmp_path / "b" / "manifest.json").read_bytes()
    assert any("without --weights" in note for note in reports[0].notes)


def test_the_written_file_itself_is_measured_and_the_manifest_says_so(tmp_path: Path) -> None:
    report = export_bundle("lenet", tmp_path / "a")
    assert report.measured_in.startswith("ONNX Runtime")
    fold_report = open_bundle(tmp_path / "a").manifest.fold
    assert fold_report == report.fold
    assert fold_report.error_exported == report.exported_error
    assert open_bundle(tmp_path / "a").variant().error == report.exported_error
    assert 0 < report.exported_error < 1e-5
    assert fold_report.error_float64 is not None
    assert fold_report.error_float64 < 1e-12


def test_without_a_runtime_export_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    with pytest.raises(MissingError, match=r"this needs onnxruntime, .* pip install .*torch.* onnxruntime$"):
        export_bundle("lenet", tmp_path / "a")


@pytest.mark.parametrize("order", [("bad", "good"), ("good", "bad")])
def test_an_output_that_is_no_number_is_never_the_smaller_error(order: tuple[str, str]) -> None:
    outputs = {"good": np.array([1.0, 2.0]), "bad": np.array([1.0, np.nan])}
    references = {name: np.array([1.0, 2.5]) for name in order}
    assert math.isnan(worst_error(outputs, references))
    assert worst_error(outputs, {"good": references["good"]}) == 0.2


def test_a_file_that_computes_something_else_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(*args: Any, **options: Any) -> bytes:
        model = onnx.load_from_string(export_onnx(*args, **options))
        weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(2), weight.name))
        content: bytes = model.SerializeToString()
        return content

    monkeypatch.setattr("edgekit.sources.drafting.export_onnx", damaged)
    with pytest.raises(
        ModelError, match=r"exported file is off by .*: Conv node_conv2d \(aten.conv2d.default in 0\) computes something else"
    ):
        export_bundle("lenet", tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_trace_that_is_not_the_model_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(*args: Any) -> Any:
        golden = record(*args)
        return msgspec.structs.replace(golden, original={name: -array for name, array in golden.original.items()})

    monkeypatch.setattr("edgekit.sources.recording.record", other)
    with pytest.raises(ModelError, match="depend on something that a trace does not see"):
        export_bundle("lenet", tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


class Recorded:
    """A Progress that records its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    @contextlib.contextmanager
    def task(self, title: str, total: int) -> Iterator[Advance]:
        self.lines.append(f"{title} {total}")
        yield lambda steps, note: self.lines.append(f"+{steps} {note}".rstrip())

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def onnx_source(tmp_path: Path) -> str:
    (tmp_path / "net.onnx").write_bytes(export(small(), image_spec(1, 6)).content)
    return str(tmp_path / "net.onnx")


def test_both_kinds_of_source_report_their_steps(tmp_path: Path, onnx_source: str) -> None:
    steps = {
        "lenet": [
            "exporting 5",
            "+1 tracing, golden outputs",
            "+1 folding and writing ONNX",
            "+1 measuring rounding noise",
            "+1 writing the bundle",
            "+1",
        ],
        onnx_source: [
            "exporting 5",
            "+1 golden outputs",
            "+1 folding",
            "+1 measuring rounding noise",
            "+1 writing the bundle",
            "+1",
        ],
    }
    for source, lines in steps.items():
        progress = Recorded()
        report = export_bundle(source, tmp_path / "bundle", progress=progress)
        assert progress.lines == lines
        bundle = open_bundle(tmp_path / "bundle")
        assert (report.variant, report.onnx_sha256) == (bundle.variant().name, bundle.sha256_of())
        assert report.onnx_bytes == bundle.onnx_of().stat().st_size
        assert (report.original_error, report.exported_error) == (
            bundle.manifest.golden.original_error, bundle.variant().error,
        )  # fmt: skip
        assert report.notes == bundle.manifest.notes
        assert report.golden == "80 random inputs"


def test_the_bundles_place_is_checked_before_the_long_work(
    tmp_path: Path, onnx_source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.sources.drafting.trace", lambda *_: pytest.fail("the model was traced"))
    monkeypatch.setattr("edgekit.sources.onnx_file.open_onnx", lambda *_: pytest.fail("the file was opened"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for source in ("lenet", onnx_source):
        with pytest.raises(OutputError, match=r"it holds notes\.txt, which is not part of a bundle"):
            export_bundle(source, tmp_path / "mine")
        with pytest.raises(OutputError, match="cannot write"):
            export_bundle(source, tmp_path / "file" / "bundle")


def test_a_bundle_is_named_after_its_source_if_the_name_is_valid(
    tmp_path: Path, onnx_source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    odd = Path(onnx_source).rename(tmp_path / "no name.onnx")
    for source, name in (("lenet", "lenet"), (str(odd), "model")):
        assert origin_of(source).name == name
        assert export_bundle(source).bundle == str(Path("exported", name))
        assert open_bundle(tmp_path / "exported" / name).manifest.name == name
