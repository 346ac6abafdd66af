"""The bill of materials: valid CycloneDX 1.6, of every file, and covered by the manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgekit.bundle.bom import bill_of_materials
from edgekit.bundle.folder import open_bundle, write_bundle
from edgekit.bundle.manifest import BOM
from edgekit.bundle.provenance import DataSet, Provenance, Training
from edgekit.errors import BundleError
from tests.bundle.editing import edit
from tests.command_line import Command, damaged, flipped

KNOWN = Provenance(
    "MIT OR Apache-2.0", "Jürgen \x00 <j@example.com>", "2023-11-14T22:13:20+00:00", "c" * 40, True,
    DataSet("fashion-mnist", "d" * 64), Training(3, 7, "e" * 64, "f" * 40, False, {"torch": "2.11.0+cpu"}),
)  # fmt: skip


def problems(content: bytes) -> Any:
    """What the official schema finds wrong; None if nothing."""
    pytest.importorskip("cyclonedx", reason="cyclonedx-python-lib is not installed")
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(content.decode())


def references(document: dict[str, Any]) -> set[str]:
    return {document["metadata"]["component"]["bom-ref"], *(component["bom-ref"] for component in document["components"])}


@pytest.mark.parametrize("origin", [Provenance(), KNOWN], ids=["nothing known", "everything known"])
def test_it_is_valid_and_has_every_file_with_its_hash(repository: Path, origin: Provenance, tmp_path: Path) -> None:
    opened = open_bundle(repository / "exported" / "edgenet")
    manifest = msgspec.structs.replace(opened.manifest, provenance=origin)
    written = write_bundle(
        tmp_path / "new", manifest, {name: (opened.root / name).read_bytes() for name in opened.manifest.files}
    )
    content = (written.root / BOM).read_bytes()
    assert problems(content) is None
    document = json.loads(content)
    hashes = {part["name"]: part["hashes"][0]["content"] for part in document["components"] if part["type"] == "file"}
    assert hashes == {name: entry.sha256 for name, entry in written.manifest.files.items() if name != BOM}
    assert {item["ref"] for item in document["dependencies"]} == references(document)
    depends = {item["ref"]: item.get("dependsOn", []) for item in document["dependencies"]}
    assert depends["file/int8.onnx"] == ["file/model.onnx"]
    assert set(depends["model"]) == references(document) - {"model"}
    assert document["metadata"]["component"]["type"] == "machine-learning-model"
    assert document["metadata"].get("timestamp") == (origin.created or None)


def test_a_document_that_is_none_is_found_out(bundle: Path) -> None:
    content = bill_of_materials(open_bundle(bundle).manifest, {})
    for old, new in ((b"machine-learning-model", b"model"), (b'"SHA-256"', b'"SHA-255"'), (b"urn:uuid:", b"urn:")):
        assert content.count(old) >= 1
        assert problems(content.replace(old, new)) is not None


def test_the_same_bundle_gives_the_same_document_and_another_another_number(bundle: Path) -> None:
    manifest = open_bundle(bundle).manifest
    once, twice = (bill_of_materials(manifest, manifest.files) for _ in range(2))
    assert once == twice
    other = bill_of_materials(msgspec.structs.replace(manifest, name="other"), manifest.files)
    assert json.loads(once)["serialNumber"] != json.loads(other)["serialNumber"]


def test_the_manifest_covers_it(run: Command, bundle: Path) -> None:
    opened = open_bundle(bundle)
    assert BOM in opened.manifest.files
    damaged(bundle, BOM, flipped)
    with pytest.raises(BundleError, match=r"bom\.cdx\.json does not have the sha256"):
        open_bundle(bundle)


def test_a_bundle_without_one_opens_and_gets_one_when_it_is_written_again(bundle: Path, tmp_path: Path) -> None:
    (bundle / BOM).unlink()
    edit(bundle, lambda document: (document["files"].pop(BOM), document.pop("provenance")))
    opened = open_bundle(bundle)
    assert opened.manifest.provenance is msgspec.UNSET
    files = {name: (bundle / name).read_bytes() for name in opened.manifest.files}
    again = write_bundle(tmp_path / "again", opened.manifest, files)
    assert problems((again.root / BOM).read_bytes()) is None
