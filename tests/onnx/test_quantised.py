"""Quantised ONNX files from elsewhere are bundled as int8, against themselves, with a bar of a few steps, or refused."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from edgekit.bundle.folder import open_bundle
from edgekit.commands.export import export
from edgekit.commands.verify import verify
from edgekit.errors import ModelError
from edgekit.onnx.run import open_unoptimised
from edgekit.sources import narrow
from tests.bundle.editing import put
from tests.onnx.crafted import conv, model_of, node, norm, statistics, tensor

KINDS = [
    (format_, activations, weights, per_channel)
    for format_ in (QuantFormat.QDQ, QuantFormat.QOperator)
    for activations, weights in ((QuantType.QUInt8, QuantType.QInt8), (QuantType.QInt8, QuantType.QInt8))
    for per_channel in (False, True)
]


class Samples(CalibrationDataReader):  # type: ignore[misc]
    """Normal numbers for calibration."""

    def __init__(self) -> None:
        self.feeds: Iterator[dict[str, np.ndarray]] = iter(
            [{"x": np.random.default_rng(seed).standard_normal((4, 4, 8, 8)).astype(np.float32)} for seed in range(4)]
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


@pytest.fixture
def float32(tmp_path: Path) -> Path:
    model = model_of(
        [conv(), norm("c", "n"), node("Relu", ["n"], "r"), conv("r", "d", "w2", "conv2"), node("Flatten", ["d"], "y")],
        [tensor("w", 6, 4, 3, 3), *statistics("bn", 6), tensor("w2", 5, 6, 3, 3)],
    )
    onnx.save(model, tmp_path / "float32.onnx")
    logging.getLogger().setLevel(logging.ERROR)
    return tmp_path / "float32.onnx"


def quantised(source: Path, kind: Any = KINDS[0]) -> Path:
    format_, activations, weights, per_channel = kind
    place = source.with_name("quantised.onnx")
    quantize_static(
        source, place, Samples(), quant_format=format_, activation_type=activations, weight_type=weights, per_channel=per_channel
    )
    return place


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(str(each) for each in kind))
def test_a_quantised_file_is_an_int8_bundle_that_passes(float32: Path, tmp_path: Path, kind: Any) -> None:
    report = export(str(quantised(float32, kind)), tmp_path / "bundle")
    (variant,) = open_bundle(tmp_path / "bundle").manifest.variants
    assert (report.variant, variant.name, variant.precision) == ("int8", "int8", "int8")
    assert variant.allowance.tolerance.rtol >= 3 / 255
    assert any("the file is quantised" in text for text in report.notes)
    verified = verify(tmp_path / "bundle", ["ort-cpu"])
    assert verified.passed
    assert verified.parities[0].noise_factor is None  # steps are no rounding noise


def test_a_scale_that_was_changed_fails(float32: Path, tmp_path: Path) -> None:
    """The partner: a bar of a few steps still fails a file that is another."""
    export(str(quantised(float32)), tmp_path / "bundle")
    model = onnx.load(tmp_path / "bundle" / "model.onnx")
    scale = next(each for each in model.graph.initializer if each.name.startswith("w2") and each.name.endswith("scale"))
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(1.1), scale.name))
    put(tmp_path / "bundle", "model.onnx", model.SerializeToString())
    assert not verify(tmp_path / "bundle", ["ort-cpu"]).passed


def test_a_file_that_fused_kernels_ruin_on_this_machine_is_refused(
    float32: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_unoptimised

    def saturating(*arguments: Any, **options: Any) -> Any:
        run = opened(*arguments, **options)
        if options.get("level") != "all":
            return run
        return lambda feed: {name: array.clip(-0.5 * np.abs(array).max()) for name, array in run(feed).items()}

    monkeypatch.setattr(narrow, "open_unoptimised", saturating)
    with pytest.raises(ModelError, match=r"is quantised \(\w+\), and ONNX Runtime's optimisations change its outputs by"):
        export(str(quantised(float32)), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(("share", "refused"), [(0.08, False), (0.12, True)])
def test_fused_kernels_may_change_a_tenth_of_the_scale(
    float32: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, refused: bool
) -> None:
    opened = open_unoptimised

    def moving(*arguments: Any, **options: Any) -> Any:
        run, plain = opened(*arguments, **options), opened(*arguments)
        if options.get("level") != "all":
            return run
        return lambda feed: {name: array + share * np.abs(array).max() for name, array in plain(feed).items()}

    monkeypatch.setattr(narrow, "open_unoptimised", moving)
    source = str(quantised(float32))
    if refused:
        with pytest.raises(ModelError, match=r"optimisations change its outputs by 1\.2e-01 of their scale"):
            export(source, tmp_path / "bundle")
    else:
        notes = export(source, tmp_path / "bundle").notes
        assert any("edgekit verify takes it only with --allow tolerance" in text for text in notes)  # 16 % is beyond 5 %


def test_a_file_whose_steps_are_those_of_the_whole_batch_is_refused_with_the_node(float32: Path, tmp_path: Path) -> None:
    place = tmp_path / "dynamic.onnx"
    quantize_dynamic(float32, place, weight_type=QuantType.QUInt8)
    with pytest.raises(ModelError, match=r"DynamicQuantizeLinear, whose steps are those of the whole batch"):
        export(str(place), tmp_path / "bundle")


def test_a_float_file_may_not_call_itself_int8(float32: Path, tmp_path: Path) -> None:
    from tests.bundle.editing import edit

    export(str(float32), tmp_path / "bundle")
    edit(tmp_path / "bundle", lambda document: document["variants"][0].update(precision="int8"))
    report = verify(tmp_path / "bundle", ["ort-cpu"])
    assert [check.code for check in report.checks if check.outcome == "fail"] == ["precision"]
