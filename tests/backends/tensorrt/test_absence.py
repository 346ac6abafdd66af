"""When the tensorrt backend is absent, and with which remedy."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from edgekit.backends import open_session
from edgekit.bundle.folder import open_bundle
from edgekit.errors import MissingError
from edgekit.machine.packages import pip_install
from tests.backends.tensorrt.opened import without
from tests.fake_cuda import Error
from tests.fake_trt import FakeTensorRT
from tests.trt_listing import LISTINGS, TEN
from tests.ways import NO_DRIVER, set_driver, way, why_not

pytest.importorskip("cuda.bindings.runtime", exc_type=ImportError)


def test_nothing_is_imported_where_there_is_no_flavour_or_no_driver(ten: FakeTensorRT, monkeypatch: pytest.MonkeyPatch) -> None:
    imported: list[str] = []
    set_driver(monkeypatch, NO_DRIVER)
    monkeypatch.setattr("edgekit.backends.tensorrt.flavour.importlib.import_module", imported.append)
    assert why_not("tensorrt") == "no NVIDIA driver is installed; install one, or use ort-cpu"
    without(monkeypatch, "tensorrt", "tensorrt_rtx")
    assert why_not("tensorrt") == f"TensorRT is not installed; {pip_install('trt')}, or on RTX {pip_install('rtx')}"
    assert imported == []


@pytest.mark.parametrize(("name", "extra"), [("tensorrt", "trt"), ("tensorrt-rtx", "rtx")])
def test_a_flavour_that_is_named_and_not_installed_is_said_before_the_driver(
    ten: FakeTensorRT, monkeypatch: pytest.MonkeyPatch, name: str, extra: str
) -> None:
    set_driver(monkeypatch, NO_DRIVER)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    without(monkeypatch, name.replace("-", "_"))
    assert why_not("tensorrt", flavour=name) == f"{name} is not installed; {pip_install(extra)}"


def test_what_else_may_be_missing_is_said_with_its_remedy(
    ten: FakeTensorRT, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert why_not("tensorrt") == ""
    ten.cuda.fails["cudaGetDeviceCount"] = Error.cudaErrorInsufficientDriver
    assert re.search(r"driver version is insufficient.*cuda-bindings==12", why_not("tensorrt"))
    ten.api.__version__ = "12.0"
    assert "does not know tensorrt 12.0" in why_not("tensorrt")
    monkeypatch.setitem(sys.modules, "edgekit.backends.tensorrt.memory", None)
    ten.api.__version__ = TEN.version
    assert "pip install cuda-bindings" in why_not("tensorrt")
    without(monkeypatch, "onnx")
    assert "pip install onnx" in why_not("tensorrt")
    with pytest.raises(MissingError, match=r"tensorrt cannot run here: .*onnx"):
        open_session(way("tensorrt"), open_bundle(bundle).files())


@pytest.mark.parametrize(("capability", "present"), [("8.9", True), ("12.0", True), ("9.0", False), ("", True)])
def test_rtx_is_absent_on_a_gpu_that_it_does_not_know(monkeypatch: pytest.MonkeyPatch, capability: str, present: bool) -> None:
    FakeTensorRT(LISTINGS[-1]).install_with_cuda(monkeypatch)
    monkeypatch.setattr("edgekit.backends.tensorrt.flavour.NAMES", ("tensorrt-rtx",))
    monkeypatch.setattr("edgekit.backends.tensorrt.flavour.gpu_facts", lambda: {"compute capability": capability})
    problem = why_not("tensorrt")
    assert (problem == "") is present
    assert present or "knows no GPU of compute capability 9.0" in problem
