"""PyTorch as a backend: threads, TF32, times and errors on the CPU and on a GPU that is made up."""

from __future__ import annotations

import re
import sys
from typing import Any

import numpy as np
import pytest
import torch

from edgekit.backends import open_session
from edgekit.backends.contract import DeviceTimes, OnDevice, launch_bound
from edgekit.bundle.files import ModelFiles
from edgekit.errors import MissingError, ModelError
from edgekit.tensors import Feed, sample_feed
from tests.ways import NO_DRIVER, set_driver, way, why_not


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
