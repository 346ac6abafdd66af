"""Engines that do not load, do not fit the manifest, or failed their check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgekit.backends import open_session
from edgekit.backends.tensorrt.flavour import find
from edgekit.backends.tensorrt.session import TensorRTSession
from edgekit.bundle.folder import open_bundle
from edgekit.errors import EngineError
from edgekit.tensors import BatchRange, TensorSpec
from tests.backends.tensorrt.opened import engine_of, feed_of
from tests.fake_trt import FakeTensorRT, layers_json
from tests.fake_trt_engine import ICudaEngine
from tests.ways import way

pytest.importorskip("cuda.bindings.runtime", exc_type=ImportError)


def test_an_engine_that_does_not_load_says_to_build_it_again(ten: FakeTensorRT, bundle: Path) -> None:
    built = engine_of(bundle, BatchRange(1, 8, 32))
    ten.loads = False
    with pytest.raises(EngineError, match=rf"refuses the engine {built.path}: the GPU is of another kind; .*--rebuild") as caught:
        TensorRTSession.open(open_bundle(bundle).files(), find(), built)
    assert "\n" not in str(caught.value)
    assert ten.cuda.left == {}


def test_an_engine_of_the_cache_that_loads_no_more_is_built_again_once(
    ten: FakeTensorRT, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine_of(bundle, BatchRange(1, 8, 32))
    real, loaded = ICudaEngine.__init__, list[int]()

    def build_again(engine: ICudaEngine, document: dict[str, Any], logger: Any) -> None:
        loaded.append(document["build"])
        real(engine, document, logger)

    monkeypatch.setattr(ICudaEngine, "__init__", build_again)
    ten.refused_builds = {1}
    with open_session(way("tensorrt"), open_bundle(bundle).files()) as backend:
        backend.run(feed_of(backend, 2))
    assert (len(ten.builds), set(loaded)) == (2, {2})
    # what does not load even so is not built over and over
    ten.loads = False
    with pytest.raises(EngineError, match="refuses the engine it has just built"):
        open_session(way("tensorrt"), open_bundle(bundle).files())
    assert len(ten.builds) == 3


def test_a_damaged_engine_in_the_cache_is_built_again_and_never_loaded(ten: FakeTensorRT, bundle: Path) -> None:
    built = engine_of(bundle, BatchRange(1, 8, 32))
    assert built.path is not None
    built.path.write_bytes(b"x" * len(built.plan))
    with open_session(way("tensorrt"), open_bundle(bundle).files()) as backend:
        backend.run(feed_of(backend, 2))
    assert len(ten.builds) == 2


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"name": "other"}, "output float32 free x 10 where the manifest says other float32 free x 10"),
        ({"dtype": "float16"}, "output float32 free x 10 where the manifest says output float16"),
        ({"shape": ("batch", 11)}, "output float32 free x 10 where the manifest says output float32 free x 11"),
        ({"shape": (1, 10)}, "output float32 free x 10 where the manifest says output float32 1x10"),
    ],
)
def test_an_engine_of_other_tensors_than_the_manifest_says_is_refused(
    ten: FakeTensorRT, bundle: Path, change: dict[str, Any], expected: str
) -> None:
    files, built = open_bundle(bundle).files(), engine_of(bundle, BatchRange(1, 8, 32))
    wrong = (msgspec.structs.replace(files.outputs[0], **change),)
    with pytest.raises(EngineError, match=f"has the outputs {expected}.*--rebuild"):
        TensorRTSession.open(files._replace(outputs=wrong), find(), built)
    with pytest.raises(EngineError, match=r"has the inputs .* where the manifest says x "):
        TensorRTSession.open(files._replace(inputs=(TensorSpec("x", "float32", (1,)),)), find(), built)


def test_a_tensor_that_lives_on_the_host_is_refused(ten: FakeTensorRT, bundle: Path) -> None:
    ten.fails = "host"
    with pytest.raises(EngineError, match=r"in the host's memory .*; run the bundle with ort-cpu, and report it"):
        open_session(way("tensorrt"), open_bundle(bundle).files())
    assert len(ten.builds) == 1


def test_an_engine_that_failed_its_check_is_not_run(ten: FakeTensorRT, bundle: Path) -> None:
    ten.information = layers_json("Half")
    with pytest.raises(EngineError, match=r"failed its check: .*node_conv2d in float16.*edgekit build"):
        open_session(way("tensorrt"), open_bundle(bundle).files())
