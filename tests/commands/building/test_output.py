"""The files and the output of ``edgekit build``, and the places that it refuses to write to."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from pathlib import Path

import msgspec
import pytest

from edgekit.backends.tensorrt.builder import build_plan
from edgekit.backends.tensorrt.engines import EngineRecord, record_path
from edgekit.backends.tensorrt.flavour import TensorRT
from edgekit.backends.tensorrt.options import BuildOptions
from edgekit.bundle.folder import open_bundle
from edgekit.cli.app import main
from edgekit.tensors import BatchRange
from tests.commands.building.command import Command, refused, written
from tests.fake_trt import FakeTensorRT, layers_json
from tests.onnx_files import onnx_file


@pytest.mark.parametrize("place", ["a file", "a folder", "below a file", "a link"])
def test_an_output_that_cannot_be_written_is_refused_before_the_build(
    bundle: Path, run: Command, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    Path("mine").write_text("precious")
    Path("folder").mkdir()
    Path("link").symlink_to("mine")
    monkeypatch.setattr("edgekit.backends.tensorrt.build.build_plan", None)
    where = {"a file": "mine", "a folder": "folder", "below a file": "mine/engine.plan", "a link": "link"}[place]
    assert "cannot write" in refused(run, bundle, "--output", where, kind="OutputError")
    assert Path("mine").read_text() == "precious"


@pytest.mark.parametrize(
    ("where", "needle"),
    [(name, "a folder of that name is there") for name in (".", "/", "..", "gone/..", "folder", "folder/", "to the folder")]
    + [("-", "no engine is written to stdout"), ("pipe", "a pipe of that name is there"), ("x" * 5000, "choose a shorter name")]
    + [("x" * 252, "choose a shorter name")],  # the name of the record beside it is five characters longer
)
def test_an_output_that_names_no_file_is_refused_before_the_build(
    bundle: Path, run: Command, monkeypatch: pytest.MonkeyPatch, where: str, needle: str
) -> None:
    Path("folder").mkdir()
    Path("to the folder").symlink_to("folder")
    os.mkfifo("pipe")
    monkeypatch.setattr("edgekit.backends.tensorrt.build.build_plan", None)
    assert needle in refused(run, bundle, "--output", where, kind="OutputError")
    assert Path("pipe").is_fifo()


@pytest.mark.parametrize("where", ["engine.plan", "engines/engine.plan", "model.onnx"])
def test_an_output_in_the_bundle_is_refused_before_the_build(
    bundle: Path, run: Command, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr("edgekit.backends.tensorrt.build.build_plan", None)
    before = sorted(bundle.rglob("*"))
    assert "and a bundle is immutable; choose" in refused(run, bundle, "--output", bundle / where, kind="OutputError")
    assert sorted(bundle.rglob("*")) == before


def test_an_engine_takes_the_place_of_a_link_and_leaves_what_it_pointed_to(bundle: Path, run: Command) -> None:
    """A link does not count as an engine in the cache, so writing through a link would build every time."""
    assert run(bundle, "--output", "engine.plan").code == 0
    Path("engine.plan").rename("elsewhere")
    Path("engine.plan").symlink_to("elsewhere")
    before = Path("elsewhere").read_bytes()
    for cached in (False, True):
        assert run(bundle, "--output", "engine.plan").document["cached"] is cached
    assert not Path("engine.plan").is_symlink()
    assert Path("elsewhere").read_bytes() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_read_only_is_refused_before_the_build(bundle: Path, run: Command) -> None:
    Path("sealed").mkdir(mode=0o500)
    assert "Permission denied" in refused(run, bundle, "--output", "sealed/engine.plan", kind="OutputError")


def test_a_disk_that_is_full_leaves_no_engine(bundle: Path, run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert "free some disk space" in refused(run, bundle, "--output", "engine.plan", kind="OutputError")


# the command


def test_the_command_writes_a_plan_that_is_nothing_but_the_plan(bundle: Path, run: Command, rtx: TensorRT) -> None:
    result = run(bundle, "--output", "engine.plan", "--batch", "1:2:4", "--batch", "8")
    assert result.code == 0
    document = result.document
    assert document["passed"] is True
    assert document["cached"] is False
    assert document["ranges"] == [{"min": 1, "opt": 2, "max": 4}, {"min": 8, "opt": 8, "max": 8}]
    plan = Path("engine.plan").read_bytes()
    assert hashlib.sha256(plan).hexdigest() == document["engine_sha256"]
    profiles = (BatchRange(1, 2, 4), BatchRange(8, 8, 8))
    opened = open_bundle(bundle)
    model = onnx_file((bundle / "model.onnx").read_bytes(), opened.manifest.inputs, opened.manifest.outputs)
    assert plan == build_plan(rtx, model, BuildOptions(profiles=profiles)).plan
    assert sorted(os.listdir()) == ["engine.plan", "engine.plan.json"]
    record = msgspec.json.decode(record_path(Path("engine.plan")).read_bytes(), type=EngineRecord)
    assert record.key.onnx_sha256 == opened.sha256_of()


def test_the_table_names_layers_precision_and_place(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rtx: TensorRT
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["edgekit", "build", str(bundle)])
    outputs = []
    for _ in range(2):
        with pytest.raises(SystemExit) as done:
            main()
        assert done.value.code == 0
        outputs.append(capsys.readouterr().out)
    for part in ("CONVOLUTION", "float32 asked for, float32 found in the network, TF32 off: pass", "batch 1:8:32", ".plan"):
        assert part in outputs[0]
    assert re.search(r"the build took \d.*\nwrote ", outputs[0])
    assert re.search(r"its build took \d\S+ s; timing cache: this flavour has none, .*\nfound ", outputs[1])


@pytest.mark.parametrize(
    ("information", "problem"),
    [
        (
            layers_json("Float", "Half"),
            "1 layer(s) run in another precision than the network's float32: node_conv2d_1 in float16 instead of float32",
        ),
        (
            layers_json("Channel major INT8 format"),
            "1 layer(s) run in another precision than the network's float32: node_conv2d in int8 instead of float32",
        ),
        (layers_json("Float", tactic="sm80_tf32f32"), "TF32 is off, and 1 layer(s) use it: conv0"),
    ],
)
def test_an_engine_that_computes_in_another_precision_fails_the_check_and_is_not_kept(
    bundle: Path, ten: FakeTensorRT, run: Command, information: str, problem: str
) -> None:
    ten.information = information
    before = written()
    result = run(bundle, "--flavour", "tensorrt", "--output", "engine.plan")
    assert result.code == 1
    assert result.document["passed"] is False
    assert result.document["engine"] is None
    assert problem in result.document["precision"]["problems"]
    assert written() == before
