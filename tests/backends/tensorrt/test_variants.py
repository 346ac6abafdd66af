"""``edgekit build`` of each variant of a bundle: its own file, engine and record, and no float32 where it says otherwise."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest

from edgekit.backends.tensorrt.engines import engine_folder, read_record
from edgekit.backends.tensorrt.flavour import TensorRT
from edgekit.bundle.folder import Bundle, open_bundle
from edgekit.commands.build import build
from edgekit.commands.export import export
from edgekit.commands.verify import verify
from edgekit.errors import EngineError
from edgekit.reports.build import BuildReport
from tests.backends.tensorrt.builds import precision_of
from tests.command_line import Command
from tests.fake_trt import FakeTensorRT
from tests.onnx_files import quantised
from tests.trt_listing import LISTINGS
from tests.trt_variants import half_model, int8_model, layers_of, with_both, with_file

VARIANTS = ("float32", "int8", "float16")


@pytest.fixture(scope="module")
def _variants(_lenet_export: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = Path(shutil.copytree(_lenet_export, tmp_path_factory.mktemp("variants") / "bundle"))
    with_both(copy)
    return copy


@pytest.fixture
def variants(_variants: Path, tmp_path: Path) -> Bundle:
    """A bundle of three variants: one layer of five stays float32 in int8 and in float16."""
    return open_bundle(Path(shutil.copytree(_variants, tmp_path / "variants")))


@pytest.mark.parametrize("listing", LISTINGS, ids=lambda listing: listing.version)
def test_each_variant_is_built_from_its_own_file_and_kept_by_itself(
    variants: Bundle, monkeypatch: pytest.MonkeyPatch, listing: Any
) -> None:
    fake = FakeTensorRT(listing).install(monkeypatch)
    monkeypatch.setattr("edgekit.backends.tensorrt.flavour.gpu_facts", lambda: {"compute capability": "8.9"})
    for variant in VARIANTS:
        report = build(variants.root, f"tensorrt flavour={listing.flavour.name} variant={variant}")
        counts = {"float32": 5} if variant == "float32" else {variant: 4, "float32": 1}
        assert precision_of(report).in_network == precision_of(report).in_engine == counts
        assert (report.passed, precision_of(report).problems, precision_of(report).untold) == (True, (), 0)
        assert (report.onnx_sha256, report.setup.variant) == (variants.sha256_of(variant), variant)
        assert report.engine is not None
        record = read_record(Path(report.engine))
        assert record is not None
        assert (record.key.precision, record.key.onnx_sha256) == (variant, variants.sha256_of(variant))
        assert record.key.converted == (None if variant == "float32" else 4)
        assert build(variants.root, f"tensorrt flavour={listing.flavour.name} variant={variant}").cached
    assert len(list(engine_folder().glob("*.plan"))) == len(fake.builds) == 3


@pytest.mark.parametrize("variant", VARIANTS)
def test_nvidias_builder_builds_each_variant_without_a_gpu(rtx: TensorRT, variants: Bundle, variant: str) -> None:
    report = build(variants.root, f"tensorrt flavour=tensorrt-rtx variant={variant}")
    assert report.passed
    counts = {"float32": 5} if variant == "float32" else {variant: 4, "float32": 1}
    assert precision_of(report).in_network == counts
    assert precision_of(report).in_engine == {}
    assert report.notes == ()  # of uint8 in edgekit's own file there is nothing to say


def test_the_command_line_builds_a_variant_and_counts_its_layers(variants: Bundle, rtx: TensorRT, run: Command) -> None:
    words = ("build", variants.root, "--variant", "int8", "--flavour", "tensorrt-rtx")
    done = run(*words, "--json")
    assert done.code == 0
    document = json.loads(done.out)
    assert document["precision"]["in_network"] == {"int8": 4, "float32": 1}
    assert document["onnx_sha256"] == variants.sha256_of("int8")
    table = run(*words).out
    assert "(int8) in tensorrt-rtx" in table
    (row,) = [line for line in table.splitlines() if line.startswith("int8") or line.strip(" │").startswith("int8")]
    assert "4" in row
    assert "not told" in row
    assert run("build", variants.root, "--variant", "int4").code == 2


def test_verify_runs_the_engine_of_the_variant(variants: Bundle, ten: FakeTensorRT) -> None:
    for variant in VARIANTS:
        built = build(variants.root, f"tensorrt variant={variant}")
        report = verify(variants.root, [f"tensorrt variant={variant}"])
        (parity,) = report.parities
        assert parity.passed
        assert parity.facts["engine sha256"] == built.engine_sha256
        assert variant in parity.facts["precision"]
    assert len(ten.builds) == 3


def test_an_engine_of_another_variant_is_refused_with_the_variant_as_the_remedy(
    variants: Bundle, ten: FakeTensorRT, tmp_path: Path
) -> None:
    place = tmp_path / "int8.plan"
    build(variants.root, "tensorrt variant=int8", output=place)
    assert verify(variants.root, [f"tensorrt variant=int8 engine={place}"]).parities[0].passed
    expected = r"engine of another file than .* \(the engine is int8, the file float32\); give .*, and its --variant$"
    with pytest.raises(EngineError, match=expected):
        verify(variants.root, [f"tensorrt variant=float32 engine={place}"])
    assert verify(variants.root, [f"tensorrt engine={place}"]).parities[0].setup.variant == "int8"


def test_an_engine_is_built_anew_where_the_manifest_says_something_else_of_the_same_file(bundle: Path, ten: FakeTensorRT) -> None:
    model, last = int8_model(open_bundle(bundle), layers_of(open_bundle(bundle))[-1:]), layers_of(open_bundle(bundle))[-1]
    with_file(bundle, "int8", model, 4, [last])
    assert build(bundle, "tensorrt variant=int8").passed
    with_file(bundle, "int8", model, 5)
    again = build(bundle, "tensorrt variant=int8")
    assert (again.cached, again.passed, again.engine) == (False, False, None)


def failing(root: Path, precision: str, model: onnx.ModelProto, converted: int, *kept: str) -> tuple[BuildReport, str]:
    """The report of a build that keeps nothing, and its first problem."""
    with_file(root, precision, model, converted, kept)
    report = build(root, f"tensorrt flavour=tensorrt-rtx variant={precision}")
    assert not report.passed
    assert report.engine is None
    assert not list(engine_folder().glob("*.plan"))
    return report, precision_of(report).problems[0]


def test_an_int8_variant_that_is_all_float32_fails(rtx: TensorRT, bundle: Path) -> None:
    model = onnx.load_from_string(open_bundle(bundle).onnx_bytes())
    report, problem = failing(bundle, "int8", model, 5)
    assert problem == "int8 was asked for, and the network computes in float32"
    assert precision_of(report).in_network == {"float32": 5}


def test_an_int8_variant_of_which_a_layer_is_float32_fails_unless_the_manifest_says_so(rtx: TensorRT, bundle: Path) -> None:
    first = layers_of(open_bundle(bundle))[0]
    _, problem = failing(bundle, "int8", int8_model(open_bundle(bundle), [first]), 5)
    assert problem == f"the manifest counts 5 layers in int8, and the network has 4: not {first}"
    with_file(bundle, "int8", int8_model(open_bundle(bundle), [first]), 4, [first])
    assert build(bundle, "tensorrt flavour=tensorrt-rtx variant=int8").passed


def test_a_float16_variant_of_which_a_layer_is_float32_fails_unless_it_was_kept(rtx: TensorRT, bundle: Path) -> None:
    first, second, *_ = layers_of(open_bundle(bundle))
    _, problem = failing(bundle, "float16", half_model(open_bundle(bundle), [first, second]), 3, second)
    assert problem == f"1 layer(s) are float32 that the manifest does not list among the kept: {first}"
    with_file(bundle, "float16", half_model(open_bundle(bundle), [first, second]), 3, [first, second])
    assert build(bundle, "tensorrt flavour=tensorrt-rtx variant=float16").passed


@pytest.mark.parametrize("uint8", [True, False])
def test_a_bundle_of_a_uint8_file_from_elsewhere_is_built_and_run_with_a_note(
    tmp_path: Path, ten: FakeTensorRT, uint8: bool
) -> None:
    (tmp_path / "model.onnx").write_bytes(quantised(uint8=uint8).content)
    export(str(tmp_path / "model.onnx"), tmp_path / "bundle")
    report = build(tmp_path / "bundle", "tensorrt")
    again = build(tmp_path / "bundle", "tensorrt")
    assert report.passed
    assert (again.cached, again.notes) == (True, report.notes)
    (parity,) = verify(tmp_path / "bundle", ["tensorrt"]).parities
    if uint8:
        (note,) = report.notes
        assert note.startswith("TensorRT reads uint8 as int8: values above 127 steps are clipped")
        assert parity.facts["note"] == note
    else:
        assert report.notes == ()
        assert "note" not in parity.facts
