"""``bom.cdx.json``: a bundle's bill of materials, CycloneDX 1.6, from its manifest alone.

It lists every file of the bundle but itself and ``manifest.json``, which lists it in turn. The same bundle gives the same bytes.
https://cyclonedx.org/docs/1.6/json/
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from edgekit.bundle.manifest import BOM, MANIFEST, FileEntry, Manifest
from edgekit.bundle.provenance import Provenance
from edgekit.tensors import TensorSpec, shape_text

MODEL, DATA = "model", "data"
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://cyclonedx.org/schema/bom-1.6.schema.json")


def bill_of_materials(manifest: Manifest, files: Mapping[str, FileEntry]) -> bytes:
    """The document, indented; ``files`` are the bundle's, of which it leaves out itself and the manifest."""
    listed = {name: files[name] for name in sorted(files) if name not in (BOM, MANIFEST)}
    origin = manifest.origin
    document: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            **({"timestamp": origin.created} if origin.created else {}),
            "tools": {"components": [_tool(name, version) for name, version in manifest.tools.items()]},
            "component": _model(manifest, origin),
        },
        "components": [*(_file(name, entry) for name, entry in listed.items()), *_data(origin)],
        "dependencies": list(_dependencies(manifest, list(listed), origin)),
    }
    content = msgspec.json.encode(document)
    document["serialNumber"] = uuid.uuid5(NAMESPACE, content.decode()).urn
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def _model(manifest: Manifest, origin: Provenance) -> dict[str, Any]:
    return {
        "type": "machine-learning-model",
        "bom-ref": MODEL,
        "name": manifest.name,
        **({"authors": [{"name": origin.author}]} if origin.author else {}),
        **({"licenses": [{"expression": origin.license}]} if origin.license else {}),
        "hashes": [_sha256(manifest.source.weights_sha256)],
        "modelCard": {"modelParameters": _parameters(manifest, origin), **_analysis(manifest)},
        "properties": list(_properties(manifest, origin)),
    }


def _parameters(manifest: Manifest, origin: Provenance) -> dict[str, Any]:
    return {
        "modelArchitecture": manifest.source.model,
        **({"datasets": [{"ref": DATA}]} if origin.data else {}),
        "inputs": [{"format": _tensor(spec)} for spec in manifest.inputs],
        "outputs": [{"format": _tensor(spec)} for spec in manifest.outputs],
    }


def _tensor(spec: TensorSpec) -> str:
    return f"{spec.name}: {spec.dtype} {shape_text(spec.shape)}"


def _analysis(manifest: Manifest) -> dict[str, Any]:
    """The accuracy of each variant that has one, on the test set."""
    metrics = [
        {"type": "top-1 accuracy", "value": str(share), "slice": f"test set, {name}"}
        for name, share in manifest.accuracies.items()
    ]
    return {"quantitativeAnalysis": {"performanceMetrics": metrics}} if metrics else {}


def _properties(manifest: Manifest, origin: Provenance) -> Iterator[dict[str, str]]:
    """What CycloneDX has no field for, under names of edgekit's own."""
    training = origin.training
    facts = {
        "commit": origin.commit,
        "changed": str(origin.changed).lower() if origin.commit else "",
        "opset": str(manifest.opset),
        "training.epochs": str(training.epochs) if training else "",
        "training.seed": str(training.seed) if training and training.seed is not None else "",
        "training.commit": training.commit if training else "",
        "training.changed": str(training.changed).lower() if training and training.commit else "",
        **({f"training.{name}": version for name, version in training.versions.items()} if training else {}),
    }
    yield from ({"name": f"edgekit:{name}", "value": value} for name, value in facts.items() if value)


def _file(name: str, entry: FileEntry) -> dict[str, Any]:
    return {"type": "file", "bom-ref": f"file/{name}", "name": name, "hashes": [_sha256(entry.sha256)]}


def _data(origin: Provenance) -> Iterator[dict[str, Any]]:
    """The data set; its fingerprint is of pictures and classes, and no hash of a file, so that it is a property."""
    if origin.data is None:
        return
    fingerprint = [{"name": "edgekit:fingerprint", "value": origin.data.sha256}] if origin.data.sha256 else []
    component: dict[str, Any] = {"type": "data", "bom-ref": DATA, "name": origin.data.name}
    component["data"] = [{"type": "dataset", "name": origin.data.name}]
    yield component | ({"properties": fingerprint} if fingerprint else {})


def _dependencies(manifest: Manifest, files: list[str], origin: Provenance) -> Iterator[dict[str, Any]]:
    """The model is made of the files and of the data; every further variant's file of the first one's."""
    data = [DATA] if origin.data else []
    yield {"ref": MODEL, "dependsOn": [f"file/{name}" for name in files] + data}
    first = manifest.variants[0].file
    further = {variant.file for variant in manifest.variants[1:]}
    for name in files:
        yield {"ref": f"file/{name}", **({"dependsOn": [f"file/{first}"]} if name in further else {})}
    yield from ({"ref": ref} for ref in data)


def _tool(name: str, version: str) -> dict[str, Any]:
    """A package that took part; ``edgekit`` on PyPI is another project, so that it has no address there."""
    address = {} if name == "edgekit" else {"purl": f"pkg:pypi/{name}@{version.replace('+', '%2B')}"}
    return {"type": "application" if name == "edgekit" else "library", "name": name, "version": version, **address}


def _sha256(digest: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": digest}
