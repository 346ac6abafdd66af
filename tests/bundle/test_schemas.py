"""Manifests of every schema: older ones open in today's form, newer ones if ``reads_from`` allows; the JSON schema is current."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import onnxruntime as ort
import pytest

from edgekit.bundle.card import model_card
from edgekit.bundle.described import pictures_of
from edgekit.bundle.folder import Bundle, open_bundle, write_bundle
from edgekit.bundle.manifest import READS_FROM, SCHEMA, Manifest, Variant, json_schema
from edgekit.errors import BundleError
from edgekit.parity.compare import compare_output
from edgekit.tensors import Array
from tests.bundle.editing import edit, put, without_variants

BUNDLES = Path(__file__).parent / "older"
OLD = ("schema-1", "schema-2", "schema-3", "schema-3-float16")
NAMES = {"schema-3-float16": "float16"}
COMMITTED = {
    "edgenet": "906d7bdeef3eb65cc96400b23c9e7ab0",
    "densenet": "5739932a6ffdfe70ecf8980f9e8ae7c5", "lenet": "5bf3721166fc47fbd5b39559289b2af6",
    "lenet-scratch": "7c4337960e16474fdfb7e92f4586b252",
}  # fmt: skip


@pytest.fixture
def old(tmp_path: Path) -> Callable[[str], Path]:
    """A function that copies a bundle written by an older edgekit, for the test to change."""

    def copy(name: str) -> Path:
        shutil.copytree(BUNDLES / name, tmp_path / name)
        return tmp_path / name

    return copy


def outputs_of(bundle: Bundle) -> dict[str, Array]:
    session = ort.InferenceSession(bundle.onnx_of(), providers=["CPUExecutionProvider"])
    names = [spec.name for spec in bundle.manifest.outputs]
    return dict(zip(names, session.run(names, bundle.golden().inputs), strict=True))


# older


@pytest.mark.parametrize("name", OLD)
def test_a_bundle_of_an_older_schema_opens_in_todays_form(name: str) -> None:
    bundle = open_bundle(BUNDLES / name)
    dtype, document = NAMES.get(name, "float32"), json.loads((BUNDLES / name / "manifest.json").read_text())
    assert bundle.manifest.schema == document["schema"] == int(name.split("-")[1])
    variant = bundle.variant()
    assert (variant.name, variant.precision, variant.file) == (dtype, dtype, "model.onnx")
    assert variant == bundle.variant(dtype)
    assert msgspec.to_builtins(variant.allowance.tolerance) == document["variants"][0]["tolerance"]
    assert variant.error == document["fold"].get("error_exported")
    assert variant.made_by == {"command": "export", "edgekit": document["tools"]["edgekit"]}
    assert bundle.manifest.golden.original_error == document["golden"]["float32_error"]
    assert bundle.manifest.golden.reference == "PyTorch float64, unfolded (recorded)"
    assert [fold.into for fold in bundle.manifest.fold.folded] == [("0",)]
    assert (bundle.files().factory, bundle.files().original) == (document["source"]["model"], True)


@pytest.mark.parametrize(
    ("model", "error", "reference"),
    [
        ("lenet", 1e-7, "PyTorch float64, unfolded (recorded)"),
        ("torchvision.models:resnet18", 0.0, "PyTorch float64, unfolded (recorded)"),
        ("net.onnx", 1e-7, "the original ONNX file in float64 (recorded)"),
        ("NET.ONNX", 0.0, "the original ONNX file in float64 (recorded)"),
        ("net.onnx", None, "the original ONNX file in its own dtype, unoptimised (recorded)"),
        ("NET.ONNX", None, "the original ONNX file in its own dtype, unoptimised (recorded)"),
    ],
)
@pytest.mark.parametrize("schema", [1, 2, 3])
def test_the_reference_of_an_older_bundle_follows_from_its_sources_name(
    old: Callable[[str], Path], schema: int, model: str, error: float | None, reference: str
) -> None:
    root = old(f"schema-{schema}")
    edit(root, lambda document: (document["source"].update(model=model), document["golden"].update(float32_error=error)))
    assert open_bundle(root).manifest.golden.reference == reference


@pytest.mark.parametrize("schema", [1, 2, 3])
def test_the_first_variant_of_an_older_bundle_counts_as_exported(old: Callable[[str], Path], schema: int) -> None:
    root = old(f"schema-{schema}")
    put(root, "half.onnx", b"half")
    edit(root, lambda document: document["variants"].append(document["variants"][0] | {"name": "fp16", "file": "half.onnx"}))
    bundle = open_bundle(root)
    assert (bundle.files().original, bundle.files("float16").original) == (True, False)
    assert bundle.variant("float16").made_by == {}


@pytest.mark.parametrize("name", OLD)
def test_the_recorded_outputs_of_an_older_bundle_are_found_and_fit_its_file(name: str) -> None:
    bundle = open_bundle(BUNDLES / name)
    golden, computed, tolerance = bundle.golden(), outputs_of(bundle), bundle.variant().allowance.tolerance
    assert str(golden.original["output"].dtype) == NAMES.get(name, "float32")
    for outputs in (computed, golden.original):
        assert compare_output("output", outputs["output"], golden.float64["output"], tolerance).within(tolerance)
    wrong = 1.01 * computed["output"]
    assert not compare_output("output", wrong, golden.float64["output"], tolerance).within(tolerance)


@pytest.mark.parametrize("name", OLD)
def test_an_older_bundle_is_written_again_in_todays_schema(name: str, tmp_path: Path) -> None:
    before = open_bundle(BUNDLES / name)
    contents = {file: (BUNDLES / name / file).read_bytes() for file in before.manifest.files}
    contents |= {"golden.npz": before.golden().to_npz(), "README.md": model_card(before.manifest).encode()}
    written = write_bundle(tmp_path / "new", before.manifest, contents)
    after = open_bundle(tmp_path / "new")
    assert written == after
    assert (after.manifest.schema, after.manifest.reads_from) == (SCHEMA, READS_FROM)
    assert after.manifest.variants == before.manifest.variants
    assert after.manifest.golden == before.manifest.golden
    assert after.sha256_of() == before.sha256_of()
    golden = before.golden()
    assert (after.golden().original["output"] == golden.original["output"]).all()


def test_golden_outputs_by_their_old_name_are_refused_in_todays_schema(old: Callable[[str], Path]) -> None:
    root = old("schema-3")
    before = open_bundle(root)
    contents = {file: (root / file).read_bytes() for file in before.manifest.files}
    with pytest.raises(BundleError, match=r"'float32\.output\.npy' is unknown"):
        write_bundle(root, before.manifest, contents)
    assert open_bundle(root) == before


@pytest.mark.parametrize("schema", [1, 2, 3])
def test_an_unknown_key_of_an_older_schema_is_named(old: Callable[[str], Path], schema: int) -> None:
    root = old(f"schema-{schema}")
    edit(root, lambda document: document["golden"].update(sample=3))
    with pytest.raises(BundleError, match=r"manifest\.json is damaged: .*unknown field `sample` - at `\$\.golden`"):
        open_bundle(root)


@pytest.mark.parametrize("part", ["fold", "golden", "source", "tools", "variants"])
@pytest.mark.parametrize("value", [None, 3, "text", [], {}, [3], {"name": 3}, [{}], [{"name": 3, "into": 3}]])
def test_a_damaged_part_of_an_older_schema_is_named(old: Callable[[str], Path], part: str, value: Any) -> None:
    root = old("schema-1")
    edit(root, lambda document: document.update({part: value}))
    if part == "tools" and value == {}:
        assert open_bundle(root).variant().made_by == {"command": "export", "edgekit": None}
        return
    with pytest.raises(BundleError, match=r"manifest\.json is damaged: .*get the bundle again"):
        open_bundle(root)


# newer


def newer(document: dict[str, Any]) -> None:
    """Turn a manifest into one of the next schema, with an unknown field in every part."""
    document.update(schema=SCHEMA + 1, reads_from=SCHEMA, signed_by="somebody")
    parts = [
        document["inputs"][0], document["outputs"][0], document["preprocess"], document["source"], document["fold"],
        document["fold"]["folded"][0], document["golden"], document["variants"][0], document["variants"][0]["allowance"],
        document["variants"][0]["allowance"]["tolerance"], document["files"]["model.onnx"],
    ]  # fmt: skip
    for part in parts:
        part["new"] = {"of": ["a", "newer"], "edgekit": 1}


def test_a_newer_manifest_opens_without_its_optional_fields(bundle: Path) -> None:
    today = open_bundle(bundle)
    edit(bundle, newer)
    opened = open_bundle(bundle)
    assert opened.manifest == msgspec.structs.replace(today.manifest, schema=SCHEMA + 1, reads_from=SCHEMA)
    assert opened.sha256 != today.sha256
    assert opened.golden().inputs.keys() == today.golden().inputs.keys()


def test_free_form_values_of_a_newer_manifest_stay(bundle: Path) -> None:
    edit(bundle, newer)
    edit(bundle, lambda document: document["variants"][0]["made_by"].update(calibration={"samples": 8}))
    assert open_bundle(bundle).variant().made_by["calibration"] == {"samples": 8}


@pytest.mark.parametrize("oldest", [SCHEMA + 1, None, "4", 4.5])
def test_a_newer_schema_that_does_not_say_it_can_be_read_asks_for_a_newer_edgekit(bundle: Path, oldest: Any) -> None:
    edit(bundle, lambda document: document.update(schema=SCHEMA + 1, reads_from=oldest))
    with pytest.raises(BundleError, match=r"has schema 6, and this edgekit reads up to 5; upgrade edgekit"):
        open_bundle(bundle)


def test_a_field_that_a_newer_manifest_lacks_is_named(bundle: Path) -> None:
    edit(bundle, newer)
    edit(bundle, lambda document: document["golden"].pop("samples"))
    with pytest.raises(BundleError, match=r"manifest\.json is damaged: .*missing required field `samples`"):
        open_bundle(bundle)


@pytest.mark.parametrize("schema", [SCHEMA, SCHEMA - 1])
def test_an_unknown_field_of_a_known_schema_is_an_error_whatever_reads_from_says(bundle: Path, schema: int) -> None:
    edit(bundle, lambda document: document.update(schema=schema, reads_from=1, signed_by="somebody"))
    with pytest.raises(BundleError, match="unknown field `signed_by`"):
        open_bundle(bundle)


def test_a_manifest_cannot_be_read_from_a_schema_beyond_its_own(bundle: Path) -> None:
    edit(bundle, lambda document: document.update(reads_from=SCHEMA + 1))
    with pytest.raises(BundleError, match=r"manifest\.json is damaged: reads_from is 6, beyond its own schema 5"):
        open_bundle(bundle)


def test_a_newer_bundle_is_written_in_todays_schema(bundle: Path, tmp_path: Path) -> None:
    edit(bundle, newer)
    opened = open_bundle(bundle)
    contents = {name: (bundle / name).read_bytes() for name in opened.manifest.files}
    assert write_bundle(tmp_path / "new", opened.manifest, contents).manifest.schema == SCHEMA


# the bundles of the repository, and the JSON schema


@pytest.mark.parametrize("name", COMMITTED)
def test_the_committed_bundles_are_of_todays_schema_and_their_onnx_files_are_as_they_were(repository: Path, name: str) -> None:
    root = repository / "exported" / name
    bundle = open_bundle(root)
    assert bundle.manifest.schema == SCHEMA
    assert bundle.sha256_of().startswith(COMMITTED[name])
    assert bundle.manifest.golden.reference == "PyTorch float64, unfolded (recorded)"
    assert bundle.files().original
    assert bundle.manifest.to_json() == (root / "manifest.json").read_bytes()
    assert bundle.golden().to_npz() == (root / "golden.npz").read_bytes()
    card = (root / "README.md").read_text(encoding="utf-8")
    assert without_variants(model_card(bundle.manifest, pictures_of(bundle))) == without_variants(card)


def misfits(value: Any, schema: dict[str, Any], defs: dict[str, Any], where: str = "$") -> list[str]:
    """The differences of ``value`` from a JSON schema; supports the keywords that msgspec writes for the structs."""
    if "$ref" in schema:
        schema = defs[schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        every = [misfits(value, choice, defs, where) for choice in schema["anyOf"]]
        return min(every, key=len)
    kinds: dict[str, Any] = {
        "object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "null": type(None),
        "boolean": bool,
    }  # fmt: skip
    if "type" in schema and not isinstance(value, kinds[schema["type"]]):
        return [f"{where} is no {schema['type']}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{where} is none of {schema['enum']}"]
    wrong = []
    if isinstance(value, dict):
        wrong += [f"{where} lacks {name}" for name in schema.get("required", ()) if name not in value]
        properties, others = schema.get("properties", {}), schema.get("additionalProperties", {})
        for name, item in value.items():
            if name not in properties and others is False:
                wrong.append(f"{where} has {name}")
            else:
                wrong += misfits(item, properties.get(name, others or {}), defs, f"{where}.{name}")
    if isinstance(value, list):
        for index, item in enumerate(value):
            wrong += misfits(item, schema.get("items") or {}, defs, f"{where}[{index}]")
    return wrong


@pytest.mark.parametrize("name", COMMITTED)
def test_the_committed_manifests_fit_the_published_schema(repository: Path, name: str) -> None:
    schema = json.loads((repository / "docs" / "manifest.schema.json").read_text())
    document = json.loads((repository / "exported" / name / "manifest.json").read_text())
    assert misfits(document, schema, schema["$defs"]) == []
    msgspec.convert(document, Manifest)
    del document["variants"][0]["allowance"]
    document["golden"]["sample"] = 3
    document["opset"] = "20"
    assert sorted(misfits(document, schema, schema["$defs"])) == [
        "$.golden has sample", "$.opset is no integer", "$.variants[0] lacks allowance",
    ]  # fmt: skip


def test_the_schema_knows_every_field_of_the_structs() -> None:
    schema = json.loads(json_schema())
    for struct in (Manifest, Variant):
        described = schema["$defs"][struct.__name__]
        assert list(described["properties"]) == [field.name for field in msgspec.structs.fields(struct)]
        assert described["required"] == [field.name for field in msgspec.structs.fields(struct) if field.required]
        assert described["additionalProperties"] is False


def test_the_published_schema_is_current_and_its_script_notices_when_it_is_not(
    repository: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    published = repository / "docs" / "manifest.schema.json"
    assert published.read_bytes() == json_schema()
    script = tmp_path / "docs" / "manifest_schema.py"
    script.parent.mkdir()
    for name in ("manifest_schema.py", "arguments.py"):
        shutil.copy(repository / "docs" / name, script.parent)

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(script), *args]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    wrong = "manifest.schema.json is not up to date with the structs; run python docs/manifest_schema.py\n"
    environment |= {"PYTHONPATH": str(repository)}
    assert (run("--check").returncode, run("--check").stderr) == (1, wrong)
    assert run().returncode == 0
    assert run("--check").returncode == 0
    assert (script.parent / published.name).read_bytes() == json_schema()
    (script.parent / published.name).write_bytes(json_schema() + b" ")
    assert (run("--check").returncode, run("--check").stderr) == (1, wrong)


# which readers do right by a bundle


def test_a_bundle_that_an_older_reader_would_misread_asks_for_a_newer_one(bundle: Path, tmp_path: Path) -> None:
    opened = open_bundle(bundle)
    manifest, contents = opened.manifest, {name: (bundle / name).read_bytes() for name in opened.manifest.files}
    assert manifest.preprocess is not None
    assert manifest.reads_from == READS_FROM
    white = msgspec.structs.replace(manifest, preprocess=msgspec.structs.replace(manifest.preprocess, white=4095.0))
    fixed = msgspec.structs.replace(
        manifest,
        inputs=tuple(msgspec.structs.replace(spec, shape=(8, *spec.shape[1:])) for spec in manifest.inputs),
        outputs=tuple(msgspec.structs.replace(spec, shape=(8, *spec.shape[1:])) for spec in manifest.outputs),
    )
    for name, changed in (("white", white), ("fixed", fixed)):
        assert write_bundle(tmp_path / name, changed, contents).manifest.reads_from == SCHEMA


def test_the_model_card_is_no_part_of_a_network(bundle: Path) -> None:
    """Its checksum is only a note: a network that lies in it could be changed by anybody."""
    edit(bundle, lambda document: document["variants"][0].update(file="README.md"))
    with pytest.raises(BundleError, match=r"lists README\.md, which is the model card, as a part of the network"):
        open_bundle(bundle)
