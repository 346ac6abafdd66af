"""The contract that every runtime keeps, and how one is found absent."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from edgekit.backends import absence, open_session, table
from edgekit.backends.choose import choose
from edgekit.backends.contract import DeviceTimes, OnDevice, Session, launch_bound
from edgekit.backends.fake import FakeSession
from edgekit.bundle.files import ModelFiles
from edgekit.bundle.folder import open_bundle, write_bundle
from edgekit.commands.verify import verify
from edgekit.errors import BundleError, FallbackError, MissingError, ModelError, UsageError
from edgekit.machine.packages import pip_install
from edgekit.progress import SILENT
from edgekit.setups import Absence, Setup
from edgekit.tensors import Feed, TensorSpec, sample_feed
from tests.ways import NO_DRIVER, set_driver, way, ways, why_not


@pytest.fixture
def files(bundle: Path) -> ModelFiles:
    return open_bundle(bundle).files()


@pytest.fixture(params=["fake", "torch", "ort-cpu"])
def backend(request: pytest.FixtureRequest, files: ModelFiles) -> Iterator[Session]:
    if request.param == "fake":
        facts = {"fake": "1", "threads": "1"}
        made: Session = FakeSession(
            lambda feed: {"output": feed["input"].reshape(-1, 784)[:, :10] * 2}, files.inputs, files.outputs, facts=facts
        )
    else:
        made = open_session(way(request.param, threads=1), files)
    with made as entered:
        assert entered is made
        yield entered


def feed_of(backend: Session, batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    return sample_feed(backend.inputs, batch, seed)


def test_a_session_says_its_tensors(backend: Session, files: ModelFiles) -> None:
    assert backend.inputs == files.inputs
    assert backend.outputs == files.outputs


@pytest.mark.parametrize("batch", [1, 5])
def test_run_gives_the_named_outputs_in_their_shape_and_dtype(backend: Session, batch: int) -> None:
    outputs = backend.run(feed_of(backend, batch))
    assert list(outputs) == [spec.name for spec in backend.outputs]
    for spec in backend.outputs:
        assert outputs[spec.name].shape == spec.concrete(batch)
        assert str(outputs[spec.name].dtype) == spec.dtype


def test_the_caller_owns_the_outputs_and_keeps_the_inputs(backend: Session) -> None:
    feed, other = feed_of(backend, 5), feed_of(backend, 5, seed=1)
    before = {name: array.copy() for name, array in feed.items()}
    first = backend.run(feed)["output"]
    kept = first.copy()
    backend.run(other)
    np.testing.assert_array_equal(first, kept)  # a later run does not reach into it
    first.fill(np.nan)
    np.testing.assert_array_equal(backend.run(feed)["output"], kept)
    for name, array in before.items():
        np.testing.assert_array_equal(feed[name], array)


@pytest.mark.parametrize("batch", [1, 5])
def test_a_bound_call_can_be_repeated_and_leaves_run_alone(backend: Session, batch: int) -> None:
    feed = feed_of(backend, batch)
    before = backend.run(feed)["output"]
    call = backend.bind(feed)
    assert [call(), call()] == [None, None]
    np.testing.assert_array_equal(backend.run(feed)["output"], before)


def test_the_table_says_which_backends_compute_on_a_gpu() -> None:
    assert [name for name, row in table().items() if row.on_gpu] == ["torch-cuda", "ort-cuda", "ort-tensorrt", "tensorrt"]


def test_facts_are_plain_strings(backend: Session) -> None:
    assert backend.facts
    assert all(type(key) is str and type(value) is str for key, value in backend.facts.items())


def test_pytorch_runs_each_session_on_its_own_threads(files: ModelFiles) -> None:
    """PyTorch has one number for the process, and sessions take turns."""
    feed = sample_feed(files.inputs, 1)
    with open_session(way("torch", threads=1), files) as one, open_session(way("torch", threads=2), files) as two:
        for session, threads in ((one, 1), (two, 2), (one, 1)):
            session.run(feed)
            assert torch.get_num_threads() == threads
            assert session.facts["threads"] == str(threads)
        calls = [(one.bind(feed), 1), (two.bind(feed), 2)]
        for call, threads in (*calls, *calls):
            call()
            assert torch.get_num_threads() == threads


@pytest.mark.parametrize(("kind", "package"), [("torch", "torch"), ("ort-cpu", "onnxruntime")])
def test_facts_name_the_version_the_precision_and_the_threads(kind: str, package: str, files: ModelFiles) -> None:
    with open_session(way(kind, threads=1), files) as opened:
        assert opened.facts[package] == importlib.import_module(package).__version__
        assert opened.facts["precision"] == "float32"
        assert opened.facts["threads"] == "1"
    with open_session(way(kind, threads=2), files) as opened:
        assert opened.facts["threads"] == "2"


def test_the_runtimes_agree_and_a_fake_that_computes_something_else_does_not(files: ModelFiles) -> None:
    feed = sample_feed(files.inputs, 3)
    with open_session(way("torch"), files) as torch, open_session(way("ort-cpu"), files) as ort:
        np.testing.assert_allclose(ort.run(feed)["output"], torch.run(feed)["output"], atol=1e-5)
        assert np.abs(ort.run(sample_feed(files.inputs, 3, 1))["output"] - torch.run(feed)["output"]).max() > 1e-5


@pytest.mark.parametrize("content", [b"", b"not an ONNX file", b"\x08\x0a\x12\xff\xff\xff\xff"])
def test_a_file_onnxruntime_refuses_is_one_sentence(files: ModelFiles, tmp_path: Path, content: bytes) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(content)
    with pytest.raises(BundleError, match=r"damaged\.onnx.*export it again") as caught:
        open_session(way("ort-cpu"), files._replace(onnx=damaged))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what", ["inputs", "outputs"])
def test_names_that_differ_from_the_file_are_refused(files: ModelFiles, what: str) -> None:
    renamed = tuple(msgspec.structs.replace(spec, name="other") for spec in getattr(files, what))
    with pytest.raises(BundleError, match=f"{what}.*other"):
        open_session(way("ort-cpu"), files._replace(**{what: renamed}))


def test_inputs_that_the_file_does_not_take_are_one_sentence(files: ModelFiles) -> None:
    with open_session(way("ort-cpu"), files) as opened:
        wrong = {"input": np.zeros((2, 1, 5, 5), np.float32)}
        for use in (lambda: opened.run(wrong), opened.bind(wrong)):
            with pytest.raises(BundleError, match=r"2x1x5x5") as caught:
                use()
            assert "\n" not in str(caught.value)


@pytest.fixture
def pretended_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which ONNX Runtime lists CUDA and the driver starts."""
    monkeypatch.setattr(
        "edgekit.backends.onnxruntime.session.available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    set_driver(monkeypatch, None)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)


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


class PretendedGpu:
    """What ``torch-cuda`` asks of CUDA, on the CPU: it counts the waits, and keeps a clock that work moves on."""

    def __init__(self) -> None:
        self.waits, self.clock, self.fails, self.events = 0, 0.0, "", list[str]()

    def synchronize(self) -> None:
        self.waits += 1
        self.events.append("wait")
        self.fail()

    def empty_cache(self) -> None:
        self.fail()

    def fail(self) -> None:
        if self.fails:
            raise RuntimeError(f"CUDA error: {self.fails}\nCompile with TORCH_USE_CUDA_DSA")

    def event(self, enable_timing: bool) -> Any:
        gpu = self

        class Event:
            def record(self) -> None:
                gpu.events.append("record")
                self.at = gpu.clock
                gpu.clock += 0.5

            def elapsed_time(self, other: Event) -> float:
                assert gpu.events[-1] == "wait"
                return other.at - self.at

        assert enable_timing
        return Event()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> PretendedGpu:
    """PyTorch with a GPU that is the CPU."""
    pretended = PretendedGpu()
    set_driver(monkeypatch, None)
    monkeypatch.setattr(
        "edgekit.backends.contract.perf_counter_ns", lambda: 0
    )  # queueing takes the host no time, however busy it is
    monkeypatch.setattr("edgekit.backends.pytorch.session.TorchCudaSession.device", "cpu")
    for name, made in {
        "is_available": lambda: True,
        "get_device_name": lambda index: "Pretended GPU",
        "synchronize": pretended.synchronize,
        "Event": pretended.event,
        "empty_cache": pretended.empty_cache,
    }.items():
        monkeypatch.setattr(torch.cuda, name, made)
    return pretended


def test_torch_cuda_waits_for_the_gpu_keeps_tf32_off_and_puts_it_back(files: ModelFiles, gpu: PretendedGpu) -> None:
    before = (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)
    assert any(before), "nothing to switch off"
    with open_session(way("torch-cuda"), files) as opened, open_session(way("torch"), files) as reference:
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
        assert (opened.facts["device"], opened.facts["TF32"]) == ("Pretended GPU", "off")
        feed = sample_feed(opened.inputs, 3)
        np.testing.assert_array_equal(opened.run(feed)["output"], reference.run(feed)["output"])
        call = opened.bind(feed)
        assert gpu.waits == 0
        call()
        assert gpu.waits == 1
        assert isinstance(opened, OnDevice)
        gpu.events.clear()
        assert opened.device_times(feed, 4) == DeviceTimes((0.5,) * 4)  # TensorRT's times too have one event between two calls
        assert gpu.events == ["record"] * 5 + ["wait"]  # none is waited for before the next is queued
        assert not isinstance(reference, OnDevice)
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == before


@pytest.mark.parametrize(
    ("host_ms", "ms", "bound"),
    [
        ([3.0, 0.02, 0.02, 0.02], [1.0] * 3, False),
        ([1.0] * 4, [1.0] * 3, True),
        ([1.1, 0.95, 0.95, 0.95], [1.0] * 3, True),
        ([1.0, 0.85, 0.85, 0.85], [1.0] * 3, False),
        ([0.02, 0.02, 0.02, 1.0, 1.0, 1.0, 1.0], [1.0] * 6, False),  # the queue was full: the host can do it faster
        ([0.6] * 6 + [9.0], [1.0] * 6, False),  # one long turn of the host is nothing that lasts
        ([0.02] * 7, [0.02] * 5 + [9.0], True),
    ],
)
def test_times_are_the_hosts_where_it_queues_no_faster_than_the_gpu_runs(
    host_ms: list[float], ms: list[float], bound: bool
) -> None:
    assert launch_bound(host_ms, ms) is bound


def test_torch_cuda_says_that_its_times_are_the_hosts(
    files: ModelFiles, gpu: PretendedGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.backends.contract.perf_counter_ns", lambda: round(gpu.clock * 1e6))
    with open_session(way("torch-cuda"), files) as opened:
        assert isinstance(opened, OnDevice)
        assert opened.device_times(sample_feed(opened.inputs, 3), 4) == DeviceTimes((0.5,) * 4, launch_bound=True)


def test_an_error_on_the_gpu_is_one_sentence(files: ModelFiles, gpu: PretendedGpu) -> None:
    gpu.fails = "out of memory"
    with (
        open_session(way("torch-cuda"), files) as opened,
        pytest.raises(ModelError, match=r"out of memory; use smaller") as caught,
    ):
        opened.bind(sample_feed(opened.inputs, 3))()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("use", ["bind", "device_times", "run"])
def test_inputs_that_the_gpu_has_no_room_for_are_one_sentence(
    files: ModelFiles, gpu: PretendedGpu, monkeypatch: pytest.MonkeyPatch, use: str
) -> None:
    def full(self: object, feed: Feed) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 8 GiB.\nSee the documentation")

    with open_session(way("torch-cuda"), files) as opened:
        monkeypatch.setattr(type(opened), "_tensors", full)
        with pytest.raises(ModelError, match=r"cannot \w+ the model on CUDA: CUDA out of memory.*; use smaller") as caught:
            getattr(opened, use)(sample_feed(opened.inputs, 3), *([2] if use == "device_times" else []))
    assert "\n" not in str(caught.value)


def test_a_model_that_the_gpu_has_no_room_for_is_one_sentence(
    files: ModelFiles, gpu: PretendedGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.backends.cudnn.allow_tf32
    monkeypatch.setattr("edgekit.backends.pytorch.session.TorchCudaSession.device", "nowhere")
    with pytest.raises(ModelError, match=r"cannot take the model to the GPU on CUDA: .*; use smaller"):
        open_session(way("torch-cuda"), files)
    assert torch.backends.cudnn.allow_tf32 == before

    def unknown(index: int) -> str:
        raise RuntimeError("CUDA unknown error")

    monkeypatch.setattr(torch.cuda, "get_device_name", unknown)
    with pytest.raises(ModelError, match=r"cannot start on CUDA: CUDA unknown error; use smaller"):
        open_session(way("torch-cuda"), files)


def test_leaving_a_gpu_that_answers_nothing_but_its_error_keeps_the_first_sentence(files: ModelFiles, gpu: PretendedGpu) -> None:
    before = (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)

    def use() -> None:
        with open_session(way("torch-cuda"), files) as opened:
            call = opened.bind(sample_feed(opened.inputs, 3))
            gpu.fails = "an illegal memory access"
            call()

    with pytest.raises(ModelError, match="an illegal memory access"):
        use()
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == before


def test_torch_cuda_says_what_the_user_has_set(files: ModelFiles, gpu: PretendedGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    with open_session(way("torch-cuda"), files) as opened:
        assert opened.facts["TF32"] == "off (NVIDIA_TF32_OVERRIDE=1 is set)"


def test_a_torch_whose_library_does_not_load_is_missing_not_a_crash(files: ModelFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def find_spec(self, name: str, *rest: object) -> None:
            if name == "edgekit.backends.pytorch.session":
                raise OSError("libcudart.so.13: cannot open shared object file\nmore of it")

    monkeypatch.delitem(sys.modules, "edgekit.backends.pytorch.session", raising=False)
    monkeypatch.delattr("edgekit.backends.pytorch.session", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(
        MissingError, match=r"PyTorch is installed but cannot be imported: libcudart.*; run edgekit doctor"
    ) as caught:
        open_session(way("torch"), files)
    assert "\n" not in str(caught.value)


def test_torch_cuda_is_absent_without_a_driver_or_without_cuda_in_torch(
    files: ModelFiles, gpu: PretendedGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert why_not("torch-cuda", files) == ""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert re.search(r"PyTorch 2\S+ finds no CUDA; install", why_not("torch-cuda", files))
    set_driver(monkeypatch, NO_DRIVER)
    assert why_not("torch-cuda", files) == str(NO_DRIVER)


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
    ("problem", "told"),
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
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch, problem: BaseException, told: str, module: str, name: str
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
        f"{name} is installed but cannot be imported: {told}", "run edgekit doctor", broken=True
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
    assert [setup.backend for setup in choice.setups] == ["ort-cpu"]
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
        UsageError, match="no backend 'tpu'; use one of torch, torch-cuda, ort-cpu, ort-cuda, ort-tensorrt, tensorrt"
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

    report = verify(bundle)
    assert report.passed
    assert "torch" not in [parity.backend for parity in report.parities]
    assert any(one.backend == "torch" and "--source" in one.remedy for one in report.skipped)
    assert not (tmp_path / "imported").exists()

    named = verify(bundle, ways("torch", source="edgekit_trap:net"))
    monkeypatch.delitem(sys.modules, "edgekit_trap")
    assert named.passed
    assert (tmp_path / "imported").exists()


def test_a_fake_backend_is_its_function() -> None:
    seen: list[Feed] = []
    record: Callable[[Feed], dict[str, np.ndarray]] = lambda feed: seen.append(feed) or {"y": feed["x"] + 1}  # noqa: E731
    fake = FakeSession(record)
    feed = {"x": np.zeros(2, np.float32)}
    np.testing.assert_array_equal(fake.run(feed)["y"], [1, 1])
    fake.bind(feed)()
    assert seen == [feed, feed]


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
    told = placement(session)["nodes on the CPU"]
    count, _, kinds = told.partition(": ")
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


@pytest.fixture
def pretended_provider(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """ONNX Runtime with a TensorRT provider, as far as its first answers go; the list holds what it was asked for.

    The provider that onnxruntime-gpu really has, where that is installed, and the TensorRT that it links are not looked at.
    """
    asked: list[Any] = []
    real = onnxruntime.InferenceSession

    class Session(real):  # type: ignore[misc, valid-type]
        used: ClassVar[list[str]] = ["TensorrtExecutionProvider"]
        first: ClassVar[str] = "TensorrtExecutionProvider"

        def __init__(self, content: bytes, options: Any, providers: Any, **rest: Any) -> None:
            super().__init__(content, options, providers=["CPUExecutionProvider"], **rest)
            sys.stdout.write("*************** EP Error ***************\n")
            asked.append(providers)

        def get_providers(self) -> list[str]:
            return [self.first, "CUDAExecutionProvider", "CPUExecutionProvider"]

        def get_provider_graph_assignment_info(self) -> list[Any]:
            node = type("Node", (), {"op_type": "Conv"})
            return [type("Part", (), {"ep_name": name, "get_nodes": lambda: [node]}) for name in self.used]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(onnxruntime, "__file__", str(tmp_path / "built in" / "__init__.py"))
    failed = "Failed to load libcublas.so.13\n"
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: sys.stdout.write(failed), raising=False)
    names = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("edgekit.backends.onnxruntime.session.available_providers", lambda: names)
    set_driver(monkeypatch, None)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "")
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE")
    return asked


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
        assert opened._session._enable_fallback is False  # type: ignore[attr-defined]
    assert [providers[0][0] for providers in pretended_provider] == [first]
    told = capsys.readouterr()
    assert told.out == ""
    assert "EP Error" in told.err
    assert ("Failed to load libcublas" in told.err) is (kind != "ort-cpu")


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
        session = opened._session  # type: ignore[attr-defined]
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
        with pytest.raises(BundleError, match=r"cannot run .* on input 2x1x28x28: BFCArena.*; ") as caught:
            opened.bind(sample_feed(files.inputs, 2))
    assert "\n" not in str(caught.value)


def test_what_tensorrt_may_choose_is_told_beside_the_precision(files: ModelFiles, pretended_provider: list[Any]) -> None:
    with open_session(way("ort-tensorrt"), files._replace(precision="float16")) as opened:
        assert opened.facts["precision"] == "float16, allowed for every node"
    assert pretended_provider[0][0][1]["trt_fp16_enable"] == "1"
    assert "trt_int8_enable" not in pretended_provider[0][0][1]
    quantised_file(files.onnx)
    with open_session(way("ort-tensorrt"), files) as opened:
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


def compiled_file(path: Path) -> None:
    """The file with a branch that holds a compiled program, in any domain: providers do not look at that."""
    model = onnx.load(path)
    node = onnx.helper.make_node("EPContext", [], ["y"], domain="mine", ep_cache_context=b"code", embed_mode=1)
    branch = onnx.helper.make_graph([node], "branch", [], [onnx.helper.make_tensor_value_info("y", 1, [1])])
    model.graph.node.append(onnx.helper.make_node("If", ["input"], ["z"], then_branch=branch, else_branch=branch))
    onnx.save(model, path)


@pytest.mark.parametrize("kind", ["ort-cpu", "ort-cuda", "ort-tensorrt"])
def test_a_file_with_a_compiled_program_is_refused_before_onnxruntime_sees_it(
    files: ModelFiles, pretended_provider: list[Any], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    compiled_file(files.onnx)
    monkeypatch.setitem(sys.modules, "onnx", None)  # boards that run files have no such package
    with pytest.raises(BundleError, match=r"model\.onnx has an EPContext node, .*; export the model again without compiling it"):
        open_session(way(kind), files)
    assert pretended_provider == []


def outside(name: str, kind: str) -> onnx.ModelProto:
    """``y = x w`` with ``w`` in the file w.bin, at each of the places where ONNX Runtime follows such a name."""
    w = onnx.TensorProto(name="w", data_type=1, dims=[4] if "sparse" in kind else [4, 4], data_location=1)
    w.external_data.add(key="location", value=name)
    index = onnx.numpy_helper.from_array(np.array([0, 5, 10, 15]), "index")
    sparse = onnx.SparseTensorProto(values=w, indices=index, dims=[4, 4])
    nodes = [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])]
    given = {"initializer": {"initializer": [w]}, "sparse initializer": {"sparse_initializer": [sparse]}}.get(kind, {})
    if not given:
        value = {"sparse_value": sparse} if kind == "sparse constant" else {"value": w}
        nodes.insert(0, onnx.helper.make_node("Constant", [], ["w"], **value))
    x, y = (onnx.helper.make_tensor_value_info(name, 1, ["batch", 4]) for name in "xy")
    opsets, functions = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("mine", 1)], []
    if kind.startswith("function"):
        default = [onnx.helper.make_attribute("K", w)] if kind == "function default" else []
        if default:
            nodes[0].attribute[0].ClearField("t")
            nodes[0].attribute[0].ref_attr_name = "K"
        functions = [onnx.helper.make_function("mine", "F", ["x"], ["y"], nodes, opsets[:1], attribute_protos=default)]
        nodes = [onnx.helper.make_node("F", ["x"], ["y"], domain="mine")]
    graph = onnx.helper.make_graph(nodes, "outside", [x], [y], **given)
    return onnx.helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=10)


@pytest.mark.parametrize(
    "kind", ["initializer", "sparse initializer", "constant", "sparse constant", "function", "function default"]
)
def test_weights_in_another_file_are_refused_before_onnxruntime_looks_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Given bytes it looks in the current folder, and runs with whatever of that name lies there."""
    monkeypatch.chdir(tmp_path)
    np.ones(16, np.float32).tofile("w.bin")
    path = tmp_path / "net.onnx"
    path.write_bytes(outside("w.bin", kind).SerializeToString())
    found: list[Any] = []
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *given, **named: found.append(given))
    monkeypatch.setitem(sys.modules, "onnx", None)  # boards that run files have no such package
    x, y = (TensorSpec(name, "float32", ("batch", 4)) for name in "xy")
    for runtime in ("ort-cpu", "ort-cuda", "ort-tensorrt"):
        with pytest.raises(BundleError, match=r"net\.onnx keeps weights in another file, .*; export the model again with its"):
            table()[runtime].open(ModelFiles(path, (x,), (y,)), Setup(runtime), SILENT)
    assert found == []


def test_a_file_that_has_changed_since_is_looked_into_again_for_its_layers(files: ModelFiles) -> None:
    with open_session(way("ort-cpu"), files) as opened:
        files.onnx.write_bytes(outside("w.bin", "initializer").SerializeToString())
        with pytest.raises(BundleError, match="keeps weights in another file"):
            opened.layer_times(sample_feed(files.inputs, 1), 1)  # type: ignore[attr-defined]


def test_a_file_cut_off_whose_bytes_say_epcontext_is_refused(files: ModelFiles, pretended_provider: list[Any]) -> None:
    compiled_file(files.onnx)
    files.onnx.write_bytes(files.onnx.read_bytes()[:-3])
    with pytest.raises(BundleError, match=r"model\.onnx is not a whole ONNX file: a field ends behind.*; export it again"):
        open_session(way("ort-cpu"), files)
    assert pretended_provider == []


def test_a_node_that_is_merely_named_epcontext_runs(files: ModelFiles) -> None:
    model = onnx.load(files.onnx)
    model.graph.node[0].name = "EPContext"
    onnx.save(model, files.onnx)
    with open_session(way("ort-cpu"), files) as opened:
        assert opened.run(sample_feed(files.inputs, 2))["output"].shape == (2, 10)


def test_onnxruntimes_own_format_is_no_onnx_file(files: ModelFiles, tmp_path: Path) -> None:
    """Nothing that looks into a file here can read it."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "own.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(str(files.onnx), options, providers=["CPUExecutionProvider"])
    content = (tmp_path / "own.ort").read_bytes()
    assert onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).get_inputs()
    files.onnx.write_bytes(content)
    with pytest.raises(BundleError, match=r"is not a whole ONNX file: .*; export it again"):
        open_session(way("ort-cpu"), files)


@pytest.mark.parametrize(
    ("first", "used", "told"),
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
    told: str,
) -> None:
    monkeypatch.setattr(onnxruntime.InferenceSession, "first", first)
    monkeypatch.setattr(onnxruntime.InferenceSession, "used", used)
    with pytest.raises(FallbackError, match=told):
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


def test_ctrl_c_in_the_middle_of_an_import_is_no_broken_package() -> None:
    """pybind11 makes an ImportError of it, with the interrupt as its cause."""
    from edgekit.machine.packages import broken_package

    broken = ImportError("initialization failed")
    assert "initialization failed" in broken_package("tensorrt", broken).reason
    broken.__cause__ = ValueError()
    broken.__cause__.__context__ = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        broken_package("tensorrt", broken)
