"""``verify --bisect`` tells a file that departs from a runtime that does, names the node, and proposes what it has tried."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgekit.backends.onnxruntime.session import OrtSession
from edgekit.commands.bisect import bisect
from edgekit.errors import BundleError
from edgekit.reports.bisect import BisectReport
from edgekit.tensors import Array, Feed
from tests.bundle.editing import edit, members, npz, put
from tests.command_line import Command


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


class Faulty:
    """ONNX Runtime whose optimised graph computes the second convolution wrongly."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, shows_all: bool) -> None:
        run, inside = OrtSession.run, OrtSession.inside

        def wrong(session: OrtSession) -> bool:
            return session.facts["graph optimisation"] in ("extended", "all")

        def faulty_run(session: OrtSession, feed: Feed) -> dict[str, Array]:
            outputs = run(session, feed)
            return {name: array * np.float32(1.01) for name, array in outputs.items()} if wrong(session) else outputs

        def faulty_inside(session: OrtSession, names: Sequence[str], feed: Feed) -> dict[str, Array]:
            values = inside(session, names, feed)
            if not wrong(session) or (len(names) > 1 and not shows_all):
                return values
            order = list(inside(session, self.names, feed)) if not self.names else self.names
            after = order[order.index("conv2d_1") :]
            return {name: array * np.float32(1.01) if name in after else array for name, array in values.items()}

        self.names: list[str] = []
        monkeypatch.setattr(OrtSession, "run", faulty_run)
        monkeypatch.setattr(OrtSession, "inside", faulty_inside)


@pytest.mark.parametrize("shows_all", [True, False])
def test_a_runtime_that_departs_is_told_with_the_node_and_a_setup_that_was_tried(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, shows_all: bool
) -> None:
    graph = onnx.load(bundle / "model.onnx").graph
    faulty = Faulty(monkeypatch, shows_all=shows_all)
    faulty.names = [name for node in graph.node for name in node.output]
    report = bisect(bundle, ["ort-cpu"])
    assert report.departs == "runtime"
    assert report.culprit is not None
    assert report.culprit.value == "conv2d_1"
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
    assert "labels" in report.notes[0]
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
