"""What each layer takes, in the names of the ONNX file's nodes."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path

import onnx
import pytest
from rich.console import Console

from edgekit.backends import open_session
from edgekit.backends.contract import LayerTime
from edgekit.bundle.folder import open_bundle
from edgekit.cli.app import main
from edgekit.commands.bench import bench
from edgekit.commands.export import export as export_bundle
from edgekit.commands.further import Further
from edgekit.errors import UsageError
from edgekit.latency.layers import layers_report, nodes_of
from edgekit.latency.loop import Timing
from edgekit.models.weights import weights_bytes
from edgekit.onnx.read import Node, read_nodes
from edgekit.reports.bench import BenchReport
from edgekit.reports.console import draw
from edgekit.reports.layers import MOST_LAYERS
from edgekit.setups import Setup
from edgekit.sources import ExportOptions
from edgekit.tensors import sample_feed
from tests.networks import network
from tests.ways import ways

SECONDS = 0.01


def layer(name: str, operator: str = "", hints: tuple[str, ...] | None = None, ms: tuple[float, ...] = (1.0,)) -> LayerTime:
    return LayerTime(name, operator, (name,) if hints is None else hints, ms)


def chain(*operators: str) -> list[Node]:
    """n0 -> n1 -> ...; node nK puts out tK."""
    return [Node(f"n{place}", kind, (f"t{place - 1}",), (f"t{place}",)) for place, kind in enumerate(operators)]


RESIDUAL = [
    Node("n0", "Relu", ("x",), ("t0",)),
    Node("n1", "Conv", ("t0", "w"), ("t1",)),
    Node("n2", "Conv", ("t0", "v"), ("t2",)),
    Node("n3", "Add", ("t1", "t2"), ("t3",)),
    Node("n4", "Relu", ("t3",), ("t4",)),
]


def test_an_input_or_output_that_is_left_out_connects_nothing() -> None:
    """Both are called "": a Clip without its least is not behind a Conv without its second output."""
    nodes = [Node("n0", "Conv", ("x", "w"), ("t0", "")), Node("n1", "Clip", ("z", "", "most"), ("t1",))]
    assert nodes_of([layer("n0", "Conv")], nodes) == [("n0",)]
    assert nodes_of([layer("n1", "FusedConv")], nodes) == [("n1",)]
    assert nodes_of([layer("", "Conv"), layer("added", hints=("",))], [Node("", "Conv", ("x",), ("",))]) == [(), ()]


def test_a_ring_of_nodes_has_an_end() -> None:
    ring = [Node("n0", "Conv", ("x",), ("t0",)), Node("n1", "Add", ("t0", "t2"), ("t1",)), Node("n2", "Relu", ("t1",), ("t2",))]
    assert nodes_of([layer("n0", "Conv")], ring) == [("n0", "n1", "n2")]


# on ONNX Runtime itself


@pytest.mark.parametrize("name", ["lenet", "resnet18", "densenet"])
def test_every_node_of_the_file_is_in_exactly_one_layer(name: str, repository: Path, tmp_path: Path) -> None:
    """Whatever ONNX Runtime fuses, renames and reorders: sums of two convolutions, activations, norms that it rewrites."""
    root = repository / "exported" / name
    if not root.exists():
        root = tmp_path / "bundle"
        (tmp_path / "weights.safetensors").write_bytes(weights_bytes(network(name)))
        export_bundle(name, root, ExportOptions(weights=tmp_path / "weights.safetensors"))
    files = open_bundle(root).files()
    nodes = read_nodes(files.onnx)
    with open_session(Setup("ort-cpu", threads=1), files) as opened:
        layers = opened.layer_times(sample_feed(opened.inputs, 2), 3)  # type: ignore[attr-defined]  # not every session has it; this one does
    made_of = nodes_of(layers, nodes)
    assert Counter(point for found in made_of for point in found) == Counter(node.name for node in nodes)
    assert {len(layer.ms) for layer in layers} == {3}
    # a layer that computes is named by its own operator's node
    operators = {node.name: node.operator for node in nodes}
    convolutions = [found for one, found in zip(layers, made_of, strict=True) if one.operator == "Conv"]
    assert all({operators[name] for name in found} & {"Conv", "BatchNormalization"} for found in convolutions)


def test_bench_tells_the_layers_of_every_batch(bundle: Path) -> None:
    report = bench(bundle, ways("torch", "ort-cpu", threads=1), Timing((1, 8), SECONDS), further=Further(layers=True))
    assert [(layer.backend, layer.batch) for layer in report.layers] == [("ort-cpu", 1), ("ort-cpu", 8)]
    for one in report.layers:
        assert one.calls >= 5
        assert sum(layer.share for layer in one.layers) == pytest.approx(1)
        assert one.total_ms > 0
    assert BenchReport.from_json(report.to_json()) == report
    assert bench(bundle, ways("ort-cpu", threads=1), Timing((1,), SECONDS)).layers == ()


def test_the_command_line_prints_the_slowest_first(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["edgekit", "bench", str(bundle), "--backend", "ort-cpu", "--batch", "1", "--seconds", "0.01", "--layers"]
    for extra in ([], ["--json"]):
        monkeypatch.setattr("sys.argv", arguments + extra)
        with pytest.raises(SystemExit) as done:
            main()
        assert done.value.code == 0
        printed_text = capfd.readouterr()
        assert "node_conv2d" in printed_text.out
    assert len(json.loads(printed_text.out)["layers"][0]["layers"]) == 10


def printed(*layers: LayerTime) -> str:
    """What the console shows of these layers of a chain."""
    report = layers_report("ort-cpu", Setup("ort-cpu"), 1, layers, chain(*["Relu"] * len(layers)))
    console = Console(width=160, file=io.StringIO())
    draw(BenchReport("b", "0", {}, 1, 0.1, (), (), (), None, (report,)).page(), console)
    return str(console.file.getvalue())  # type: ignore[attr-defined]  # the console writes into a StringIO


def test_a_long_table_is_cut_and_says_so() -> None:
    layers = [layer(f"n{place}", "Relu", ms=(place + 1.0,)) for place in range(MOST_LAYERS + 5)]
    printed_text = printed(*layers)
    assert "5 more layers are in the JSON; all 20 take 210 ms a call" in printed_text
    rows = [line.split()[0] for line in printed_text.splitlines() if line.strip().startswith("n1")]
    assert rows == ["n19", "n18", "n17", "n16", "n15", "n14", "n13", "n12", "n11", "n10"]
    assert "1 more layer is in the JSON; all 16 take" in printed(*layers[: MOST_LAYERS + 1])
    assert " its one layer takes 1 ms a call" in printed(layers[0]).replace("\n", " ")


def test_runtimes_that_cannot_tell_are_said_to() -> None:
    bundle = "exported/lenet"
    with pytest.raises(UsageError, match=r"--layers: torch cannot time layers; add --backend ort-cpu or openvino or tensorrt"):
        bench(bundle, ways("torch", threads=1), Timing((1,), SECONDS), further=Further(layers=True))


def test_a_node_that_runs_as_several_kernels_is_in_each_and_what_is_inferred_in_one() -> None:
    nodes = chain("Conv", "Relu", "Flatten")
    layers = [layer("prepare", "kgen", ("n0",)), layer("convolve", "correlation", ("n0",)), layer("flatten", "NoOp", ("n2",))]
    assert nodes_of(layers, nodes) == [("n0",), ("n0", "n1"), ("n2",)]


def test_a_node_is_known_by_its_name_or_its_output_and_hints_at_no_node_are_passed_over() -> None:
    nodes = [Node("t0", "Conv", ("x",), ("t0",)), Node("node_of_t1", "Relu", ("t0",), ("t1",))]
    layers = [layer("a", "correlation", ("node_of_t0", "t0")), layer("b", "kgen", ("node_of_t1", "t1"))]
    assert nodes_of(layers, nodes) == [("t0",), ("node_of_t1",)]


def test_medians_shares_and_the_sum_of_a_call() -> None:
    report = layers_report(
        "x", Setup("x"), 2, [layer("n0", ms=(1.0, 5.0, 2.0)), layer("n1", ms=(6.0, 6.0, 6.0))], chain("Conv", "Relu")
    )
    assert [(layer.median_ms, layer.share) for layer in report.layers] == [(2.0, 0.25), (6.0, 0.75)]
    assert (report.total_ms, report.calls) == (8.0, 3)


def test_a_runtime_that_tells_nothing_gives_an_empty_report() -> None:
    assert layers_report("x", Setup("x"), 1, [], chain("Conv")).layers == ()


# which nodes a layer is made of


@pytest.mark.parametrize(
    ("layers", "nodes", "made_of"),
    [
        # by its name, by what it puts out
        ([layer("n0", "Conv"), layer("t1", "Relu")], chain("Conv", "Relu"), [("n0",), ("n1",)]),
        # a convolution called after the activation behind it, and after a sum
        ([layer("t1", "Conv")], chain("Conv", "Relu"), [("n0", "n1")]),
        ([layer("t2", "FusedConv")], chain("Conv", "Add", "Relu"), [("n0", "n1", "n2")]),
        # an activation with a layer of its own stays there
        ([layer("n0", "Conv"), layer("n1", "Relu")], chain("Conv", "Relu"), [("n0",), ("n1",)]),
        # nothing leads up to it: what is not known is not claimed
        ([layer("t2", "Conv")], chain("Gemm", "Softmax", "Relu"), [("n2",)]),
        # another layer's node is in the way
        ([layer("n0", "Conv"), layer("t2", "Conv")], chain("Conv", "Tanh", "Relu"), [("n0", "n1"), ("n2",)]),
        # a softmax is no activation that goes into what feeds it
        ([layer("n0", "Gemm")], chain("Gemm", "Softmax"), [("n0",)]),
        # the later convolution adds
        ([layer("n0", "Relu"), layer("n1", "Conv"), layer("n2", "Conv")], RESIDUAL, [("n0",), ("n1",), ("n2", "n3", "n4")]),
        ([layer("n0", "Relu"), layer("n2", "Conv"), layer("n1", "Conv")], RESIDUAL, [("n0",), ("n2",), ("n1", "n3", "n4")]),
        # several hints, as TensorRT's metadata gives them
        ([layer("a kernel", "", ("n0", "n1", "n0"))], chain("Conv", "Relu"), [("n0", "n1")]),
        # what the runtime adds
        ([layer("reorder", "ReorderOutput", ("reorder",)), layer("moves", "", ())], chain("Conv"), [(), ()]),
    ],
)
def test_a_layer_names_the_nodes_that_it_computes(
    layers: list[LayerTime], nodes: list[Node], made_of: list[tuple[str, ...]]
) -> None:
    assert nodes_of(layers, nodes) == made_of


def test_a_node_without_a_name_is_called_after_what_it_puts_out(tmp_path: Path) -> None:
    shape = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    end = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [shape], [end])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "m.onnx")
    assert read_nodes(tmp_path / "m.onnx") == (Node("y", "Relu", ("x",), ("y",)),)
