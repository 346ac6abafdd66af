"""``edgekit run`` does each step once, and again if the step's inputs have changed."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import torch

from edgekit.bundle.folder import open_bundle
from edgekit.commands.run import agreement
from edgekit.commands.train import train
from edgekit.errors import Interrupted
from edgekit.files import sha256_of
from edgekit.machine.packages import version_of
from tests.command_line import Command, Result, banded_pictures, contents, process, recipe_text, written
from tests.training.test_loop import Stopping


@pytest.fixture(scope="module")
def _finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures, and with the run and the bundle that ``edgekit run`` made of them."""
    folder = tmp_path_factory.mktemp("tiny")
    recipe = written(folder / "tiny.toml", recipe_text(banded_pictures(folder)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = process("run", recipe, "--json", environment=environment, folder=folder)
    assert done.returncode == 0, done.stderr
    written(folder / "first.json", done.stdout)
    return folder


@pytest.fixture
def finished(_finished: Path, run: Command) -> Path:
    """The finished run, copied into the current folder."""
    for name in ("runs", "exported"):
        shutil.copytree(_finished / name, name)
    shutil.copy(_finished / "tiny.toml", "tiny.toml")
    return _finished


def steps(result: Result) -> dict[str, str]:
    return {step["step"]: step["status"] for step in result.document["steps"]}


def test_run_does_every_step_and_leaves_a_run_and_a_bundle(finished: Path, run: Command) -> None:
    first = json.loads((finished / "first.json").read_text())
    assert [(step["step"], step["status"], step["ok"]) for step in first["steps"]] == [
        (name, "done", True) for name in ("train", "export", "verify", "bench")
    ]
    assert first["bundle"] == "exported/tiny"
    assert {"train.json", "weights.safetensors", "metrics.jsonl", "curve.png", "verify.json", "bench.json"} <= {
        path.name for path in Path("runs/tiny").iterdir()
    }
    manifest = open_bundle(Path("exported/tiny")).manifest
    assert manifest.labels == ("high", "low")
    assert manifest.golden.kind == "test-set"
    pictures = sorted((finished / "pictures").rglob("1.png"))
    guessed = run("predict", "exported/tiny", *pictures, "--json").document["predictions"]
    assert [Path(prediction["image"]).parent.name for prediction in guessed] == ["high", "low"]
    assert run("verify", "exported/tiny", "--json").code == 0


def test_a_second_run_skips_every_step_and_says_so(finished: Path, run: Command) -> None:
    before = contents(Path("exported"))
    result = run("run", "tiny.toml", "--json")
    assert result.code == 0
    assert steps(result) == dict.fromkeys(("train", "export", "verify", "bench"), "skipped")
    assert contents(Path("exported")) == before
    printed = run("run", "tiny.toml")
    assert printed.code == 0
    assert printed.err.count("skipped, unchanged") == 4
    assert printed.out.count("unchanged: ") == 4


@pytest.mark.parametrize(
    ("names", "passed", "words"),
    [
        (["a"], True, "a agrees"),
        (["a", "b"], True, "a, b agree"),
        (["a"], False, "a DOES NOT agree"),
        (["a", "b"], False, "a, b DO NOT agree"),
    ],
)
def test_one_backend_agrees_and_several_agree(names: list[str], passed: bool, words: str) -> None:
    assert agreement(names, passed) == words


def test_another_bench_setting_only_times_again(finished: Path, run: Command) -> None:
    written(Path("tiny.toml"), recipe_text(finished / "pictures", seconds=0.06))
    result = run("run", "tiny.toml", "--json")
    assert steps(result) == {
        "train": "skipped", "export": "skipped", "verify": "skipped", "bench": "done",
    }  # fmt: skip
    assert result.document["steps"][-1]["detail"].startswith("again, since the recipe changed: batch 1 ")


def test_a_recipes_own_bar_passes_here_and_says_what_a_receiver_needs(finished: Path, run: Command) -> None:
    with Path("tiny.toml").open("a") as file:
        file.write("[verify]\ntop1 = 0.99\n")
    result = run("run", "tiny.toml", "--json")
    assert result.code == 0
    assert "by the recipe's own bar (top-1 0.99 instead of 1)" in result.document["steps"][2]["detail"]
    assert "whoever verifies this bundle must add --allow tolerance" in result.document["steps"][2]["detail"]
    assert run("verify", "exported/tiny").code == 1
    assert run("verify", "exported/tiny", "--allow", "tolerance").code == 0


@pytest.mark.parametrize("keys", ["atol = 1e-6\nrtol = 2e-5", "rtol = 1e-5"])
def test_a_recipes_bar_within_what_a_bundle_may_choose_is_the_noise(finished: Path, run: Command, keys: str) -> None:
    with Path("tiny.toml").open("a") as file:
        file.write(f"[verify]\n{keys}\n")
    assert run("run", "tiny.toml", "--json").code == 0
    assert run("verify", "exported/tiny", "--json").code == 0
    (parity, *_) = json.loads(Path("runs/tiny/verify.json").read_text())["parities"]
    assert parity["noise_factor"] == 4


def test_variants_are_made_of_the_recipes_own_pictures_and_only_once(finished: Path, run: Command) -> None:
    with Path("tiny.toml").open("a") as file:
        file.write('[[variants]]\nto = "int8"\nsamples = 40\n[[variants]]\nto = "float16"\n')
    result = run("run", "tiny.toml", "--json")
    assert result.code == 0
    assert steps(result) == {"train": "skipped", "export": "done", "verify": "done", "bench": "done"}
    assert re.search(r", int8 at [\d.]+ dB, float16 at [\d.]+ dB$", result.document["steps"][1]["detail"])
    manifest = open_bundle(Path("exported/tiny")).manifest
    assert [variant.name for variant in manifest.variants] == ["float32", "int8", "float16"]
    conversion = manifest.variants[1].conversion
    assert conversion is not None
    assert conversion.calibration is not None
    assert (conversion.calibration.source, conversion.calibration.samples) == ("40 training pictures of image-folder", 40)
    assert all(variant.accuracy is not None for variant in manifest.variants[1:])  # on the recipe's test set
    again = run("run", "tiny.toml", "--json")
    assert steps(again) == dict.fromkeys(("train", "export", "verify", "bench"), "skipped")


def test_a_noisy_timing_says_so_in_its_line(finished: Path, run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    written(Path("tiny.toml"), recipe_text(finished / "pictures", seconds=0.06))
    monkeypatch.setattr("edgekit.latency.loop.noise", lambda *anything, **settings: "noisy: blocks scatter")
    assert run("run", "tiny.toml", "--json").document["steps"][-1]["detail"].endswith("ms (noisy: blocks scatter)")


def test_with_other_backends_installed_steps_are_done_again_with_the_reason(
    finished: Path, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.commands.run.absence", lambda kind: f"no {kind} any more")
    result = run("run", "tiny.toml", "--json")
    assert steps(result) == {"train": "skipped", "export": "skipped", "verify": "done", "bench": "done"}
    for step in result.document["steps"][2:]:
        assert step["detail"].startswith("again, since the backends here changed: ")
    assert all("again" not in step["detail"] for step in run("run", "tiny.toml", "--json").document["steps"])


class Entry(NamedTuple):
    """An entry point of a distribution."""

    dist: Any


class Distribution(NamedTuple):
    """pip's facts about a package that brings a backend."""

    name: str
    version: str


@pytest.mark.parametrize("name", ["tensorrt", "cuda-bindings", "edgekit-echo"])
def test_another_version_of_a_backends_package_is_verified_and_timed_again(
    finished: Path, run: Command, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The packages: TensorRT, CUDA's Python, and a package that brings a backend."""
    if name == "edgekit-echo":
        monkeypatch.setattr("edgekit.commands.run.entry_points", lambda group: (Entry(Distribution(name, "99")),))
    else:
        monkeypatch.setattr(
            "edgekit.machine.packages.version_of", lambda package: "99" if package == name else version_of(package)
        )
    result = run("run", "tiny.toml", "--json")
    assert steps(result) == {"train": "skipped", "export": "skipped", "verify": "done", "bench": "done"}
    for step in result.document["steps"][2:]:
        assert step["detail"].startswith("again, since versions of packages changed: ")


@pytest.mark.parametrize("key", ["one hash of everything", {"the recipe": "its hash"}])
def test_a_step_recorded_by_an_earlier_edgekit_is_done_again_with_the_reason(finished: Path, run: Command, key: object) -> None:
    record = json.loads(Path("runs/tiny/steps.json").read_text())
    record["verify"]["key"] = key
    written(Path("runs/tiny/steps.json"), json.dumps(record))
    result = run("run", "tiny.toml", "--json")
    assert steps(result)["verify"] == "done"
    assert "again, since an earlier edgekit did it: " in result.document["steps"][2]["detail"]


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "weights.safetensors", "README.md"])
def test_a_file_lost_from_the_bundle_is_exported_again(finished: Path, run: Command, name: str) -> None:
    before = (Path("exported/tiny") / name).read_bytes()
    (Path("exported/tiny") / name).unlink()
    result = run("run", "tiny.toml", "--json")
    assert result.code == 0
    assert (steps(result)["train"], steps(result)["export"]) == ("skipped", "done")
    assert result.document["steps"][1]["detail"].startswith("again, since what it left was changed or lost: ")
    assert (Path("exported/tiny") / name).read_bytes() == before


def test_an_accuracy_below_the_bar_is_exit_1_and_stops_there_each_time(finished: Path, run: Command) -> None:
    text = recipe_text(finished / "pictures", epochs=1, bar=1.0).replace('name = "tiny"', 'name = "other"')
    written(Path("tiny.toml"), text.replace("learning_rate = 0.01", "learning_rate = 1e-9"))
    for status in ("done", "skipped"):
        result = run("run", "tiny.toml", "--json")
        assert (result.code, result.document["passed"]) == (1, False)
        assert steps(result) == {"train": status} | dict.fromkeys(("export", "verify", "bench"), "not run")
        assert {step["detail"] for step in result.document["steps"][1:]} == {"because train failed"}
        assert "below the bar of 1.0000" in result.document["steps"][0]["detail"]
    assert not Path("exported/other").exists()


def test_a_damaged_record_of_steps_only_means_that_they_are_done_again(finished: Path, run: Command) -> None:
    written(Path("runs/tiny/steps.json"), "{")
    result = run("run", "tiny.toml", "--json")
    assert result.code == 0
    assert steps(result)["verify"] == "done"
    assert msgspec.json.decode(Path("runs/tiny/steps.json").read_bytes()).keys() == {"train", "export", "verify", "bench"}


def test_run_refuses_to_write_over_the_users_files_before_it_trains(finished: Path, run: Command) -> None:
    written(Path("exported/tiny/thesis.txt"), "ten years of work")
    shutil.rmtree("runs")
    result = run("run", "tiny.toml", "--json")
    assert result.code == 2
    assert "thesis.txt" in result.document["error"]["message"]
    assert not Path("runs").exists()
    assert Path("exported/tiny/thesis.txt").read_text() == "ten years of work"


def test_another_bar_checks_again_and_trains_no_more(finished: Path, run: Command) -> None:
    before = sha256_of(Path("runs/tiny/weights.safetensors"))
    recipe = Path("tiny.toml").read_text()
    written(Path("tiny.toml"), recipe.replace("min_accuracy = 0.0", "min_accuracy = 0.99\nmin_balanced_accuracy = 1.0"))
    result = run("run", "tiny.toml", "--json")
    step = result.document["steps"][0]
    assert step["detail"].startswith("again, since bars changed: test accuracy ")
    assert sha256_of(Path("runs/tiny/weights.safetensors")) == before
    assert "epoch 1/" not in result.err


def test_another_setting_trains_again_and_is_named(finished: Path, run: Command) -> None:
    written(Path("tiny.toml"), recipe_text(finished / "pictures", epochs=1))
    step = run("run", "tiny.toml", "--json").document["steps"][0]
    assert step["detail"].startswith("again, since train.epochs changed: test accuracy ")


def test_a_misspelt_model_is_told_before_pictures_are_read(finished: Path, run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.data.load_dataset", lambda *anything: pytest.fail("pictures were decoded"))
    monkeypatch.setattr("edgekit.data.image_folder.digests", lambda *anything: pytest.fail("pictures were hashed"))
    recipe = Path("tiny.toml").read_text()
    written(Path("tiny.toml"), recipe.replace('name = "lenet"', 'name = "lennet"'))
    for command in ("train", "run"):
        result = run(command, "tiny.toml", "--json")
        assert result.code == 2
        assert "no model 'lennet'" in result.document["error"]["message"]


def interrupt() -> None:
    """Train anew, and stop after the first epoch."""
    with pytest.raises(Interrupted):
        train("tiny.toml", begin="restart", progress=Stopping(say=2))  # the first line is about the pictures
    Path("runs/tiny/train.json").unlink()


@pytest.mark.usefixtures("finished")
def test_an_interrupted_training_goes_on_and_restart_discards_it(run: Command) -> None:
    before = sha256_of(Path("runs/tiny/weights.safetensors"))
    interrupt()
    result = run("run", "tiny.toml", "--json")
    assert "going on with the training that stopped in epoch 2 of 2; --restart begins anew" in result.err
    assert "epoch 1/2" not in result.err
    assert sha256_of(Path("runs/tiny/weights.safetensors")) == before
    interrupt()
    result = run("run", "tiny.toml", "--restart", "--json")
    assert result.code == 0
    assert "epoch 1/2" in result.err


def test_an_interrupted_training_of_other_pictures_is_not_lost_unasked(finished: Path, run: Command) -> None:
    checkpoint = Path("runs/tiny/checkpoint.pt")
    content = torch.load(checkpoint, weights_only=True)
    torch.save({**content, "epoch": 1, "key": {**content["key"], "pictures or classes": "other"}}, checkpoint)
    Path("runs/tiny/train.json").unlink()
    before = checkpoint.read_bytes()
    result = run("run", "tiny.toml", "--json")
    assert result.code == 2
    assert "was made with other pictures or classes; --restart begins anew" in result.err
    assert checkpoint.read_bytes() == before


@pytest.mark.usefixtures("finished")
def test_the_recipes_threads_are_those_that_are_timed(run: Command) -> None:
    recipe = Path("tiny.toml").read_text()
    written(Path("tiny.toml"), re.sub(r"threads = \d+", "threads = 3", recipe))
    assert run("run", "tiny.toml", "--json").code == 0
    report = json.loads(Path("runs/tiny/bench.json").read_bytes())
    assert report["threads"] == 3
    assert {row["setup"]["threads"] for row in report["rows"]} == {3}


def test_what_training_needs_is_named_by_its_extra(finished: Path, run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    real_find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, package=None: None if name == "torchvision" else real_find_spec(name, package)
    )
    result = run("train", "tiny.toml", "--json")
    assert result.code == 2
    assert "pip install matplotlib onnx onnxscript" in result.document["error"]["message"]  # all that the extra brings
    assert "in a clone of edgekit: pip install -c constraints.txt -e '.[train]'" in result.document["error"]["message"]
    for command in ("train", "run"):
        missing = run(command, "nowhere.toml", "--json")
        assert "nowhere.toml" in missing.document["error"]["message"]
        assert "install" not in missing.document["error"]["message"]
