"""A bundle of two variants: each is named, run and checked against its own allowance; an unknown name is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgekit.bundle.folder import Bundle, open_bundle, write_bundle
from edgekit.bundle.manifest import Allowance, Variant
from edgekit.cli.app import main
from edgekit.commands.bench import bench
from edgekit.commands.further import Further
from edgekit.commands.verify import verify
from edgekit.errors import UsageError
from edgekit.latency.loop import Timing
from edgekit.tolerance import Tolerance
from tests.ways import why_not

COARSE = Tolerance(atol=1e-6, rtol=1e-2)
STORED_WIDE = ("precision", "conversion")  # the second variant holds float32 numbers, and nothing says what made it


def rounded(content: bytes) -> bytes:
    """The network with weights rounded to float16 and stored as float32."""
    model = onnx.load_from_string(content)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            coarse = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(coarse, tensor.name))
    rewritten: bytes = model.SerializeToString()
    return rewritten


def two_variants(root: Path, tolerance: Tolerance) -> Bundle:
    """The bundle at ``root`` with a second variant, called float16."""
    bundle = open_bundle(root)
    contents = {name: (root / name).read_bytes() for name in bundle.manifest.files}
    contents["coarse.onnx"] = rounded(contents[bundle.variant().file])
    second = Variant("float16", "coarse.onnx", "float16", Allowance(tolerance))
    manifest = msgspec.structs.replace(bundle.manifest, variants=(*bundle.manifest.variants, second))
    return write_bundle(root, manifest, contents)


def test_each_variant_is_checked_against_its_own_allowance(bundle: Path) -> None:
    two_variants(bundle, COARSE)
    report = verify(bundle, ["ort-cpu", "ort-cpu variant=float16"], allow=STORED_WIDE)
    assert report.passed
    exact, coarse = report.parities
    assert [parity.backend for parity in report.parities] == ["ort-cpu variant=float32", "ort-cpu variant=float16"]
    assert [parity.setup.variant for parity in report.parities] == ["float32", "float16"]
    assert (coarse.tolerance.rtol, coarse.noise_factor) == (COARSE.rtol, None)
    assert (exact.tolerance.rtol, exact.noise_factor) == (Tolerance().rtol, 4)
    assert coarse.outputs[0].normalised > 10 * exact.outputs[0].normalised
    assert coarse.facts["precision"] == "float16"


def test_a_variant_beyond_its_allowance_fails_and_the_first_does_not_notice(bundle: Path) -> None:
    """The partner of the test above: the second variant fails against the first variant's allowance."""
    two_variants(bundle, Tolerance())
    assert not verify(bundle, ["ort-cpu variant=float16"], allow=STORED_WIDE).passed
    assert verify(bundle, ["ort-cpu variant=float32"], allow=STORED_WIDE).passed
    assert not verify(bundle, ["ort-cpu"], allow=STORED_WIDE).passed


def test_pytorch_runs_the_exported_variant_only(bundle: Path) -> None:
    opened = two_variants(bundle, COARSE)
    assert why_not("torch", opened.files()) == ""
    assert "which this variant was made of" in why_not("torch", opened.files("float16"))


def test_pytorch_runs_the_exported_variant_in_any_position(bundle: Path) -> None:
    opened = two_variants(bundle, COARSE)
    contents = {name: (bundle / name).read_bytes() for name in opened.manifest.files}
    turned = msgspec.structs.replace(opened.manifest, variants=opened.manifest.variants[::-1])
    opened = write_bundle(bundle, turned, contents)
    assert opened.variant().name == "float16"
    assert "which this variant was made of" in why_not("torch", opened.files())
    assert why_not("torch", opened.files("float32")) == ""


def test_variants_are_timed_against_each_other(bundle: Path) -> None:
    two_variants(bundle, COARSE)
    report = bench(bundle, ["ort-cpu", "ort-cpu variant=float16"], Timing((1,), 0.01), further=Further(layers=True))
    names = ["ort-cpu variant=float32", "ort-cpu variant=float16"]
    assert list(dict.fromkeys(row.backend for row in report.rows)) == names
    assert [layers.backend for layers in report.layers] == names
    assert {(comparison.backend, comparison.baseline) for comparison in report.comparisons} == {(names[1], names[0])}


@pytest.mark.parametrize(
    ("command", "more"),
    [
        ("verify", ["--allow", "precision", "--allow", "conversion"]),
        ("bench", ["--batch", "1", "--seconds", "0.01"]),
        ("inspect", []),
    ],
)
def test_the_command_line_takes_a_variant(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, more: list[str]
) -> None:
    opened = two_variants(bundle, COARSE)
    backend = [] if command == "inspect" else ["--backend", "ort-cpu"]
    arguments = ["edgekit", command, str(bundle), *backend, "--variant", "float16", "--json", *more]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code == 0
    document: dict[str, Any] = msgspec.json.decode(capsys.readouterr().out)
    if command == "inspect":
        assert document["source"].endswith("coarse.onnx")
    else:
        assert document["onnx_sha256"] == opened.sha256_of("float16") != opened.sha256_of()


def test_an_unknown_variant_is_refused_with_the_names_of_the_variants(bundle: Path) -> None:
    two_variants(bundle, COARSE)
    with pytest.raises(UsageError, match="has no variant 'int8'; choose one of: float32, float16"):
        verify(bundle, ["ort-cpu variant=int8"])
