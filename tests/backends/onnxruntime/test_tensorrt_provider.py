"""ONNX Runtime's TensorRT provider: its options, TF32, and that nothing else runs in its place."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest

from edgekit.backends import open_session
from edgekit.bundle.files import ModelFiles
from edgekit.errors import BundleError, FallbackError
from edgekit.tensors import sample_feed
from tests.ways import way, why_not


def test_the_tensorrt_provider_gets_one_profile_for_all_batches_cuda_behind_it_and_no_tf32(
    files: ModelFiles, pretended_provider: list[Any]
) -> None:
    with open_session(way("ort-tensorrt", threads=1, batches=(1, 64)), files) as opened:
        assert opened.facts["TF32"].startswith("asked off by NVIDIA_TF32_OVERRIDE=0; edgekit verify shows whether it is")
        assert opened.facts["precision"] == "float32"
        assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"
        assert opened.facts["nodes on the CPU"] == "none of 1"
        assert opened.facts["providers"].startswith("TensorrtExecutionProvider")
        assert opened.run(sample_feed(files.inputs, 2))["output"].shape == (2, 10)
    assert "NVIDIA_TF32_OVERRIDE" not in os.environ  # other runtimes of this process decide for themselves
    profile = {
        "trt_profile_min_shapes": "input:1x1x28x28",
        "trt_profile_opt_shapes": "input:8x1x28x28",
        "trt_profile_max_shapes": "input:64x1x28x28",
    }
    behind = ("CUDAExecutionProvider", {"use_tf32": "0"})
    assert pretended_provider == [[("TensorrtExecutionProvider", profile), behind]]


def test_the_tensorrt_provider_is_told_of_float16_and_of_nothing_where_the_batch_is_fixed(files: ModelFiles) -> None:
    from edgekit.backends.onnxruntime.session import tensorrt_settings

    fixed = tuple(msgspec.structs.replace(spec, shape=spec.concrete(1)) for spec in files.inputs)
    assert tensorrt_settings(files._replace(inputs=fixed, precision="float16"), ()) == {"trt_fp16_enable": "1"}


def test_tf32_that_the_user_has_set_stays_and_is_told(
    files: ModelFiles, pretended_provider: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    with open_session(way("ort-tensorrt"), files) as opened:
        assert opened.facts["TF32"] == "on (NVIDIA_TF32_OVERRIDE=1 is set)"
    monkeypatch.setattr(onnxruntime.InferenceSession, "first", "CUDAExecutionProvider")
    with open_session(way("ort-cuda"), files) as opened:
        assert opened.facts["TF32"] == "off (NVIDIA_TF32_OVERRIDE=1 is set)"


def test_the_library_that_the_tensorrt_provider_links_is_loaded_without_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.backends.onnxruntime import session as _ort

    seen: list[str | None] = []

    def load(library: str, driver: bool) -> str:
        seen.append(os.environ.get("NVIDIA_TF32_OVERRIDE"))
        return ""

    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    monkeypatch.setattr(_ort, "linked_tensorrt", lambda folder: "libnvinfer.so.10")
    monkeypatch.setattr(_ort, "loading_problem", load)
    assert _ort.provider_absence() is None
    assert seen == ["0"]
    assert "NVIDIA_TF32_OVERRIDE" not in os.environ


def test_tf32_is_put_back_although_opening_fails_and_while_another_is_open_not(
    files: ModelFiles, pretended_provider: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    renamed = tuple(msgspec.structs.replace(spec, name="other") for spec in files.inputs)
    with open_session(way("ort-tensorrt"), files):
        with pytest.raises(BundleError, match="other"):
            open_session(way("ort-tensorrt"), files._replace(inputs=renamed))
        assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"
    with pytest.raises(BundleError, match="other"):
        open_session(way("ort-tensorrt"), files._replace(inputs=renamed))
    assert "NVIDIA_TF32_OVERRIDE" not in os.environ


@pytest.mark.parametrize(
    ("kind", "first"),
    [
        ("ort-cpu", "CPUExecutionProvider"),
        ("ort-cuda", "CUDAExecutionProvider"),
        ("ort-tensorrt", "TensorrtExecutionProvider"),
    ],
)
def test_no_session_falls_back_in_a_run_and_none_prints_to_standard_output(
    files: ModelFiles,
    pretended_provider: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    first: str,
) -> None:
    monkeypatch.setattr(onnxruntime.InferenceSession, "first", first)
    with open_session(way(kind), files) as opened:
        assert opened._session._enable_fallback is False  # type: ignore[attr-defined]  # it is private to ONNX Runtime's session
    assert [providers[0][0] for providers in pretended_provider] == [first]
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "EP Error" in printed.err
    assert ("Failed to load libcublas" in printed.err) is (kind != "ort-cpu")


def test_a_run_that_the_provider_fails_is_not_run_again_on_the_cpu(
    files: ModelFiles, pretended_provider: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    failure = onnxruntime.capi.onnxruntime_pybind11_state.EPFail("CUDA failure 2: out of memory\nat a line")

    class Failing:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def run(self, *given: Any) -> None:
            raise failure

    with open_session(way("ort-tensorrt"), files) as opened:
        session = opened._session  # type: ignore[attr-defined]  # it is private to ONNX Runtime's session
        real, session._sess = session._sess, Failing()
        with pytest.raises(BundleError, match=r"out of memory; use smaller batches, or see whether ort-cpu") as caught:
            opened.run(sample_feed(files.inputs, 2))
    assert "\n" not in str(caught.value)
    assert "Falling back" not in capsys.readouterr().out


def test_inputs_that_the_device_has_no_room_for_are_one_sentence(files: ModelFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: Any) -> None:
        raise RuntimeError("BFCArena::AllocateRawInternal Failed to allocate memory\nat a line")

    with open_session(way("ort-cpu"), files) as opened:
        monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_numpy", full)
        with pytest.raises(
            BundleError, match=r"running .* on input 2x1x28x28 takes more memory than its tensors explain; "
        ) as caught:
            opened.bind(sample_feed(files.inputs, 2))
    assert "\n" not in str(caught.value)


def test_what_tensorrt_may_choose_is_told_beside_the_precision(files: ModelFiles, pretended_provider: list[Any]) -> None:
    with open_session(way("ort-tensorrt"), files._replace(precision="float16")) as opened:
        assert opened.facts["precision"] == "float16, allowed for every node"
    assert pretended_provider[0][0][1]["trt_fp16_enable"] == "1"
    assert "trt_int8_enable" not in pretended_provider[0][0][1]
    quantised_file(files.onnx)
    with open_session(way("ort-tensorrt"), files._replace(onnx_sha256="")) as opened:
        assert opened.facts["precision"] == "float32, int8 where the file quantises"
    assert pretended_provider[1][0][1]["trt_int8_enable"] == "1"


def quantised_file(path: Path) -> None:
    """The file, its input quantised and back."""
    model = onnx.load(path)
    for name, value in (("scale", np.float32(0.1)), ("zero", np.int8(0))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    first = model.graph.node[0]
    first.input[0] = "dequantised"
    model.graph.node.insert(0, onnx.helper.make_node("QuantizeLinear", ["input", "scale", "zero"], ["quantised"]))
    model.graph.node.insert(1, onnx.helper.make_node("DequantizeLinear", ["quantised", "scale", "zero"], ["dequantised"]))
    onnx.save(model, path)


@pytest.mark.parametrize(
    ("first", "used", "expected"),
    [
        ("CUDAExecutionProvider", ["CUDAExecutionProvider"], "silently chose CUDAExecutionProvider"),
        ("TensorrtExecutionProvider", ["CUDAExecutionProvider"], "took no node of the model: all went to CUDAExecutionProvider"),
    ],
)
def test_a_session_that_tensorrt_does_not_really_run_is_refused(
    files: ModelFiles,
    pretended_provider: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    first: str,
    used: list[str],
    expected: str,
) -> None:
    monkeypatch.setattr(onnxruntime.InferenceSession, "first", first)
    monkeypatch.setattr(onnxruntime.InferenceSession, "used", used)
    with pytest.raises(FallbackError, match=expected):
        open_session(way("ort-tensorrt"), files)


def test_a_tensorrt_provider_without_tensorrt_is_absent(
    files: ModelFiles, pretended_provider: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert why_not("ort-tensorrt") == ""
    (tmp_path / "capi").mkdir()
    (tmp_path / "capi" / "libonnxruntime_providers_tensorrt.so").write_bytes(b"\x7fELF...libnvinfer.so.987...")
    monkeypatch.setattr(onnxruntime, "__file__", str(tmp_path / "__init__.py"))
    assert re.search(
        r"does not load: libnvinfer\.so\.987.*; pip install 'tensorrt==987\.\*', or .*LD_LIBRARY_PATH", why_not("ort-tensorrt")
    )
    monkeypatch.setattr("edgekit.backends.onnxruntime.session.available_providers", lambda: ["CUDAExecutionProvider"])
    assert "has no TensorRT provider" in why_not("ort-tensorrt")
    assert why_not("ort-cuda") == ""
