"""The files of a bundle, the keys of its manifest, and its variants."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgekit.bundle.folder import open_bundle
from edgekit.bundle.manifest import Allowance, _check_variants, decode_manifest
from edgekit.errors import BundleError, UsageError
from edgekit.tolerance import Tolerance
from tests.bundle.editing import FILES, edit, put


def test_a_bundle_opens_and_every_file_is_checked(bundle: Path, hashed: list[Path]) -> None:
    opened = open_bundle(bundle)
    assert opened.root == bundle
    assert opened.onnx_of() == opened.onnx_of("float32") == bundle / "model.onnx"
    assert opened.weights == bundle / "weights.safetensors"
    assert sorted(path.name for path in hashed) == sorted(FILES)
    assert opened.sha256_of() == hashlib.sha256((bundle / "model.onnx").read_bytes()).hexdigest()
    assert opened.sha256 == hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()


def test_a_bundle_holds_these_files_and_no_others(bundle: Path) -> None:
    assert sorted(path.name for path in bundle.iterdir()) == sorted((*FILES, "manifest.json"))


def test_the_manifest_has_these_keys(bundle: Path) -> None:
    document = json.loads((bundle / "manifest.json").read_text())
    assert list(document) == [
        "schema", "reads_from", "name", "inputs", "outputs", "preprocess", "labels", "source", "opset", "fold", "test_accuracy",
        "golden", "variants", "tools", "notes", "files", "evidence", "provenance",
    ]  # fmt: skip
    assert (document["schema"], document["reads_from"]) == (5, 4)
    assert document["inputs"] == [{"name": "input", "dtype": "float32", "shape": ["batch", 1, 28, 28]}]
    assert document["outputs"] == [{"name": "output", "dtype": "float32", "shape": ["batch", 10]}]
    assert document["preprocess"] == {
        "color": "grey", "height": 28, "width": 28, "mean": [0.286], "std": [0.353], "interpolation": "bilinear",
        "layout": "NCHW",
    }  # fmt: skip
    assert list(document["source"]) == ["model", "args", "recipe", "weights_sha256", "weights_file"]
    assert list(document["golden"]) == ["file", "samples", "kind", "seed", "original_error", "reference", "parts", "pictures"]
    assert document["golden"]["reference"] == "PyTorch float64, unfolded (recorded)"
    (variant,) = document["variants"]
    assert list(variant) == ["name", "file", "precision", "allowance", "error", "accuracy", "made_by", "conversion"]
    assert (variant["name"], variant["precision"]) == ("float32", "float32")
    assert variant["error"] == document["fold"]["error_exported"]
    assert variant["made_by"] == {"command": "export", "edgekit": document["tools"]["edgekit"]}
    assert list(variant["allowance"]) == ["tolerance", "accuracy_points", "snr_db", "steps", "rounding"]
    assert list(variant["allowance"]["tolerance"]) == ["atol", "rtol", "top1"]
    assert list(document["fold"]) == ["folded", "kept", "error_float64", "error_exported"]
    assert list(document["files"]) == list(FILES)
    assert all(list(entry) == ["sha256", "size"] for entry in document["files"].values())
    assert document["labels"] == [f"class {index}" for index in range(10)]


def test_the_manifest_survives_a_round_trip_byte_for_byte(bundle: Path) -> None:
    content = (bundle / "manifest.json").read_bytes()
    assert open_bundle(bundle).manifest.to_json() == content


def test_the_original_models_factory_and_weights_are_passed_on_as_the_manifest_claims_them(bundle: Path) -> None:
    files = open_bundle(bundle).files()
    assert (files.factory, files.args, files.weights) == ("lenet", {}, bundle / "weights.safetensors")
    edit(bundle, lambda document: document["source"].update(model="os:system"))
    assert open_bundle(bundle).files().factory == "os:system"


# variants


@pytest.fixture
def two(bundle: Path) -> Path:
    """The bundle with a second variant, float16, whose file may hold any bytes in these tests."""
    put(bundle, "half.onnx", b"half")
    allowance = {"tolerance": {"atol": 1e-5, "rtol": 3e-3, "top1": 0.98}, "accuracy_points": 0.5}
    half = {"name": "float16", "file": "half.onnx", "precision": "float16", "allowance": allowance}
    edit(bundle, lambda document: document["variants"].append(half))
    return bundle


def test_a_bundle_gives_every_variant_by_its_name_and_the_first_without_one(two: Path) -> None:
    bundle = open_bundle(two)
    assert bundle.variant() is bundle.variant("float32") is bundle.manifest.variants[0]
    half = bundle.variant("float16")
    assert half.allowance == Allowance(Tolerance(1e-5, 3e-3, 0.98), 0.5)
    assert (half.error, half.accuracy, half.made_by) == (None, None, {})
    assert bundle.onnx_of("float16") == two / "half.onnx"
    assert bundle.sha256_of("float16") == hashlib.sha256(b"half").hexdigest() != bundle.sha256_of()


@pytest.mark.parametrize(
    ("speed", "wrong"),
    [
        ({"times": 0.86, "runtime": "onnxruntime 1.32.0", "machine": {"cpu": "A CPU"}}, ""),
        ({"times": None, "reason": "the timing was noisy"}, ""),
        ({"times": None}, "either a figure or a reason"),
        ({"times": 2.0, "reason": "the timing was noisy"}, "either a figure or a reason"),
        ({"times": 0.0}, "> 0.0"),
        ({"times": 2.0, "batch": 0}, ">= 1"),
    ],
    ids=str,
)
def test_a_recorded_speed_has_a_figure_or_a_reason_and_a_conversion_may_have_none(
    two: Path, speed: dict[str, Any], wrong: str
) -> None:
    put(two, "own.npz", b"own")
    edit(two, lambda document: document["variants"][-1].update(conversion={"outputs": "own.npz", "converted": 3}))
    conversion = open_bundle(two).variant("float16").conversion
    assert conversion is not None
    assert conversion.speed is msgspec.UNSET
    assert b'"speed"' not in open_bundle(two).manifest.to_json()
    edit(two, lambda document: document["variants"][-1]["conversion"].update(speed=speed))
    if wrong:
        with pytest.raises(BundleError, match=rf"manifest\.json is damaged: .*{wrong}.*variants"):
            open_bundle(two)
        return
    read = json.loads(open_bundle(two).manifest.to_json())["variants"][-1]["conversion"]["speed"]
    assert read == {"times": None, "reason": "", "batch": 1, "runtime": "", "machine": {}} | speed


def test_a_backend_is_given_the_files_of_one_variant(two: Path) -> None:
    bundle = open_bundle(two)
    first, half = bundle.files(), bundle.files("float16")
    assert (first.onnx, first.precision, first.onnx_sha256) == (two / "model.onnx", "float32", bundle.sha256_of())
    assert (half.onnx, half.precision, half.onnx_sha256) == (two / "half.onnx", "float16", bundle.sha256_of("float16"))
    assert (first.original, half.original) == (True, False)
    assert first == bundle.files("float32")
    same: dict[str, Any] = {
        "onnx": first.onnx,
        "precision": "float32",
        "onnx_sha256": first.onnx_sha256,
        "original": True,
        "variant": "float32",
    }
    assert half._replace(**same) == first


def test_the_first_variant_is_whichever_stands_first(two: Path) -> None:
    edit(two, lambda document: document["variants"].reverse())
    bundle = open_bundle(two)
    assert (bundle.variant().name, bundle.files().precision) == ("float16", "float16")


def test_the_exported_variant_counts_as_the_original_in_any_position(two: Path) -> None:
    edit(two, lambda document: document["variants"].reverse())
    bundle = open_bundle(two)
    assert (bundle.files().original, bundle.files("float32").original) == (False, True)


@pytest.mark.parametrize("made_by", [{}, {"command": "quantize"}, {"command": None}, {"export": "1.0"}])
def test_a_variant_that_export_has_not_made_does_not_count_as_the_original(bundle: Path, made_by: dict[str, Any]) -> None:
    assert open_bundle(bundle).files().original
    edit(bundle, lambda document: document["variants"][0].update(made_by=made_by))
    assert not open_bundle(bundle).files().original


@pytest.mark.parametrize("reference", [None, "", 3])
def test_a_manifest_without_a_reference_is_refused(bundle: Path, reference: Any) -> None:
    edit(bundle, lambda document: document["golden"].update(reference=reference))
    with pytest.raises(BundleError, match=r"manifest\.json is damaged: .*`\$\.golden\.reference`; get the bundle again"):
        open_bundle(bundle)


@pytest.mark.parametrize(("name", "near"), [("int8", ""), ("fp32", ""), ("FLOAT32", " (did you mean 'float32'?)"), (" ", "")])
def test_an_unknown_variant_is_refused_with_the_names_of_the_variants(two: Path, name: str, near: str) -> None:
    bundle = open_bundle(two)
    for ask in (bundle.variant, bundle.files, bundle.onnx_of, bundle.sha256_of, bundle.manifest.variant):
        with pytest.raises(UsageError) as caught:
            ask(name)
        assert str(caught.value) == f"bundle lenet has no variant '{name}'; choose one of: float32, float16{near}"
        assert caught.value.remedy == f"choose one of: float32, float16{near}"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"name": "float32"}, "has two variants of the name 'float32'"),
        ({"name": "every"}, "calls a variant 'every', which stands for all of them"),
        ({"file": "model.onnx"}, r"has two variants of one file, model\.onnx"),
        ({"name": ""}, "calls a variant '', which is no plain name"),
        ({"name": "half precision"}, "calls a variant 'half precision', which is no plain name"),
        ({"tolerance": {}}, "unknown field `tolerance`"),
        ({"allowance": {"tolerance": {}, "accuracy_points": -1}}, "accuracy_points"),
    ],
)
def test_variants_with_equal_names_or_files_or_bad_values_are_refused(two: Path, change: dict[str, Any], reason: str) -> None:
    edit(two, lambda document: document["variants"][1].update(change))
    with pytest.raises(BundleError, match=rf"manifest\.json .*{reason}.*; get the bundle again"):
        open_bundle(two)


def test_every_variants_file_is_checked_when_a_bundle_is_opened(two: Path) -> None:
    (two / "half.onnx").write_bytes(b"haLf")
    with pytest.raises(BundleError, match=r"half\.onnx does not have the sha256"):
        open_bundle(two)


def test_a_manifest_of_many_variants_is_read_in_a_time_that_grows_with_them(bundle: Path) -> None:
    """As many comparisons as there are pairs would be 9 * 10^8: each name is counted once instead."""
    path = bundle / "manifest.json"
    document = json.loads(path.read_text())
    first = document["variants"][0] | {"made_by": {}}
    document["variants"] = [first | {"name": f"v{number}", "file": f"{number}.onnx"} for number in range(300)]
    document["files"] |= {f"{number}.onnx": document["files"]["model.onnx"] for number in range(300)}
    compared: list[object] = []

    class Name(str):
        def __eq__(self, other: object) -> bool:
            compared.append(other)
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    manifest = decode_manifest(json.dumps(document).encode(), path)
    named = [msgspec.structs.replace(variant, name=Name(variant.name), file=Name(variant.file)) for variant in manifest.variants]
    _check_variants(named, path)
    assert len(compared) < 10 * len(named)
