"""Raw golden tensors: the bytes, the lines for trtexec, and the program that compares what it wrote."""

from __future__ import annotations

import json
import math
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from edgekit.bundle.folder import Bundle, open_bundle
from edgekit.ship import Forms
from edgekit.ship.compare_raw import outputs_of
from edgekit.tensors import Array
from tests.command_line import Command, contents, written
from tests.onnx.crafted import conv, export, model_of, norm, statistics, tensor


def raw(bundle: Path, folder: Path) -> tuple[Bundle, Path]:
    opened = open_bundle(bundle)
    Forms(golden_raw=folder).write(opened)
    return opened, folder


def as_trtexec(path: Path, outputs: dict[str, Array]) -> Path:
    """A file as ``trtexec --exportOutput`` writes it: six digits, C++'s words for what is no number, dims between x."""
    entries = []
    for name, array in outputs.items():
        numbers = ", ".join("-nan" if math.isnan(value) else f"{value:.6g}" for value in array.reshape(-1).tolist())
        shape = "x".join(map(str, array.shape))
        entries.append(f'{{ "name" : "{name}"\n  , "dimensions" : "{shape}"\n  , "values" : [ {numbers} ]\n  }}')
    path.write_text("[\n  " + "\n, ".join(entries) + "\n]\n")
    return path


def computed(bundle: Bundle, folder: Path, variant: str = "") -> list[dict[str, Array]]:
    """What ONNX Runtime computes of the raw inputs, batch by batch."""
    index = json.loads((folder / "golden.json").read_text())["variants"][variant or bundle.variant().name]
    session = onnxruntime.InferenceSession(bundle.onnx_bytes(variant), providers=["CPUExecutionProvider"])
    names = [spec["name"] for spec in index["outputs"]]
    batches = []
    for batch in range(index["batches"]):
        place = folder / index["folder"] / f"batch-{batch}" / "inputs"
        feed = {spec["name"]: np.fromfile(place / spec["file"], spec["dtype"]).reshape(spec["shape"]) for spec in index["inputs"]}
        batches.append(dict(zip(names, session.run(names, feed), strict=True)))
    return batches


def compare(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """The program beside the tensors, in a process that cannot import edgekit."""
    command = [sys.executable, "-I", str(folder / "compare.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("variant", ["float32", "int8", "float16"])
def test_a_runtimes_outputs_pass_and_others_fail(repository: Path, tmp_path: Path, variant: str) -> None:
    bundle, folder = raw(repository / "exported" / "edgenet", tmp_path / "raw")
    (outputs,) = computed(bundle, folder, variant)
    good = compare(folder, variant, as_trtexec(tmp_path / "out.json", outputs))
    assert good.returncode == 0, good.stdout + good.stderr
    assert good.stdout.startswith("pass  output: error ")
    scale = float(np.abs(bundle.golden().float64["output"]).max())
    shift = {"float32": 1e-4, "float16": 4e-2, "int8": 2e-1}[variant] * scale
    wrong = outputs["output"].copy()
    wrong[3, 2] += shift
    swapped = outputs["output"][:, ::-1]
    lost = outputs["output"].copy()
    lost[0, 0] = np.nan
    for values in (wrong, swapped, lost):
        bad = compare(folder, variant, as_trtexec(tmp_path / "out.json", {"output": values}))
        assert (bad.returncode, bad.stdout[:4]) == (1, "FAIL")


def test_a_variant_with_inputs_of_its_own_has_samples_and_lines_of_its_own(taking_pictures: Path, tmp_path: Path) -> None:
    bundle, folder = raw(taking_pictures, tmp_path / "raw")
    for variant in ("float32", "with-preprocessing"):
        (outputs,) = computed(bundle, folder, variant)
        assert compare(folder, variant, as_trtexec(tmp_path / "out.json", outputs)).returncode == 0
        wrong = {name: array + np.float32(0.01) for name, array in outputs.items()}
        assert compare(folder, variant, as_trtexec(tmp_path / "out.json", wrong)).returncode == 1
    pictures = bundle.golden("with-preprocessing").inputs["picture"]
    assert f"--shapes=picture:{'x'.join(map(str, pictures.shape))} " in (folder / "README.md").read_text()
    assert (folder / "with-preprocessing" / "batch-0" / "inputs" / "0-picture.bin").read_bytes() == pictures.tobytes()


def test_six_digits_are_not_held_against_a_file(bundle: Path, tmp_path: Path) -> None:
    opened, folder = raw(bundle, tmp_path / "raw")
    exact = dict(opened.golden().float64)
    assert compare(folder, "float32", as_trtexec(tmp_path / "out.json", exact)).returncode == 0


def test_every_batch_of_a_fixed_size_has_a_folder_and_is_compared(tmp_path: Path) -> None:
    stored = [tensor("w", 6, 4, 3, 3), *statistics("bn", 6), onnx.numpy_helper.from_array(np.array([5, 6, 12, 12]), "size")]
    resize = onnx.helper.make_node("Resize", ["n", "", "", "size"], ["y"], "resize", mode="nearest")
    export(tmp_path, model_of([conv(), norm("c", "n"), resize], stored, shape=(5, 4, 8, 8)))
    bundle, folder = raw(tmp_path / "bundle", tmp_path / "raw")
    batches = computed(bundle, folder)
    assert len(batches) == bundle.manifest.golden.samples // 5 > 1
    files = [as_trtexec(tmp_path / f"{number}.json", outputs) for number, outputs in enumerate(batches)]
    assert compare(folder, "float32", *files).returncode == 0
    assert compare(folder, "float32", *files[::-1]).returncode == 1
    too_few = compare(folder, "float32", *files[1:])
    assert (too_few.returncode, "give the outputs of every batch" in too_few.stderr) == (2, True)
    lines = (folder / "README.md").read_text()
    assert "--shapes" not in lines
    assert f"for batch in $(seq 0 {len(batches) - 1}); do trtexec --loadEngine=float32.plan " in lines


TRTEXEC = """#!/bin/sh
for word in "$@"; do printf '%s\\n' "$word"; done >> "$CALLS"
for word in "$@"; do case "$word" in --exportOutput=*) cp "$OUTPUTS" "${word#--exportOutput=}";; esac; done
"""


def test_the_lines_on_the_page_run_as_they_stand(repository: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    bundle, folder = raw(repository / "exported" / "lenet", tmp_path / "raw")
    (outputs,) = computed(bundle, folder)
    (tmp_path / "bin").mkdir()
    written(tmp_path / "bin" / "trtexec", TRTEXEC).chmod(0o755)
    (tmp_path / "bin" / "python3").symlink_to(sys.executable)
    (lines,) = re.findall(r"```sh\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    lines = lines.replace("/path/to/the/bundle", shlex.quote(str(bundle.root)))
    calls = tmp_path / "calls"
    own = {"PATH": f"{tmp_path / 'bin'}:{environment['PATH']}", "CALLS": str(calls)}
    own["OUTPUTS"] = str(as_trtexec(tmp_path / "out.json", outputs))
    done = subprocess.run(
        ["sh", "-ec", lines], cwd=folder, env={**environment, **own}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("pass  output")
    words = calls.read_text().splitlines()
    assert words[0] == f"--onnx={bundle.onnx_of()}"
    loaded = next(word for word in words if word.startswith("--loadInputs=")).partition("=")[2]
    name, _, file = loaded.partition(":")
    samples = bundle.manifest.golden.samples
    assert f"--shapes={name}:{samples}x1x28x28" in words
    assert (folder / file).read_bytes() == bundle.golden().inputs[name].tobytes()


def test_a_folder_is_written_again_the_same_and_other_files_in_it_stay(run: Command, bundle: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert run("export", bundle, "--golden-raw", tmp_path / "raw").code == 0
    before = contents(tmp_path / "raw")
    shutil.rmtree(tmp_path / "raw")
    assert run("export", bundle, "--golden-raw", tmp_path / "raw").code == 0
    assert contents(tmp_path / "raw") == before
    written(tmp_path / "raw" / "float32-0.json", "[]")
    refused = run("export", bundle, "--golden-raw", tmp_path / "raw")
    assert refused.code == 2
    assert "it holds float32-0.json, which edgekit did not write; move it away or choose another folder" in refused.err
    assert (tmp_path / "raw" / "float32-0.json").is_file()


def test_what_is_no_output_of_trtexec_is_one_sentence(bundle: Path, tmp_path: Path) -> None:
    _, folder = raw(bundle, tmp_path / "raw")
    for content in ("", "[]", '[{"name": "output", "values": [1, 2]}]', "[1]"):
        done = compare(folder, "float32", written(tmp_path / "out.json", content))
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    unknown = compare(folder, "int8", tmp_path / "out.json")
    assert (unknown.returncode, "choose one of float32" in unknown.stderr) == (2, True)


def test_words_of_c_are_numbers_and_names_stay(tmp_path: Path) -> None:
    path = written(
        tmp_path / "out.json", '[ { "name" : "inf, nan"\n  , "dimensions" : "3"\n  , "values" : [ nan, -inf, inf ]\n } ]'
    )
    (values,) = outputs_of(path).values()
    assert [*map(str, values)] == ["nan", "-inf", "inf"]
