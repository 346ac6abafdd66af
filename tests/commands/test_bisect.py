"""``verify --bisect`` tells a file that departs from a runtime that does, names the node, and proposes what it has tried."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from rich.console import Console

from edgekit.backends import table
from edgekit.backends.contract import Backend
from edgekit.backends.fake import FakeSession
from edgekit.backends.onnxruntime.session import OrtSession
from edgekit.bundle.files import ModelFiles
from edgekit.commands.bisect import bisect
from edgekit.errors import BundleError
from edgekit.progress import Progress
from edgekit.reports.bisect import BisectReport
from edgekit.reports.console import draw
from edgekit.setups import Setup
from edgekit.tensors import Array, Feed
from tests.bundle.editing import edit, members, npz, put
from tests.command_line import Command


def plain_text(report: BisectReport) -> str:
    console = Console(file=io.StringIO(), width=120)
    draw(report.page(), console)
    return " ".join(str(console.file.getvalue()).split())  # type: ignore[attr-defined]


def changed(bundle: Path, layer: int) -> str:
    """Damage the weights of a layer, with a checksum that fits; the layer's node."""
    model = onnx.load(bundle / "model.onnx")
    nodes = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == nodes[layer].input[1])
    values = numpy_helper.to_array(tensor).copy()
    values *= 1.05
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    put(bundle, "model.onnx", model.SerializeToString())
    return str(nodes[layer].name)


@pytest.mark.parametrize("layer", range(5))
def test_a_file_that_was_changed_is_told_with_node_and_module(bundle: Path, layer: int) -> None:
    node = changed(bundle, layer)
    report = bisect(bundle, ["ort-cpu"])
    assert (report.departs, report.passed) == ("file", False)
    assert report.culprit is not None
    assert report.culprit.node == node
    assert report.culprit.module
    assert report.culprit.before < 1e-6 < report.culprit.error


def test_a_sound_bundle_has_nothing_to_find(bundle: Path) -> None:
    report = bisect(bundle, ["ort-cpu"])
    assert (report.departs, report.passed, report.culprit) == ("nothing", True, None)


def a_runtime(monkeypatch: pytest.MonkeyPatch, *, fused: bool) -> None:
    """A backend ``strange`` whose second convolution is wrong: its kernel, or only where it is ``fused`` with what follows."""

    def opened(files: ModelFiles, setup: Setup, progress: Progress) -> FakeSession:
        model = onnx.load(files.onnx)
        outputs = {output.name for output in model.graph.output}
        if not (fused and "conv2d_1" in outputs):
            node = next(node for node in model.graph.node if node.output[0] == "conv2d_1")
            weight = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[1])
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.05), weight.name))
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        names = [spec.name for spec in files.outputs]
        assert names == [output.name for output in session.get_outputs()]
        run = partial(session.run, names)
        return FakeSession(lambda feed: dict(zip(names, run(dict(feed)), strict=True)), files.inputs, files.outputs)

    rows = {**table(), "strange": Backend("strange", lambda files, setup: None, opened)}
    for module in ("edgekit.backends", "edgekit.backends.choose"):
        monkeypatch.setattr(f"{module}.table", lambda: rows)


def test_a_kernel_that_is_wrong_is_named_and_told_from_what_it_is_fused_with(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_runtime(monkeypatch, fused=False)
    report = bisect(bundle, ["strange"])
    assert report.departs == "runtime"
    assert report.culprit is not None
    assert (report.culprit.value, bool(report.culprit.module)) == ("conv2d_1", True)
    assert report.culprit.alone is not None
    assert report.culprit.alone > 1e-3
    assert "its own kernel departs" in plain_text(report)


def test_a_kernel_that_is_wrong_only_fused_is_laid_on_what_shows_it(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_runtime(monkeypatch, fused=True)
    report = bisect(bundle, ["strange"])
    assert report.departs == "runtime"
    assert report.culprit is not None
    reads = next(node for node in onnx.load(bundle / "model.onnx").graph.node if "conv2d_1" in node.input)
    assert report.culprit.value == reads.output[0]
    assert report.culprit.alone is not None
    assert report.culprit.alone < 1e-6
    assert "what the runtime fuses it with" in plain_text(report)


def test_a_setup_that_helps_is_proposed(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = OrtSession.run

    def faulty(session: OrtSession, feed: Feed) -> dict[str, Array]:
        wrong = session.facts["graph optimisation"] in ("extended", "all")
        return {name: array * np.float32(1.01 if wrong else 1) for name, array in run(session, feed).items()}

    monkeypatch.setattr(OrtSession, "run", faulty)
    report = bisect(bundle, ["ort-cpu"])
    assert report.departs == "runtime"
    assert report.proposal is not None
    assert report.proposal.options["optimisation"] in ("off", "basic")
    tried = {str(trial.setup.options.get("optimisation", "all")): trial.passed for trial in report.trials}
    assert tried == {"all": False, "off": True, "basic": True, "extended": False}


def test_a_bundle_without_fingerprints_is_one_sentence(bundle: Path) -> None:
    changed(bundle, 1)
    edit(bundle, lambda document: document.update(evidence=None))
    with pytest.raises(BundleError, match="records no fingerprints"):
        bisect(bundle, ["ort-cpu"])


def test_the_command_prints_the_node_and_ends_with_1(run: Command, bundle: Path) -> None:
    node = changed(bundle, 1)
    result = run("verify", str(bundle), "--backend", "ort-cpu", "--bisect")
    assert result.code == 1
    assert node in result.out
    assert BisectReport.from_json(run("verify", str(bundle), "--bisect", "--json").out.encode()).departs == "file"


def test_bisect_fails_where_verify_does_and_takes_its_options(run: Command, bundle: Path) -> None:
    assert run("verify", str(bundle), "--bisect", "--backend", "ort-cpu", "--rtol", "1e-9", "--atol", "0").code == 1
    assert run("verify", str(bundle), "--bisect", "--require", "ort-cuda").code == 2
    assert run("verify", str(bundle), "--bisect", "--allow", "nonsense").code == 2
    edit(bundle, lambda document: document["labels"].reverse())
    report = bisect(bundle, ["ort-cpu"])
    assert (report.departs, report.passed) == ("manifest", False)
    assert "label 0 is" in report.notes[0]
    assert bisect(bundle, ["ort-cpu"], allow=["labels"]).passed


def test_recorded_outputs_that_were_changed_are_told_from_file_and_runtime(bundle: Path) -> None:
    arrays = members(bundle)
    put(bundle, "golden.npz", npz({**arrays, "float64.output": arrays["float64.output"] * 1.001}))
    report = bisect(bundle, ["ort-cpu"])
    assert (report.departs, report.culprit) == ("reference", None)


def test_values_of_other_names_name_no_culprit(bundle: Path) -> None:
    changed(bundle, 1)
    model = onnx.load(bundle / "model.onnx")
    inner = {name for node in model.graph.node for name in node.output} - {"output"}
    for node in model.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name in inner:
                    names[index] = f"renamed {name}"
    put(bundle, "model.onnx", model.SerializeToString())
    report = bisect(bundle, ["ort-cpu"])
    assert (report.departs, report.culprit) == ("file", None)
    assert "no node can be named" in report.notes[0]
