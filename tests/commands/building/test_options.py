"""Batch ranges, options and flavours that ``edgekit build`` takes or refuses."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import msgspec
import onnx
import pytest

from edgekit.backends.tensorrt.builder import build_plan
from edgekit.backends.tensorrt.flavour import TensorRT, find
from edgekit.backends.tensorrt.options import BuildOptions
from edgekit.commands.build import build
from edgekit.errors import EngineError, UsageError
from edgekit.tensors import TensorSpec
from tests.backends.tensorrt.builds import RANGE
from tests.commands.building.command import Command, refused
from tests.fake_trt import FakeTensorRT
from tests.networks import lenet
from tests.onnx_files import onnx_file
from tests.trt_listing import LISTINGS, TEN
from tests.ways import NO_DRIVER, building, set_driver


def test_a_free_batch_without_a_range_is_refused_and_the_command_line_has_one(bundle: Path, rtx: TensorRT, run: Command) -> None:
    model = lenet()
    with pytest.raises(UsageError, match=r"input input of model.onnx leaves the batch free; .*--batch 1:8:32"):
        build_plan(rtx, model, BuildOptions())
    assert run(bundle).document["ranges"] == [{"min": 1, "opt": 8, "max": 32}]


def test_another_free_axis_than_the_batch_is_named(rtx: TensorRT) -> None:
    model = lenet()
    wide = model._replace(inputs=(TensorSpec("input", "float32", ("batch", 1, "height", 28)),))
    with pytest.raises(UsageError, match=r"input input of model.onnx leaves height free"):
        build_plan(rtx, wide, RANGE)


def test_a_fixed_batch_with_a_range_is_refused_and_without_one_builds(rtx: TensorRT) -> None:
    model = lenet()
    proto = onnx.load_model_from_string(model.content)
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_value = 2
    both = (model.inputs, model.outputs)
    sides = [tuple(TensorSpec(spec.name, spec.dtype, spec.concrete(2)) for spec in side) for side in both]
    inputs, outputs = sides
    fixed = onnx_file(proto.SerializeToString(), inputs, outputs)
    with pytest.raises(UsageError, match="has no free batch axis; leave out --batch"):
        build_plan(rtx, fixed, RANGE)
    assert len(build_plan(rtx, fixed, BuildOptions()).plan) > 10_000


@pytest.mark.parametrize("batch", ["8:4:1", "4:2:8", "1:9:8", "0:1:2", "0", "1:8:65537", "1:8", "1:2:3:4", "a:b:c", "-1:1:2"])
def test_a_range_that_no_batch_fits_is_refused(bundle: Path, run: Command, batch: str) -> None:
    message = refused(run, bundle, "--batch", batch, kind="UsageError")
    assert message.startswith("--batch ")
    assert "1:8:32" in message


def test_tensorrt_itself_refusing_a_profile_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTensorRT(TEN).install(monkeypatch)
    fake.profile_result = -1
    with pytest.raises(EngineError, match=r"tensorrt 10.16.1 cannot build for the batch sizes 1:2:4"):
        build_plan(find("tensorrt"), lenet(), RANGE)


def test_too_little_memory_for_a_layer_says_which_option_gives_more(bundle: Path, run: Command) -> None:
    assert "workspace limit" in (message := refused(run, bundle, "--workspace", "1"))
    assert message.endswith("give it more with --workspace")
    assert "/_src/" not in message
    assert ".cpp" not in message


@pytest.mark.parametrize("option", ["--hardware-compatible", "--version-compatible"])
def test_an_option_that_the_flavour_lacks_is_refused_by_name(bundle: Path, run: Command, option: str) -> None:
    message = refused(run, bundle, option, "--flavour", "tensorrt-rtx", kind="UsageError")
    assert f"does not have {option}; leave it out" in message


def test_rtx_takes_no_level_because_it_measures_nothing(bundle: Path, run: Command) -> None:
    message = refused(run, bundle, "--level", "5", "--flavour", "tensorrt-rtx", kind="UsageError")
    assert "does not have --level, because it measures no kernels; leave it out" in message


def test_rtx_builds_what_a_graph_can_record_and_the_others_need_nothing_for_it(
    rtx: TensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = msgspec.structs.replace(RANGE, cuda_graph=True)
    assert build_plan(rtx, lenet(), graph).plan != build_plan(rtx, lenet(), RANGE).plan
    fake = FakeTensorRT(LISTINGS[-1]).install(monkeypatch)
    build_plan(find("tensorrt-rtx"), lenet(), graph)
    assert "REQUIRE_USER_ALLOCATION" in fake.builds[0][1]._flags
    FakeTensorRT(TEN).install(monkeypatch)
    with pytest.raises(UsageError, match="does not have --cuda-graph, because all its engines can be recorded; leave it out"):
        build_plan(find("tensorrt"), lenet(), graph)


def test_a_workspace_that_no_machine_has_is_refused(bundle: Path, run: Command) -> None:
    assert "give a whole number from 1 to 1048576" in refused(run, bundle, "--workspace", "17592186044416", kind="UsageError")


@pytest.mark.parametrize("option", [("--level", "6"), ("--level", "-1"), ("--workspace", "0")])
def test_an_option_out_of_its_range_is_wrong_usage(bundle: Path, run: Command, option: tuple[str, str]) -> None:
    result = run(bundle, *option)
    assert (result.code, result.document["error"]["kind"]) == (2, "UsageError")


@pytest.mark.parametrize("options", [BuildOptions(level=6), BuildOptions(level=-1), BuildOptions(workspace_mib=0)])
def test_an_option_out_of_its_range_is_refused_in_python_too(bundle: Path, rtx: TensorRT, options: BuildOptions) -> None:
    with pytest.raises(UsageError):
        build(bundle, building(flavour="tensorrt-rtx", options=options))


# the choice of a flavour


def test_a_flavour_that_needs_a_driver_is_not_even_imported_without_one(
    bundle: Path, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeTensorRT(TEN).install(monkeypatch)
    imported: list[str] = []
    real = importlib.import_module

    def importing(name: str, package: str | None = None) -> Any:
        """Import a module; Typer and its dependencies use this function too."""
        if not name.startswith("tensorrt"):
            return real(name, package)
        imported.append(name)
        return fake.api

    set_driver(monkeypatch, NO_DRIVER)
    monkeypatch.setattr("edgekit.backends.tensorrt.flavour.importlib.import_module", importing)
    message = refused(run, bundle, "--flavour", "tensorrt", kind="MissingError")
    assert message == (
        "tensorrt cannot build here: no NVIDIA driver is installed; "
        "run nvidia-smi, or use --flavour tensorrt-rtx, which builds without"
    )
    assert imported == []


def test_an_unknown_flavour_is_refused_with_the_known_ones(bundle: Path, run: Command) -> None:
    assert "use one of tensorrt, tensorrt-rtx" in refused(run, bundle, "--flavour", "tensorrt11", kind="UsageError")
