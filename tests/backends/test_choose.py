"""Which backends take part, and how one is found absent."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import msgspec
import pytest

from edgekit.backends import absence, open_session, table
from edgekit.backends.choose import choose
from edgekit.bundle.files import ModelFiles
from edgekit.bundle.folder import open_bundle, write_bundle
from edgekit.commands.verify import verify
from edgekit.errors import MissingError, UsageError
from edgekit.machine.packages import pip_install
from edgekit.progress import SILENT
from edgekit.setups import Absence, Setup
from tests.ways import NO_DRIVER, set_driver, way, ways, why_not


def without(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None if name in packages else real(name, package))


def test_a_missing_package_is_absent_with_its_remedy(files: ModelFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "torch", "onnxruntime")
    assert pip_install("train") in why_not("torch", files)
    assert "pip install onnxruntime" in why_not("ort-cpu", files)
    assert why_not("ort-cuda", files) == why_not("ort-cpu", files)
    with pytest.raises(MissingError, match=r"torch cannot run here.*not installed"):
        open_session(way("torch"), files)


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        (SystemExit(0), "it ends the program"),
        (RuntimeError("built for another numpy\nmore of it"), "built for another numpy"),
        (AttributeError("module has no attribute '__version__'"), "module has no attribute '__version__'"),
        (OSError("libx.so: cannot open"), "libx.so: cannot open"),
    ],
    ids=["exit", "runtime", "attribute", "loader"],
)
@pytest.mark.parametrize(("module", "name"), [("onnxruntime", "ONNX Runtime"), ("pytorch", "PyTorch")])
def test_a_package_that_breaks_in_any_way_is_named_and_the_others_run(
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch, problem: BaseException, expected: str, module: str, name: str
) -> None:
    class Broken:
        def find_spec(self, wanted: str, *rest: object) -> None:
            if wanted == f"edgekit.backends.{module}.session":
                raise problem

    monkeypatch.delitem(sys.modules, f"edgekit.backends.{module}.session", raising=False)
    monkeypatch.delattr(f"edgekit.backends.{module}.session", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    kinds = {"onnxruntime": "ort-cpu", "pytorch": "torch"}
    broken = kinds.pop(module)
    (working,) = kinds.values()
    assert why_not(working, files) == ""
    assert absence(Setup(broken), files) == Absence(
        f"{name} is installed but cannot be imported: {expected}", "run edgekit doctor", broken=True
    )
    with pytest.raises(MissingError, match="is installed but cannot be imported"):
        table()[broken].open(files, Setup(broken), SILENT) if broken == "torch" else open_session(way(broken), files)


@pytest.mark.parametrize("module", ["edgekit.backends.onnxruntime.session", "edgekit.backends.pytorch.session"])
def test_a_package_that_cannot_be_imported_is_missing_not_a_crash(
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delattr(module, raising=False)
    kind = "torch" if "pytorch" in module else "ort-cpu"
    with pytest.raises(MissingError, match=r"installed but cannot be imported.*doctor"):
        open_session(way(kind), files)


def test_onnxruntime_without_cuda_is_absent_for_cuda_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.backends.onnxruntime.session.available_providers", lambda: ["CPUExecutionProvider"])
    set_driver(monkeypatch, None)
    assert why_not("ort-cpu") == ""
    assert "has no CUDA" in why_not("ort-cuda")


@pytest.mark.usefixtures("pretended_cuda")
def test_a_missing_driver_makes_cuda_absent_although_onnxruntime_lists_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert why_not("ort-cuda") == ""
    set_driver(monkeypatch, NO_DRIVER)
    assert why_not("ort-cuda") == str(NO_DRIVER)


def test_torch_is_absent_for_a_bundle_without_weights(files: ModelFiles) -> None:
    assert "without --no-keep-weights" in why_not("torch", files._replace(weights=None))
    assert "--source" in why_not("torch", files._replace(factory="somewhere:net"))
    assert why_not("torch", files) == ""


def test_what_is_present_is_chosen_and_the_others_keep_their_reasons(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "torch")
    monkeypatch.setattr("edgekit.backends.onnxruntime.session.available_providers", lambda: ["CPUExecutionProvider"])
    choice = choose(open_bundle(bundle))
    assert [setup.backend for setup in choice.setups] == ["ort-cpu", "openvino"]
    assert [skipped.backend for skipped in choice.skipped] == ["torch", "torch-cuda", "ort-cuda", "ort-tensorrt", "tensorrt"]
    assert all(skipped.reason and skipped.remedy for skipped in choice.skipped)


def test_a_flavour_that_is_none_is_refused_before_what_is_missing_here(
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_driver(monkeypatch, NO_DRIVER)
    with pytest.raises(UsageError, match="no flavour 'foo'; use one of tensorrt, tensorrt-rtx"):
        open_session(way("tensorrt", flavour="foo"), files)


def test_an_unknown_backend_is_refused_with_the_known_ones(files: ModelFiles) -> None:
    with pytest.raises(
        UsageError, match="no backend 'tpu'; use one of torch, torch-cuda, ort-cpu, ort-cuda, ort-tensorrt, openvino, tensorrt"
    ):
        open_session(way("tpu"), files)


def test_an_import_path_in_a_manifest_is_imported_only_when_the_user_names_it(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "edgekit_trap.py").write_text(
        "from pathlib import Path\n"
        "Path('imported').touch()\n"
        "def net(**args):\n"
        "    from edgekit.models.lenet import lenet\n"
        "    return lenet()\n"
    )
    monkeypatch.chdir(tmp_path)
    opened = open_bundle(bundle)
    source = msgspec.structs.replace(opened.manifest.source, model="edgekit_trap:net")
    contents = {name: (bundle / name).read_bytes() for name in opened.manifest.files}
    write_bundle(bundle, msgspec.structs.replace(opened.manifest, source=source), contents)

    report = verify(bundle, allow=["model"])
    assert report.passed
    assert "torch" not in [parity.backend for parity in report.parities]
    assert any(absence.backend == "torch" and "--source" in absence.remedy for absence in report.skipped)
    assert not (tmp_path / "imported").exists()

    named = verify(bundle, ways("torch", source="edgekit_trap:net"), allow=["model"])
    monkeypatch.delitem(sys.modules, "edgekit_trap")
    assert named.passed
    assert (tmp_path / "imported").exists()


def test_ctrl_c_in_the_middle_of_an_import_is_no_broken_package() -> None:
    """pybind11 makes an ImportError of it, with the interrupt as its cause."""
    from edgekit.machine.packages import broken_package

    broken = ImportError("initialization failed")
    assert "initialization failed" in broken_package("tensorrt", broken).reason
    broken.__cause__ = ValueError()
    broken.__cause__.__context__ = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        broken_package("tensorrt", broken)
