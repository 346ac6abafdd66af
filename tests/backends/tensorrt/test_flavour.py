"""Which TensorRT is taken where several, none or broken ones are installed."""

from __future__ import annotations

import pytest

from edgekit.backends.tensorrt.builder import build_plan
from edgekit.backends.tensorrt.flavour import TensorRT, build_absence, find, how_to_install
from edgekit.errors import MissingError
from edgekit.machine.packages import pip_install
from tests.backends.tensorrt.builds import RANGE
from tests.fake_trt import FakeTensorRT
from tests.networks import lenet
from tests.trt_listing import TEN
from tests.ways import NO_DRIVER, set_driver


def test_the_first_flavour_that_can_build_here_is_taken(monkeypatch: pytest.MonkeyPatch, rtx: TensorRT) -> None:
    FakeTensorRT(TEN).install(monkeypatch)
    assert find().flavour.name == "tensorrt"
    set_driver(monkeypatch, NO_DRIVER)
    assert find().flavour.name == "tensorrt-rtx"


def test_a_flavour_that_is_broken_leaves_the_way_to_the_next(monkeypatch: pytest.MonkeyPatch, rtx: TensorRT) -> None:
    FakeTensorRT(TEN).install(monkeypatch).api.__version__ = "12.0"
    assert find().flavour.name == "tensorrt-rtx"
    monkeypatch.setattr(
        "edgekit.backends.tensorrt.flavour.importlib.util.find_spec", lambda name: None if name == "tensorrt_rtx" else name
    )
    with pytest.raises(MissingError, match=r"tensorrt: edgekit does not know tensorrt 12.0, tensorrt-rtx: it is not installed"):
        find()


def test_where_no_flavour_is_installed_all_are_named_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.backends.tensorrt.flavour.importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingError, match=r"tensorrt: it is not installed, tensorrt-rtx: it is not installed.*install .*rtx"):
        find()
    with pytest.raises(MissingError, match=f"tensorrt cannot build here: it is not installed; {pip_install('trt')}$"):
        find("tensorrt")


def test_on_a_board_the_remedies_are_a_boards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its TensorRT comes from apt, there is no RTX for it, and the older ones have no nvidia-smi."""
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert str(build_absence("tensorrt-rtx") or "") in (
        "",
        "it is not installed; there is no package of it for aarch64, use --flavour tensorrt",
    )
    monkeypatch.setattr("edgekit.backends.tensorrt.flavour.importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingError, match=r"no TensorRT can build here .*; sudo apt install python3-libnvinfer, and "):
        find()
    assert "pip" not in how_to_install()
    monkeypatch.setattr(
        "edgekit.backends.tensorrt.flavour.importlib.util.find_spec", lambda name: name if name == "tensorrt" else None
    )
    set_driver(monkeypatch, NO_DRIVER)
    sentence = "no NVIDIA driver is installed; build on the board itself, in a container with --runtime nvidia"
    assert str(build_absence("tensorrt")) == sentence
    with pytest.raises(MissingError, match=r"; build on the board itself, in a container with --runtime nvidia$"):
        find()


def test_a_library_that_is_missing_is_a_missing_package_and_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeTensorRT(TEN).install(monkeypatch)

    def fail(name: str) -> None:
        raise ImportError("libnvinfer.so.10: cannot open shared object file")

    monkeypatch.setattr("edgekit.backends.tensorrt.flavour.importlib.import_module", fail)
    with pytest.raises(MissingError, match=r"tensorrt is installed but cannot be imported: libnvinfer.so.10.*edgekit doctor"):
        find("tensorrt")


def test_a_release_that_edgekit_does_not_know_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeTensorRT(TEN._replace(version="10.16.1")).install(monkeypatch).api.__version__ = "12.0"
    with pytest.raises(MissingError, match=r"does not know tensorrt 12.0; install one of 8.6 and later 8.x, 10.x, 11.x"):
        find("tensorrt")


def test_a_builder_that_does_not_start_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTensorRT(TEN).install(monkeypatch)
    fake.broken = True
    with pytest.raises(MissingError, match=r"tensorrt 10.16.1 does not start: pybind11.*; run edgekit doctor"):
        build_plan(find("tensorrt"), lenet(), RANGE)
    fake.complaints = [("WARNING", "a newer release is there"), ("ERROR", "CUDA initialization failure with error: 35")]
    with pytest.raises(MissingError, match=r"does not start: CUDA initialization failure with error: 35; run edgekit doctor"):
        build_plan(find("tensorrt"), lenet(), RANGE)
