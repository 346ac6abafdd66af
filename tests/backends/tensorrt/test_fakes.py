"""The fakes of TensorRT and CUDA have nothing that the real libraries lack."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

import pytest

from tests.fake_cuda import TEXTS, Error, FakeCuda
from tests.fake_trt import FakeTensorRT

runtime = pytest.importorskip("cuda.bindings.runtime", exc_type=ImportError)


def test_the_fake_of_cuda_has_nothing_that_cuda_python_lacks() -> None:
    """Names, numbers of arguments, and numbers of errors."""
    for name, function in inspect.getmembers(FakeCuda, inspect.isfunction):
        if name.startswith("cuda"):
            signature = (getattr(runtime, name).__doc__ or "").strip().splitlines()[0]
            taken = [one for one in signature[signature.index("(") + 1 : signature.rindex(")")].split(",") if one.strip()]
            assert len(inspect.signature(function).parameters) - 1 == len(taken), signature
    for error in Error:
        assert int(getattr(runtime.cudaError_t, error.name)) == error
    for kind in (FakeCuda.cudaMemcpyKind, FakeCuda.cudaStreamCaptureMode):
        assert all(int(getattr(getattr(runtime, kind.__name__), one.name)) == one for one in kind)
    assert FakeCuda.cudaStreamNonBlocking == runtime.cudaStreamNonBlocking
    assert set(TEXTS) == set(Error) - {Error.cudaSuccess}


def test_the_real_cuda_python_without_a_driver_is_one_sentence() -> None:
    from edgekit.backends.tensorrt.memory import runtime_absence
    from edgekit.machine.gpu import cuda_absence

    problem = runtime_absence()
    assert (problem is None) is (cuda_absence() is None)
    assert not problem or re.fullmatch(r"CUDA cannot start: CUDA driver version is insufficient .*; update .*", str(problem))


def test_the_fakes_refuse_what_they_do_not_know(ten: FakeTensorRT, monkeypatch: pytest.MonkeyPatch) -> None:
    cudart: Any = importlib.import_module("edgekit.backends.tensorrt.memory").cudart
    with pytest.raises(AttributeError, match="this CUDA has no cudaMallocManaged"):
        cudart.cudaMallocManaged(1)
    with pytest.raises(AttributeError, match="this CUDA has no memory"):
        _ = cudart.memory
