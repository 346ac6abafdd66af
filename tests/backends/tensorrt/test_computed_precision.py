"""A built engine is asked what it computes in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgekit.backends.tensorrt.engines import engine_folder
from edgekit.backends.tensorrt.inspector import engine_layers
from edgekit.backends.tensorrt.options import BuildOptions
from edgekit.commands.build import build
from edgekit.errors import EngineError, MissingError
from edgekit.reports.build import BuildReport
from edgekit.tensors import BatchRange
from tests.backends.tensorrt.builds import precision_of
from tests.fake_trt import GPU, FakeTensorRT, layers_json
from tests.trt_listing import LISTINGS, TEN
from tests.ways import building


@pytest.fixture
def ten(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    """TensorRT 10 on a machine with a GPU."""
    return FakeTensorRT(TEN).install(monkeypatch)


@pytest.mark.parametrize("key", ["Format/Datatype", "Datatype"])
@pytest.mark.parametrize("text", ["Row major linear FP32", "Float"])
def test_an_engine_that_computes_as_its_file_says_is_kept(bundle: Path, ten: FakeTensorRT, text: str, key: str) -> None:
    ten.information = layers_json(*[text] * 5, key=key)
    report = build(bundle, building(flavour="tensorrt"))
    assert report.passed
    assert precision_of(report).read_from == "engine"
    assert precision_of(report).found == ("float32",)
    assert precision_of(report).note == ""
    # all that it said is there, for whoever has to find out why a check failed
    assert [(layer.name, layer.computes, layer.precisions) for layer in precision_of(report).engine][1] == (
        "conv0",
        True,
        ("float32",),
    )
    assert BuildReport.from_json(report.to_json()) == report
    assert report.engine is not None
    assert report.facts["gpu"] == "Pretended GPU"
    assert ten.shapes_set == {"input": (8, 1, 28, 28)}


def test_tf32_that_was_asked_for_is_no_fault(bundle: Path, ten: FakeTensorRT) -> None:
    ten.information = layers_json(*["Float"] * 5, tactic="sm80_tf32f32")
    assert build(bundle, building(flavour="tensorrt", options=BuildOptions(tf32=True))).passed


@pytest.mark.parametrize("information", [json.dumps({"Layers": ["conv0", "conv1"]}), layers_json("N/A due to dynamic shapes")])
def test_an_engine_that_does_not_say_is_not_taken_for_one_that_does(bundle: Path, ten: FakeTensorRT, information: str) -> None:
    ten.information = information
    report = build(bundle, building(flavour="tensorrt"))
    assert precision_of(report).read_from == "network"
    assert "the engine does not say what its layers compute in" in precision_of(report).note


@pytest.mark.parametrize("document", ["", "conv0\nconv1", "[]", "{}"])
def test_a_description_that_is_no_json_is_an_error(document: str) -> None:
    with pytest.raises(EngineError, match="not the JSON that TensorRT documents"):
        engine_layers(document)


def test_a_runtime_that_does_not_start_is_one_sentence(bundle: Path, ten: FakeTensorRT) -> None:
    ten.fails = "runtime"
    with pytest.raises(MissingError, match=r"tensorrt 10.16.1 does not start: pybind11.*; run edgekit doctor"):
        build(bundle, building(flavour="tensorrt"))


def test_a_shape_that_the_engine_refuses_is_an_error_and_no_guess_at_its_precision(bundle: Path, ten: FakeTensorRT) -> None:
    ten.fails = "shape"
    with pytest.raises(EngineError, match="cannot take input of 8x1x28x28: a shape it does not take"):
        build(bundle, building(flavour="tensorrt"))


@pytest.mark.parametrize("listing", LISTINGS[:3], ids=lambda listing: listing.version)
def test_an_engine_of_several_profiles_is_asked_about_each(bundle: Path, monkeypatch: pytest.MonkeyPatch, listing: Any) -> None:
    """8.6 tells the layers of a profile only in its shapes; before any shapes are set nobody tells."""
    fake = FakeTensorRT(listing).install(monkeypatch)
    ranges = BuildOptions(profiles=(BatchRange(1, 1, 1), BatchRange(2, 4, 8), BatchRange(16, 16, 16)))
    report = build(bundle, building(flavour="tensorrt", options=ranges))
    assert (precision_of(report).read_from, precision_of(report).problems, precision_of(report).note) == ("engine", (), "")
    copies = 3 if listing.flavour.precision_flags else 1
    assert len(precision_of(report).engine) == 5 * copies
    assert fake.contexts == 3


def test_a_version_compatible_engine_is_allowed_to_bring_its_runtime(bundle: Path, ten: FakeTensorRT) -> None:
    report = build(bundle, building(flavour="tensorrt", options=BuildOptions(version_compatible=True)))
    assert precision_of(report).read_from == "engine"


def test_an_engine_that_its_own_gpu_cannot_load_is_an_error(bundle: Path, ten: FakeTensorRT) -> None:
    ten.loads = False
    with pytest.raises(
        EngineError, match=r"refuses the engine it has just built: the GPU is of another kind; run the bundle with"
    ):
        build(bundle, building(flavour="tensorrt"))
    assert not list(engine_folder().glob("*.plan"))


def test_rtx_builds_for_the_gpu_that_is_here_and_what_does_not_load_on_it_is_an_error(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Turing is not among its usual targets."""
    fake = FakeTensorRT(LISTINGS[-1]).install(monkeypatch)
    monkeypatch.setattr("edgekit.backends.tensorrt.flavour.gpu_facts", lambda: {**GPU, "compute capability": "7.5"})
    assert precision_of(build(bundle, building(flavour="tensorrt-rtx"))).read_from == "engine"
    assert fake.builds[0][1]._capabilities == {0: "CURRENT"}
    fake.fails = "capability"
    with pytest.raises(EngineError, match="cannot build for the GPU that is here: no such compute capability; "):
        build(bundle, building(flavour="tensorrt-rtx"), rebuild=True)
    fake.fails = ""
    fake.loads = False
    with pytest.raises(EngineError, match="refuses the engine it has just built"):
        build(bundle, building(flavour="tensorrt-rtx"), rebuild=True)


def test_rtx_may_build_for_other_gpus_than_one_that_it_does_not_know(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTensorRT(LISTINGS[-1]).install(monkeypatch)
    fake.loads = False
    report = build(bundle, building(flavour="tensorrt-rtx"))
    assert report.passed
    assert precision_of(report).note.endswith("knows no GPU of compute capability 8.7")
    assert report.facts == {"TF32": "off", "gpu": "none in particular"}
    assert fake.builds[0][1].__dict__.get("_capabilities") is None
