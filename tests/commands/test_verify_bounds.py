"""The memory that ``edgekit verify`` grants: enough for honest files, and no more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import hostile_bundles as hostile
import msgspec
import numpy as np
import onnx
import pytest

from edgekit.backends.choose import open_named
from edgekit.bundle.folder import open_bundle, write_bundle
from edgekit.bundle.golden import GoldenArrays
from edgekit.commands import verify as command
from edgekit.commands.verify import bounded
from edgekit.errors import TooLargeError
from edgekit.machine.bounds import stacks
from edgekit.setups import Setup
from edgekit.tensors import LARGEST_BATCH, Array
from tests.bundle.editing import put
from tests.onnx import crafted

SETUP = Setup("ort-cpu", threads=1)


def heavy(bundle: Path) -> None:
    """Give the bundle a network with 320 MB of weights."""
    weights = onnx.numpy_helper.from_array(np.ones(80_000_000, np.float32), "many")
    node = onnx.helper.make_node("Add", ["many", "seed"], ["waste"])
    put(bundle, "model.onnx", hostile.model([node], [weights]))


def run_once(bundle: Path) -> None:
    opened = open_bundle(bundle)
    with bounded(opened, SETUP), open_named("ort-cpu", SETUP, opened) as ready:
        ready.session.run({"input": np.zeros((1, 1, 28, 28), np.float32)})


def test_a_large_file_has_room_for_the_copies_that_the_runtime_makes(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "ROOM", 256 << 20)
    heavy(bundle)
    run_once(bundle)
    monkeypatch.setattr(command, "COPIES", 0)
    with pytest.raises(TooLargeError, match="takes more memory than its tensors explain; do not trust it"):
        run_once(bundle)


def test_room_grows_with_threads_and_not_with_what_a_bundle_says_of_itself(bundle: Path) -> None:
    opened = open_bundle(bundle)
    few, many = (command._room(opened, Setup("ort-cpu", threads=threads)) for threads in (1, 200))
    assert many - few == stacks(199)
    file = (bundle / "model.onnx").stat().st_size
    samples = opened.manifest.golden.samples
    assert few == command.ROOM + command.COPIES * file + 2 * 8 * samples * (28 * 28 + 10) + stacks(1)


# runs the statement argv[1], then ``edgekit`` with the other words
PROGRAM = """
import sys
from edgekit.commands import verify
exec(sys.argv.pop(1))
from edgekit.cli.process import run_process
run_process()
"""
NO_STACKS = "verify.stacks, verify.ROOM = lambda threads: 0, 96 << 20"


# a runtime that gets some of its threads only may wait for the others: then the bound in time ends it
@pytest.mark.parametrize(("first", "seconds", "code"), [("", "3600", 0), (NO_STACKS, "5", 2)])
def test_the_stacks_of_many_threads_have_room_and_without_it_one_sentence_says_so(
    bundle: Path, environment: dict[str, str], first: str, seconds: str, code: int
) -> None:
    command = [sys.executable, "-c", PROGRAM, first, "verify", str(bundle), "--backend", "ort-cpu threads=64"]
    environment |= {"EDGEKIT_SECONDS": seconds}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    if code:
        assert done.stderr.splitlines()[-1].startswith("error: "), done.stderr
        assert "Traceback" not in done.stderr


def test_more_golden_samples_than_a_batch_may_have_are_verified(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"  # of samples of 2 numbers
    nodes, stored = [crafted.node("MatMul", ["x", "w"], "y")], [crafted.tensor("w", 2, 3)]
    crafted.export(tmp_path, crafted.model_of(nodes, stored, shape=("batch", 2), rank=2))
    opened = open_bundle(bundle)
    manifest, golden, count = opened.manifest, opened.golden(), LARGEST_BATCH + 1

    def many(arrays: dict[str, Array]) -> dict[str, Array]:
        return {name: np.resize(array, (count, *array.shape[1:])) for name, array in arrays.items()}

    arrays = GoldenArrays(many(golden.inputs), many(golden.float64), many(golden.original), None)
    contents = {name: (bundle / name).read_bytes() for name in manifest.files if name != "evidence.npz"}
    described = msgspec.structs.replace(manifest.golden, samples=count, parts=(), pictures=())
    write_bundle(
        bundle,
        msgspec.structs.replace(manifest, golden=described, evidence=None),
        contents | {"golden.npz": arrays.to_npz()},
    )
    (row,) = command.verify(bundle, "ort-cpu").parities
    assert row.passed
    assert row.samples == count
    assert row.facts["batch sizes"] == "1024, 1, 2, 3, 7"
