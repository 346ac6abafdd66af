"""Golden arrays, and damage of golden.npz with a matching checksum."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.bundle.folder import open_bundle
from edgekit.bundle.golden import GoldenArrays
from edgekit.errors import BundleError
from edgekit.tensors import Array
from tests.bundle.editing import edit, members, npz, put

SAMPLES = 72


def test_the_golden_file_has_these_members_and_dtypes(bundle: Path) -> None:
    assert {name: (str(array.dtype), array.shape) for name, array in members(bundle).items()} == {
        "input.input": ("float32", (SAMPLES, 1, 28, 28)),
        "float64.output": ("float64", (SAMPLES, 10)),
        "original.output": ("float32", (SAMPLES, 10)),
    }


def test_golden_arrays_come_back_as_they_were_written(bundle: Path) -> None:
    golden, raw = open_bundle(bundle).golden(), members(bundle)
    assert golden.labels is None
    np.testing.assert_array_equal(golden.inputs["input"], raw["input.input"])
    np.testing.assert_array_equal(golden.float64["output"], raw["float64.output"])
    np.testing.assert_array_equal(golden.original["output"], raw["original.output"])
    assert golden.to_npz() == (bundle / "golden.npz").read_bytes()


def test_golden_labels_are_kept(bundle: Path) -> None:
    golden = open_bundle(bundle).golden()
    put(bundle, "golden.npz", GoldenArrays(golden.inputs, golden.float64, golden.original, np.arange(SAMPLES)).to_npz())
    labels = open_bundle(bundle).golden().labels
    assert labels is not None
    np.testing.assert_array_equal(labels, np.arange(SAMPLES))


# damage of golden.npz with a matching checksum


def _zip(name: str, content: bytes, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def _without(name: str) -> Callable[[Path], bytes]:
    return lambda root: npz({key: array for key, array in members(root).items() if key != name})


def _with(name: str, array: Array) -> Callable[[Path], bytes]:
    return lambda root: npz({**members(root), name: array})


def _corrupt(root: Path) -> bytes:
    content = bytearray((root / "golden.npz").read_bytes())
    content[200:260] = bytes(60)
    return bytes(content)


def _lying_header(root: Path) -> bytes:
    """A small member whose header claims a size beyond any machine's memory."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f8", "fortran_order": False, "shape": (1 << 55,)})
    return _replaced(root, "float64.output.npy", buffer.getvalue())


def _not_an_array(root: Path) -> bytes:
    return _replaced(root, "float64.output.npy", b"no array")


def _replaced(root: Path, name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(root / "golden.npz") as source, zipfile.ZipFile(buffer, "w") as archive:
        for member in source.namelist():
            archive.writestr(member, content if member == name else source.read(member))
    return buffer.getvalue()


GOLDEN_DAMAGE: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "not a zip": (lambda _: b"PK no zip", "not a zip file"),
    "empty": (lambda _: b"", "not a zip file"),
    "an array alone": (lambda _: b"\x93NUMPY\x01\x00", "not a zip file"),
    "input missing": (_without("input.input"), "input.input"),
    "reference missing": (_without("float64.output"), "float64.output"),
    "unknown member": (_with("extra", np.zeros(1)), "'extra.npy' is unknown or too large"),
    "wrong shape": (_with("float64.output", np.zeros((8, 9))), "float64.output is float64"),
    "wrong dtype": (_with("float64.output", np.zeros((SAMPLES, 10), np.float32)), "float64.output is float32"),
    "wrong number of samples": (_with("input.input", np.zeros((7, 1, 28, 28), np.float32)), "input.input is float32"),
    "labels of another shape": (_with("labels", np.arange(7)), r"labels is int64 \(7,\)"),
    "labels of another dtype": (_with("labels", np.zeros(8)), "labels is float64"),
    "bomb": (_with("float64.output", np.zeros((1 << 21,))), "'float64.output.npy' is unknown or too large"),
    "corrupt": (_corrupt, ""),
    "lying header": (_lying_header, ""),
    "not an array": (_not_an_array, ""),
}


@pytest.mark.parametrize(("damage", "reason"), GOLDEN_DAMAGE.values(), ids=GOLDEN_DAMAGE)
def test_a_golden_file_that_differs_from_the_manifest_is_refused(
    bundle: Path, damage: Callable[[Path], bytes], reason: str
) -> None:
    put(bundle, "golden.npz", damage(bundle))
    opened = open_bundle(bundle)
    with pytest.raises(BundleError, match=rf"golden\.npz is not the golden file its manifest describes: .*{reason}") as caught:
        opened.golden()
    assert "\n" not in str(caught.value)


def test_a_zip_bomb_is_not_unpacked(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(bundle, "golden.npz", _zip("input.input.npy", bytes(64 << 20)))
    opened = open_bundle(bundle)
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("golden.npz was unpacked"))
    with pytest.raises(BundleError, match=r"'input\.input\.npy' is unknown or too large"):
        opened.golden()


def test_a_manifest_that_promises_terabytes_is_refused_before_anything_is_unpacked(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(bundle, lambda document: document["inputs"][0].update(shape=["batch", 1 << 40]))
    opened = open_bundle(bundle)
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("golden.npz was unpacked"))
    with pytest.raises(BundleError, match="more than 4 GiB of memory"):
        opened.golden()


def test_a_dtype_that_does_not_exist_is_refused(bundle: Path) -> None:
    edit(bundle, lambda document: document["inputs"][0].update(dtype="banana"))
    with pytest.raises(BundleError, match="banana"):
        open_bundle(bundle).golden()


class Trap:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", ["float64.output", "labels"])
def test_nothing_in_a_golden_file_is_unpickled(bundle: Path, tmp_path: Path, name: str) -> None:
    array = np.empty(1, object)
    array[0] = Trap(tmp_path / "sprung")
    content = npz({**members(bundle), name: array})
    pickle.loads(pickle.dumps(array))  # the trap works
    (tmp_path / "sprung").unlink()
    put(bundle, "golden.npz", content)
    with pytest.raises(BundleError, match=r"golden\.npz is not the golden file"):
        open_bundle(bundle).golden()
    assert not (tmp_path / "sprung").exists()
