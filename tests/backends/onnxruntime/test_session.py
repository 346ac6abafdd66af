"""ONNX Runtime as a backend: what it refuses, where its nodes land, and that it never falls back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import pytest

from edgekit.backends import open_session
from edgekit.bundle.files import ModelFiles
from edgekit.bundle.folder import open_bundle
from edgekit.errors import BundleError, FallbackError
from edgekit.setups import Setup
from tests.ways import way


@pytest.mark.parametrize("content", [b"", b"not an ONNX file", b"\x08\x0a\x12\xff\xff\xff\xff"])
def test_a_file_onnxruntime_refuses_is_one_sentence(files: ModelFiles, tmp_path: Path, content: bytes) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(content)
    with pytest.raises(BundleError, match=r"damaged\.onnx.*export it again") as caught:
        open_session(way("ort-cpu"), files._replace(onnx=damaged, onnx_sha256=""))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("backend", ["ort-cpu", "openvino"])
def test_a_file_that_took_the_place_of_the_checked_one_is_not_run(files: ModelFiles, tmp_path: Path, backend: str) -> None:
    other = tmp_path / "model.onnx"
    other.write_bytes(files.onnx.read_bytes() + b"\x12\x00")  # as ONNX it says the same, with another name of its producer
    with pytest.raises(BundleError, match=r"model\.onnx changed while it was read"):
        open_session(way(backend), files._replace(onnx=other))
    with open_session(way(backend), files._replace(onnx=other, onnx_sha256="")):
        pass  # nothing else is wrong with it


@pytest.mark.parametrize("what", ["inputs", "outputs"])
def test_names_that_differ_from_the_file_are_refused(files: ModelFiles, what: str) -> None:
    renamed: Any = tuple(msgspec.structs.replace(spec, name="other") for spec in getattr(files, what))
    with pytest.raises(BundleError, match=f"{what}.*other"):
        open_session(way("ort-cpu"), files._replace(**{what: renamed}))


def test_inputs_that_the_file_does_not_take_are_one_sentence(files: ModelFiles) -> None:
    with open_session(way("ort-cpu"), files) as opened:
        wrong = {"input": np.zeros((2, 1, 5, 5), np.float32)}
        for use in (lambda: opened.run(wrong), opened.bind(wrong)):
            with pytest.raises(BundleError, match=r"2x1x5x5") as caught:
                use()
            assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("pretended_cuda")
def test_a_session_that_silently_fell_back_to_the_cpu_is_refused(files: ModelFiles, monkeypatch: pytest.MonkeyPatch) -> None:

    real = onnxruntime.InferenceSession
    # what ONNX Runtime does where CUDA cannot load
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda path, options, providers, enable_fallback: real(path))
    with pytest.raises(FallbackError, match=r"CUDAExecutionProvider.*silently chose.*CPUExecutionProvider.*doctor"):
        open_session(way("ort-cuda"), files)


@pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")
@pytest.mark.usefixtures("pretended_cuda")
@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this ONNX Runtime has CUDA")
def test_the_real_onnxruntime_without_cuda_does_not_open_as_ort_cuda(files: ModelFiles) -> None:
    with pytest.raises((BundleError, FallbackError), match="CUDAExecutionProvider"):
        open_session(way("ort-cuda"), files)


def test_a_provider_that_cannot_load_is_a_fallback_error_not_a_bad_file(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.backends.onnxruntime.session import OrtSession

    real = onnxruntime.InferenceSession

    def session(path: str, *args: object, providers: list[object], **rest: object) -> object:
        if providers[0] != "CPUExecutionProvider" and "CUDA" in str(providers[0]):
            raise RuntimeError("libcudnn.so.9: cannot open shared object file")
        return real(path, *args, providers=providers, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with pytest.raises(FallbackError, match=r"cannot use CUDAExecutionProvider: libcudnn.so.9"):
        OrtSession.open(open_bundle(bundle).files(), Setup("ort-cuda"))


@pytest.mark.skipif(not hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info"), reason="it cannot tell")
def test_nodes_that_landed_on_the_cpu_are_counted_and_named(bundle: Path) -> None:
    from edgekit.backends.onnxruntime.session import placement

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    model = str(open_bundle(bundle).onnx_of())
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    placed = placement(session)["nodes on the CPU"]
    count, _, kinds = placed.partition(": ")
    assert count == f"{count.split()[0]} of {count.split()[0]}"
    assert {"Conv", "Gemm"} <= set(kinds.split(", "))


def test_a_placement_on_two_providers_tells_them_apart_and_an_old_release_tells_nothing() -> None:
    from edgekit.backends.onnxruntime.session import placement

    class Part:
        def __init__(self, ep_name: str, *kinds: str) -> None:
            self.ep_name, self._kinds = ep_name, kinds

        def get_nodes(self) -> list[object]:
            return [type("Node", (), {"op_type": kind}) for kind in self._kinds]

    class Session:
        def __init__(self, *parts: Part) -> None:
            self.get_provider_graph_assignment_info = lambda: parts

    cuda, cpu = Part("CUDAExecutionProvider", "Conv", "Relu"), Part("CPUExecutionProvider", "Shape", "Shape", "Gather")
    assert placement(Session(cuda, cpu)) == {"nodes on the CPU": "3 of 5: Shape, Gather"}
    assert placement(Session(cuda)) == {"nodes on the CPU": "none of 2"}
    assert placement(object()) == {}
