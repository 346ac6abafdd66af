"""Functions that change the manifest, the files and the golden arrays of a bundle."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.tensors import Array

FILES = ("README.md", "bom.cdx.json", "evidence.npz", "golden.npz", "model.onnx", "weights.safetensors")


def edit(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest as data."""
    path = root / "manifest.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def put(root: Path, name: str, content: bytes) -> None:
    """Replace a file, and update its checksum in the manifest."""
    (root / name).write_bytes(content)
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    edit(root, lambda document: document["files"].update({name: entry}))


def without_variants(card: str) -> str:
    """A model card without the section that compares the bundle's files, which an earlier edgekit wrote in another way."""
    return re.sub(r"^## Variants$.*?(?=^## )", "", card, flags=re.MULTILINE | re.DOTALL)


def npz(members: Mapping[str, Array]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **members)  # type: ignore[arg-type]  # numpy's stub takes no mapping of arrays
    return buffer.getvalue()


def members(root: Path) -> dict[str, Array]:
    with np.load(root / "golden.npz") as content:
        return dict(content)
