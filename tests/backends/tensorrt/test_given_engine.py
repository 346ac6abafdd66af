"""Engines given by --engine: checked and timed as they are, or refused with what does not fit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgekit.backends.tensorrt.options import BuildOptions
from edgekit.cli.app import main
from edgekit.commands.bench import bench
from edgekit.commands.build import build
from edgekit.commands.predict import predict
from edgekit.commands.verify import verify
from edgekit.errors import EngineError, MissingError, UsageError
from edgekit.latency.loop import Timing
from edgekit.reports.build import BuildReport
from edgekit.tensors import BatchRange
from tests.backends.tensorrt.opened import SECONDS, engine_of, without
from tests.commands.test_variants import COARSE, STORED_WIDE, two_variants
from tests.fake_trt import GPU, FakeTensorRT
from tests.fake_trt_engine import ICudaEngine
from tests.trt_listing import LISTINGS
from tests.ways import NO_DRIVER, building, way, ways

pytest.importorskip("cuda.bindings.runtime", exc_type=ImportError)


def built_at(bundle: Path, place: Path, *ranges: str, **options: Any) -> BuildReport:
    profiles = tuple(map(BatchRange.parse, ranges))
    return build(bundle, building(flavour="tensorrt", options=BuildOptions(profiles=profiles, **options)), output=place)


@pytest.mark.parametrize(
    ("ranges", "sizes"),
    [
        (["1:8:64"], "64, 1, 2, 3, 7"),
        (["8:16:64"], "64, 8"),
        (["1:2:4"], "4, 1, 2, 3"),
        (["8"], "8"),
        (["7"], "7"),  # it does not divide the samples: the last batch is filled up
        (["1", "8", "2:2:4"], "1, 8, 4, 2, 3"),
        (["100:128:200"], "100"),
    ],
)
def test_an_engine_that_is_given_is_verified_in_the_batches_it_takes(
    ten: FakeTensorRT, bundle: Path, tmp_path: Path, ranges: list[str], sizes: str
) -> None:
    built = built_at(bundle, tmp_path / "net.plan", *ranges, tf32=True)
    report = verify(bundle, ways("tensorrt", engine=tmp_path / "net.plan"))
    (parity,) = report.parities
    assert report.passed
    assert parity.samples >= 64
    assert (parity.facts["engine sha256"], parity.facts["batch sizes"]) == (built.engine_sha256, sizes)
    assert parity.facts["TF32"] == "on"
    assert len(ten.builds) == 1
    assert ten.cuda.left == {}


def test_an_engine_is_held_to_the_variant_that_it_was_built_of(ten: FakeTensorRT, bundle: Path, tmp_path: Path) -> None:
    two_variants(bundle, COARSE)
    built_at(bundle, tmp_path / "net.plan", "1:8:64", tf32=True)
    (setup,) = ways("tensorrt", engine=tmp_path / "net.plan")
    report = verify(bundle, setup, allow=STORED_WIDE)
    assert [parity.setup.variant for parity in report.parities] == ["float32"]
    assert [(row.backend, row.reason) for row in report.skipped] == [
        ("tensorrt variant=float16", "what tensorrt was given goes with float32")
    ]
    with pytest.raises(EngineError, match="an engine of another file"):
        verify(bundle, msgspec.structs.replace(setup, variant="float16"), allow=STORED_WIDE)


def test_one_sample_in_a_batch_that_is_off_fails(ten: FakeTensorRT, bundle: Path, tmp_path: Path) -> None:
    """The partner of the test above: what fills a batch up is left out, and nothing else."""
    built_at(bundle, tmp_path / "net.plan", "7")
    real = ICudaEngine._run

    def off(engine: ICudaEngine, names: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        outputs = real(engine, names, feed)
        outputs[0][0] += 0.1
        return outputs

    ICudaEngine._run = off  # type: ignore[assignment,method-assign]  # the method is replaced on purpose
    try:
        assert not verify(bundle, ways("tensorrt", engine=tmp_path / "net.plan")).passed
    finally:
        ICudaEngine._run = real  # type: ignore[method-assign]  # the method is replaced on purpose


def test_an_engine_that_is_given_is_timed_and_labels_pictures(ten: FakeTensorRT, bundle: Path, tmp_path: Path) -> None:
    from PIL import Image

    place, picture = tmp_path / "net.plan", tmp_path / "picture.png"
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(picture)
    built = built_at(bundle, place, "1:4:16")
    timed = bench(bundle, ways("ort-cpu", "tensorrt", engine=place), Timing(batches=(1, 16), seconds=SECONDS))
    facts = [row.facts for row in timed.rows if row.backend == "tensorrt"]
    assert {row["engine sha256"] for row in facts} == {built.engine_sha256}
    assert predict(bundle, [picture], way("tensorrt", engine=place)).predictions
    with pytest.raises(EngineError, match=r"takes no batch of 32 \(min:opt:max: 1:4:16\); build it with --batch 32"):
        bench(bundle, ways("tensorrt", engine=place), Timing(batches=(1, 32), seconds=SECONDS))
    assert len(ten.builds) == 1
    assert ten.cuda.left == {}


def test_an_engine_for_something_else_is_refused_and_says_in_what(
    ten: FakeTensorRT, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "net.plan"
    built_at(bundle, place, "1:8:64")

    def refused(expected: str) -> None:
        with pytest.raises(EngineError, match=expected) as caught:
            verify(bundle, ways("tensorrt", engine=place))
        assert "\n" not in str(caught.value)

    with monkeypatch.context() as other:
        other.setattr("edgekit.backends.tensorrt.engines.gpu_facts", lambda: {**GPU, "gpu": "Another GPU", "driver": ""})
        refused(
            r"plan was built for something else \(GPU Pretended GPU there, Another GPU here, driver 540.4 there, none here\); "
            f"build it again: edgekit build BUNDLE --variant float32 --batch 1:8:64 --output {place}"
        )
    plan = place.read_bytes()
    place.write_bytes(plan[:-1] + b" ")
    refused("net.plan is not the plan that its record tells of; build it again")
    place.write_bytes(plan)
    place.with_name("net.plan.json").unlink()
    refused(r"net.plan' is not an engine that edgekit built: its record net.plan.json is not beside it; make it with")
    place.with_name("net.plan.json").write_text("{}")
    refused(r"net.plan' is not an engine that this edgekit built: net.plan.json is not a record of its own; make it with")
    for odd, told in (("", "is not a file"), ("/", "is not a file"), ("..", "is not a file"), ("gone.plan", "does not exist")):
        with pytest.raises(EngineError, match=rf"^engine '.*' {told}; make it with edgekit build --output$"):
            verify(bundle, ways("tensorrt", engine=Path(odd)))
    assert len(ten.builds) == 1


def test_an_engine_that_may_go_elsewhere_is_run_elsewhere(
    ten: FakeTensorRT, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = {**GPU, "gpu": "Another GPU", "compute capability": "8.9", "multiprocessors": "80", "gpu memory": "24 GiB"}
    driver = {**GPU, "driver": "580.1", "cuda driver": "13.0"}
    for options, elsewhere in (({"hardware_compatible": True}, gpu), ({"version_compatible": True}, driver)):
        place = tmp_path / f"{next(iter(options))}.plan"
        built_at(bundle, place, "1:8:64", **options)
        built_at(bundle, tmp_path / "plain.plan", "1:8:64")
        with monkeypatch.context() as there:
            there.setattr("edgekit.backends.tensorrt.engines.gpu_facts", lambda elsewhere=elsewhere: elsewhere)
            there.setattr("edgekit.backends.tensorrt.session.gpu_facts", lambda elsewhere=elsewhere: elsewhere)
            (parity,) = verify(bundle, ways("tensorrt", engine=place)).parities
            assert (parity.facts["gpu"], parity.facts["driver"]) == (elsewhere["gpu"], elsewhere["driver"])
            with pytest.raises(EngineError, match=r"plain.plan was built for something else"):
                verify(bundle, ways("tensorrt", engine=tmp_path / "plain.plan"))


def test_an_engine_may_be_given_by_a_link_and_one_that_does_not_load_is_not_rebuilt(
    ten: FakeTensorRT, bundle: Path, tmp_path: Path
) -> None:
    built_at(bundle, tmp_path / "net.plan", "1:8:64")
    (tmp_path / "current.plan").symlink_to("net.plan")
    assert verify(bundle, ways("tensorrt", engine=tmp_path / "current.plan")).passed
    ten.loads = False
    with pytest.raises(
        EngineError,
        match=r"refuses the engine .*; build it again: edgekit build BUNDLE --variant float32 --batch 1:8:64 --output",
    ):
        verify(bundle, ways("tensorrt", engine=tmp_path / "net.plan"))
    assert len(ten.builds) == 1


def test_the_engine_that_is_verified_is_the_one_that_is_built_and_timed(ten: FakeTensorRT, bundle: Path) -> None:
    built = build(bundle)
    (parity,) = verify(bundle, ways("tensorrt")).parities
    timed = bench(bundle, ways("tensorrt"), Timing(batches=(1, 8, 32), seconds=SECONDS))
    assert {parity.facts["engine sha256"], *(row.facts["engine sha256"] for row in timed.rows)} == {built.engine_sha256}
    assert len(ten.builds) == 1


def test_the_narrowest_profile_takes_a_batch(ten: FakeTensorRT, bundle: Path) -> None:
    record = engine_of(bundle, BatchRange(1, 8, 32), BatchRange(1, 1, 1), BatchRange(8, 16, 16)).record
    assert [record.profile_for(batch) for batch in (1, 2, 8, 17)] == [1, 0, 2, 0]


def test_an_engine_of_another_file_is_refused(ten: FakeTensorRT, bundle: Path, repository: Path, tmp_path: Path) -> None:
    built_at(bundle, tmp_path / "net.plan", "1:8:64")
    with pytest.raises(EngineError, match=r"net.plan is an engine of another file than .*; give the bundle that it was built of"):
        verify(repository / "exported" / "lenet-scratch", ways("tensorrt", engine=tmp_path / "net.plan"))


def test_an_engine_of_another_flavour_than_asked_for_is_refused_and_its_own_is_taken(
    ten: FakeTensorRT, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RTX compiles for the GPU that it finds: what was built without one may run on any that it knows."""
    rtx = FakeTensorRT(LISTINGS[-1])
    rtx.cuda = ten.cuda
    rtx.install(monkeypatch)
    place = tmp_path / "net.plan"
    with monkeypatch.context() as without_gpu:
        without_gpu.setattr(
            "edgekit.backends.tensorrt.engines.gpu_facts", dict
        )  # so it is for all that RTX compiles for when it runs
        without_gpu.setattr("edgekit.backends.tensorrt.inspector.cuda_absence", lambda: NO_DRIVER)
        built = build(bundle, building(flavour="tensorrt-rtx"), output=place)
    assert built.precision is not None
    assert built.precision.read_from == "network"
    monkeypatch.setattr("edgekit.backends.tensorrt.flavour.gpu_facts", lambda: {"compute capability": "8.9"})
    (parity,) = verify(bundle, ways("tensorrt", engine=place)).parities
    assert (parity.facts["flavour"], parity.facts["engine sha256"]) == ("tensorrt-rtx", built.engine_sha256)
    with pytest.raises(UsageError, match=r"--flavour tensorrt: .*net.plan is an engine of tensorrt-rtx; leave out one"):
        verify(bundle, ways("tensorrt", flavour="tensorrt", engine=place))
    with pytest.raises(
        UsageError, match=r"--(flavour|engine) is for tensorrt, which is not among ort-cpu; add --backend tensorrt"
    ):
        verify(bundle, ways("ort-cpu", engine=place))


def test_what_rtx_builds_beside_a_gpu_that_it_does_not_know_runs_on_those_that_it_knows(
    ten: FakeTensorRT, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on an H200, whose plan is byte by byte the one of a machine without a GPU."""
    rtx = FakeTensorRT(LISTINGS[-1])
    rtx.cuda = ten.cuda
    rtx.install(monkeypatch)
    h200 = {**GPU, "gpu": "NVIDIA H200", "compute capability": "9.0"}
    with monkeypatch.context() as hopper:
        for module in ("engines", "flavour"):
            hopper.setattr(f"edgekit.backends.tensorrt.{module}.gpu_facts", lambda: h200)
        built = build(bundle, building(flavour="tensorrt-rtx"), output=tmp_path / "net.plan")
    monkeypatch.setattr("edgekit.backends.tensorrt.flavour.gpu_facts", lambda: {"compute capability": "8.9"})
    (parity,) = verify(bundle, ways("tensorrt", engine=tmp_path / "net.plan")).parities
    assert parity.facts["engine sha256"] == built.engine_sha256
    assert not build(bundle, building(flavour="tensorrt-rtx")).cached  # one for this GPU is another


def test_an_engine_is_given_on_the_command_line(
    ten: FakeTensorRT, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    built = built_at(bundle, tmp_path / "net.plan", "1:8:64")
    common = [str(bundle), "--backend", "tensorrt", "--engine", str(tmp_path / "net.plan"), "--json"]
    for command in (["verify"], ["bench", "--batch", "1", "--seconds", "0.01"]):
        monkeypatch.setattr(sys, "argv", ["edgekit", command[0], *common, *command[1:]])
        with pytest.raises(SystemExit) as done:
            main()
        assert done.value.code == 0
        assert built.engine_sha256 in capsys.readouterr().out


def test_a_flavour_that_cannot_run_or_is_none_is_refused(
    ten: FakeTensorRT, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "tensorrt_rtx")
    with pytest.raises(MissingError, match=r"cannot run here: tensorrt-rtx is not installed; pip install .*tensorrt-rtx"):
        verify(bundle, ways(flavour="tensorrt-rtx"))
    with pytest.raises(UsageError, match="no flavour 'trt'; use one of tensorrt, tensorrt-rtx"):
        bench(bundle, ways("tensorrt", flavour="trt"), Timing(seconds=SECONDS))
    with pytest.raises(
        UsageError, match=r"--(flavour|engine) is for tensorrt, which is not among ort-cpu; add --backend tensorrt"
    ):
        verify(bundle, ways("ort-cpu", flavour="tensorrt"))
    with pytest.raises(UsageError, match=r"--(flavour|engine) is for tensorrt"):
        predict(bundle, [], way("ort-cpu", flavour="tensorrt"))
