"""Claims about each variant's file: a sound bundle of three files has no contradiction, and each false claim is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgekit import variants
from edgekit.bundle.folder import open_bundle
from edgekit.bundle.variants import outputs_to_npz, with_variant
from edgekit.commands.export import export
from edgekit.errors import BundleError
from edgekit.parity.calibrated import feed_sha256, random_calibration
from edgekit.parity.manifest import check_manifest
from edgekit.reports.verify import Check
from edgekit.sources import ExportOptions
from tests.bundle.editing import edit, put
from tests.converted import changed, copied
from tests.onnx.crafted import model_of, node, tensor


def checks(root: Path) -> tuple[Check, ...]:
    bundle = open_bundle(root)
    return check_manifest(bundle, bundle.golden(), bundle.evidence())


def failing(root: Path) -> dict[str, str]:
    return {check.code: check.text for check in checks(root) if check.outcome == "fail"}


def test_no_claim_about_sound_converted_files_fails_and_each_file_has_its_checks(lenet: Path) -> None:
    assert failing(lenet) == {}
    codes = [check.code for check in checks(lenet)]
    assert [codes.count(code) for code in ("opset", "labels", "preprocess", "weights", "model")] == [3] * 5
    assert [codes.count(code) for code in ("conversion", "errors", "shapes")] == [2, 3, 6]


def metadata(key: str, value: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        next(entry for entry in model.metadata_props if entry.key == key).value = value

    return change


def older(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 17


def wider(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 32


@pytest.mark.parametrize("variant", ["int8", "float16"])
@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("opset", older),
        ("shapes", wider),
        ("labels", metadata("edgekit.labels", '["shirt"]')),
        ("preprocess", metadata("edgekit.preprocess", "{}")),
        ("weights", metadata("edgekit.weights_sha256", "0" * 64)),
        ("model", metadata("edgekit.source", "alexnet")),
    ],
)
def test_a_file_that_says_something_else_is_named(
    lenet: Path, variant: str, code: str, change: Callable[[onnx.ModelProto], None]
) -> None:
    put(lenet, f"{variant}.onnx", changed(lenet, f"{variant}.onnx", change))
    said = failing(lenet)
    assert list(said) == [code]
    assert said[code].startswith(f"{variant}: ")


BEYOND, SHOWN = "the bundle asks for a wider bar for", "than its recorded outputs support"
KEPT = {"node": "x", "operator": "Gemm", "module": "", "reason": "asked"}


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (lambda int8, half: int8.update(error=int8["error"] / 2), "errors", "int8: the manifest says the file's error is "),
        (lambda int8, half: half.update(error=half["error"] * 1.01), "errors", "float16: the manifest says"),
        (
            lambda int8, half: int8["conversion"].update(converted=4),
            "conversion",
            "int8: the manifest says 4 converted and 0 kept layers, and the file has 5 and 0",
        ),
        (
            lambda int8, half: int8["conversion"].update(kept=[KEPT]),
            "conversion",
            "int8: the manifest says 5 converted and 1 kept layers, and the file has 5 and 0",
        ),
        (lambda int8, half: half["conversion"].update(converted=4), "conversion", "float16: the manifest says 4 converted"),
        (
            lambda int8, half: half["conversion"].update(converted=40),
            "conversion",
            "float16: the manifest says 40 converted",
        ),
        (lambda int8, half: half.update(precision="int8"), "precision", "float16 is said to be int8"),
        (
            lambda int8, half: int8["conversion"].update(floor={"onnxruntime": "999"}),
            "conversion",
            "int8: it asks for onnxruntime 999 or newer, and 1.21 is needed for int8",
        ),
        (
            lambda int8, half: half["conversion"].update(floor={"onnxruntime": "1.2"}),
            "conversion",
            "float16: it asks for onnxruntime 1.2 or newer, and none is needed for float16",
        ),
        (
            lambda int8, half: int8["conversion"]["calibration"].update(samples=4000),
            "conversion",
            "int8: its calibration is another in manifest.json than in int8.json",
        ),
        (lambda int8, half: int8["conversion"].update(ranges=None), "conversion", "int8: it has no range table"),
        (
            lambda int8, half: half["conversion"].update(kept=[KEPT]),
            "conversion",
            "float16: it keeps Gemm 'x', which the file has not",
        ),
        (lambda int8, half: int8["allowance"].update(steps=None), "tolerance", "the bundle asks for a wider bar for int8"),
        (
            lambda int8, half: int8["allowance"].update(snr_db=11.0),
            "tolerance",
            f"{BEYOND} int8 {SHOWN}: an SNR of 11 dB instead",
        ),
        (lambda int8, half: int8["allowance"].update(rounding=8.0), "tolerance", f"{BEYOND} int8 {SHOWN}: 8 steps of rounding"),
        (lambda int8, half: int8["allowance"]["tolerance"].update(rtol=0.49), "tolerance", f"{BEYOND} int8 {SHOWN}: 0.49 rtol"),
        (lambda int8, half: int8["allowance"]["tolerance"].update(top1=0.5), "tolerance", f"{BEYOND} int8 {SHOWN}: top-1 0.5 "),
        (lambda int8, half: half["allowance"].update(snr_db=None), "tolerance", f"{BEYOND} float16 {SHOWN}: an SNR of 0 dB"),
        (lambda int8, half: half["allowance"].update(steps=30.0), "tolerance", f"{BEYOND} float16 {SHOWN}: 30 steps instead of"),
        (
            lambda int8, half: half["allowance"]["tolerance"].update(top1=0.9),
            "tolerance",
            f"{BEYOND} float16 {SHOWN}: top-1 0.9 ",
        ),
    ],
)
def test_a_false_claim_about_a_converted_file_is_named(
    lenet: Path, change: Callable[[dict[str, Any], dict[str, Any]], object], code: str, said: str
) -> None:
    edit(lenet, lambda document: change(*document["variants"][1:]))
    assert failing(lenet)[code].startswith(said)


def test_a_bar_below_what_a_float16_file_shows_is_named(lenet: Path) -> None:
    """What it shows here is the reference rounded to float16: a CPU that sums in float16 leaves the file itself a lower SNR."""
    bundle = open_bundle(lenet)
    rounded = {name: wide.astype(np.float16).astype(np.float32) for name, wide in bundle.golden().float64.items()}
    conversion = bundle.variant("float16").conversion
    assert conversion is not None
    put(lenet, conversion.outputs, outputs_to_npz(rounded))
    bar = "an SNR of 36 dB instead of at least"
    assert bar not in failing(lenet).get("tolerance", "")
    edit(lenet, lambda document: document["variants"][2]["allowance"].update(snr_db=36.0))
    said = failing(lenet)["tolerance"]
    assert said.startswith(f"{BEYOND} float16 {SHOWN}: ")
    assert bar in said


def ranges(change: Callable[[list[dict[str, Any]]], object]) -> Callable[[bytes], bytes]:
    def changed_table(content: bytes) -> bytes:
        document = json.loads(content)
        change(document["tensors"])
        return json.dumps(document).encode()

    return changed_table


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda rows: rows[1].update(limit=rows[1]["limit"] * 1.00001),
            "the range of 'max_pool2d' in int8.json is not that of the file",
        ),
        (lambda rows: rows[1].update(dtype="int8"), "the range of 'max_pool2d' in int8.json is not that of the file"),
        (lambda rows: rows.pop(0), "is rounded in the file, and not in the range table"),
        (lambda rows: rows[0].update(tensor="other"), "is rounded"),
    ],
)
def test_a_range_that_is_not_the_files_is_named(lenet: Path, change: Callable[[list[dict[str, Any]]], object], said: str) -> None:
    put(lenet, "int8.json", ranges(change)((lenet / "int8.json").read_bytes()))
    assert said in failing(lenet)["conversion"]


def test_a_float32_file_with_steps_that_nothing_reads_is_no_int8_file(lenet: Path) -> None:
    """Steps beside the way from input to output, and a layer of 8-bit weights there, are no conversion."""

    def decorated(model: onnx.ModelProto) -> None:
        whole = onnx.load(lenet / "model.onnx")
        own = list(model.graph.node)
        for each in own:
            each.output[:] = [f"dead.{name}" for name in each.output]
            each.input[:] = [
                f"dead.{name}" if any(f"dead.{name}" in other.output for other in own) else name for name in each.input
            ]
        names = {tensor.name for tensor in model.graph.initializer}
        model.graph.initializer.extend(tensor for tensor in whole.graph.initializer if tensor.name not in names)
        model.graph.node.extend(whole.graph.node)

    put(lenet, "int8.onnx", changed(lenet, "int8.onnx", decorated))
    assert failing(lenet)["conversion"].startswith(
        "int8: the manifest says 5 converted and 0 kept layers, and the file has 0 and 5"
    )


def test_a_scale_that_is_right_beside_the_way_to_the_outputs_alone_is_named(lenet: Path) -> None:
    """A dead node that rounds the same value by the scale of the range table does not stand for the live one."""

    def decoy(model: onnx.ModelProto) -> None:
        live = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
        dead = onnx.NodeProto.FromString(live.SerializeToString())
        dead.name, dead.output[0] = "dead", "dead.codes"
        scale = next(tensor for tensor in model.graph.initializer if tensor.name == live.input[1])
        other = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(scale) * np.float32(9), "other.scale")
        model.graph.initializer.append(other)
        live.input[1] = "other.scale"
        model.graph.node.append(dead)

    put(lenet, "int8.onnx", changed(lenet, "int8.onnx", decoy))
    assert "in int8.json is not that of the file" in failing(lenet)["conversion"]


def test_the_accuracy_of_further_files_is_said_not_to_be_checked(lenet: Path) -> None:
    edit(lenet, lambda document: document["variants"][1].update(accuracy=0.99))
    (unchecked,) = (check.text for check in checks(lenet) if check.outcome == "unchecked" and "int8" in check.text)
    assert unchecked == "the accuracy of int8: edgekit evaluate measures it"


def test_a_file_that_is_no_onnx_file_is_refused_by_its_name(lenet: Path) -> None:
    put(lenet, "int8.onnx", b"\xff\xff")
    with pytest.raises(BundleError, match=r"int8\.onnx is no ONNX file"):
        checks(lenet)


def converted_on_random_numbers(tmp_path: Path) -> Path:
    """A bundle of a network that takes plain numbers, whose first layer is in int8, calibrated on random numbers."""
    nodes = [node("Conv", ["x", "w"], "a", "first"), node("Relu", ["a"], "b"), node("Conv", ["b", "v"], "y", "last")]
    model = model_of(nodes, [tensor("w", 16, 16, 3, 3), tensor("v", 16, 16, 3, 3)], shape=("batch", 16, 8, 8))
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    export(str(tmp_path / "net.onnx"), tmp_path / "bundle", ExportOptions())
    bundle = open_bundle(tmp_path / "bundle")
    with_variant(bundle, variants.convert(bundle, "int8", variants.Wanted(calibrate="random")).draft, bundle.root)
    return tmp_path / "bundle"


def say(root: Path, **said: Any) -> None:
    """Say something else of the calibration, in the manifest and in the range table."""
    edit(root, lambda document: document["variants"][1]["conversion"]["calibration"].update(said))
    table = json.loads((root / "int8.json").read_bytes())
    table["calibration"].update(said)
    put(root, "int8.json", json.dumps(table).encode())


DATA = {"calibrated": True, "source": "256 training pictures of cats", "samples": 256}


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (DATA, "the sha256 is that of random numbers"),
        ({**DATA, "sha256": "0" * 64}, "the range of 'x' is that of random numbers"),
    ],
)
def test_a_calibration_on_random_numbers_that_is_passed_off_as_data_is_named(
    tmp_path: Path, said: dict[str, Any], shown: str
) -> None:
    root = converted_on_random_numbers(tmp_path)
    assert failing(root) == {}
    say(root, **said)
    assert failing(root) == {"conversion": f"int8: it is said to be calibrated on 256 training pictures of cats, and {shown}"}


def test_the_hash_tells_random_pictures_too(lenet: Path) -> None:
    digest = feed_sha256(random_calibration(open_bundle(lenet).manifest))
    say(lenet, sha256=digest)
    assert "and the sha256 is that of random numbers" in failing(lenet)["conversion"]
    say(lenet, sha256=digest, calibrated=False)
    assert failing(lenet) == {}


def saying(converted: int) -> Callable[[dict[str, Any]], object]:
    return lambda document: document["variants"][2]["conversion"].update(converted=converted)


@pytest.mark.parametrize(("name", "nodes"), [("edgenet", 15), ("densenet", 84)])
def test_the_nodes_in_float16_are_as_many_as_the_manifest_says_and_no_others(
    repository: Path, tmp_path: Path, name: str, nodes: int
) -> None:
    root = copied(repository, tmp_path, name)
    assert failing(root) == {}
    for said in (nodes - 1, nodes + 1):
        edit(root, saying(said))
        assert failing(root)["conversion"] == f"float16: the manifest says {said} converted nodes, and the file has {nodes}"


def test_a_node_that_is_said_to_be_kept_and_computes_in_float16_is_named(repository: Path, tmp_path: Path) -> None:
    root = copied(repository, tmp_path, "edgenet")
    relu = next(each for each in onnx.load(root / "float16.onnx").graph.node if each.op_type == "Relu")
    kept = {"node": relu.name, "operator": "Relu", "module": "", "reason": "asked"}
    edit(root, lambda document: document["variants"][2]["conversion"].update(converted=14, kept=[kept]))
    assert failing(root)["conversion"] == f"float16: it keeps {relu.name!r}, which computes in float16"


@pytest.mark.parametrize(
    ("version", "asked"),
    [("0.1.9", False), ("0.2.0", True), ("0.10.0", True), ("0.10.dev3+local", True), ("1", True), ("?", True)],
)
def test_every_release_from_the_second_on_records_noise_floors(lenet: Path, version: str, asked: bool) -> None:
    for name in ("model.onnx", "int8.onnx", "float16.onnx"):
        put(lenet, name, changed(lenet, name, metadata("edgekit.version", version)))
    edit(lenet, lambda document: (document["golden"].update(parts=[]), document.update(evidence=None)))
    said = failing(lenet).get("evidence")
    assert said == ("the noise floors that edgekit export measures are missing" if asked else None)
