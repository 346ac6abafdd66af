"""The front matter of a model card, by which a bundle is a model repository of Hugging Face's too.

https://huggingface.co/docs/hub/model-cards#model-card-metadata
"""

from __future__ import annotations

from typing import Any

import msgspec

from edgekit.bundle.manifest import Manifest

HUB_LICENSES = frozenset({
    "afl-3.0", "agpl-3.0", "apache-2.0", "artistic-2.0", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear",
    "bsl-1.0", "cc", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0",
    "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0", "ecl-2.0", "epl-1.0", "epl-2.0", "eupl-1.1", "eupl-1.2", "gfdl", "gpl",
    "gpl-2.0", "gpl-3.0", "isc", "lgpl", "lgpl-2.1", "lgpl-3.0", "lgpl-lr", "lppl-1.3c", "mit", "mpl-2.0", "ms-pl", "ncsa",
    "odbl", "odc-by", "ofl-1.1", "osl-3.0", "pddl", "postgresql", "unlicense", "wtfpl", "zlib"
})  # fmt: skip
"""The hub's own words for licences, of those that SPDX has too: https://huggingface.co/docs/hub/repositories-licenses"""
HUB_DATA = {"fashion-mnist": "zalando-datasets/fashion_mnist"}
"""Data set -> where the hub has it."""


def front_matter(manifest: Manifest, task: str) -> str:
    """YAML between two lines of dashes; ``task`` is the hub's word for what the network does, empty for another."""
    fields = {**_license(manifest), "library_name": "onnx", "tags": _tags(manifest)}
    if task:
        fields["pipeline_tag"] = task
    data = manifest.origin.data.name if manifest.origin.data is not None else ""
    if data in HUB_DATA:
        fields["datasets"] = [HUB_DATA[data]]
    if task and data and manifest.test_accuracy is not None:
        fields["model-index"] = [_results(manifest, task, data)]
    lines = [f"{name}: {_flow(value)}" for name, value in fields.items()]
    return "\n".join(["---", *lines, "---"])


def _license(manifest: Manifest) -> dict[str, Any]:
    """The hub's word for the licence, or ``other`` and its name."""
    name = manifest.origin.license
    if not name:
        return {}
    word = name.lower().removesuffix("-only").removesuffix("-or-later")
    return {"license": word} if word in HUB_LICENSES else {"license": "other", "license_name": name.lower().replace(" ", "-")}


def _tags(manifest: Manifest) -> list[str]:
    return ["edgekit", *dict.fromkeys(variant.precision for variant in manifest.variants)]


def _results(manifest: Manifest, task: str, data: str) -> dict[str, Any]:
    """The accuracy of each file that has one, as the hub's model index."""
    metrics = [{"type": "accuracy", "value": share, "name": f"top-1 of {name}"} for name, share in manifest.accuracies.items()]
    dataset = {"name": data, "type": HUB_DATA.get(data, data), "split": "test"}
    return {"name": manifest.name, "results": [{"task": {"type": task}, "dataset": dataset, "metrics": metrics}]}


def _flow(value: Any) -> str:
    """JSON, which is YAML too once what YAML calls not printable is left out."""
    text = msgspec.json.encode(value).decode()
    return "".join(letter for letter in text if letter.isprintable())
