"""Read an ONNX file that a bundle brings, for a runtime: what no checksum covers is refused before a runtime sees it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edgekit.errors import BundleError
from edgekit.files import read_bytes
from edgekit.onnx.bodies import check_one_graph, has_functions, inlined_nodes
from edgekit.onnx.wire import operators, tensor_elsewhere

COMPILED = "EPContext"  # providers go by the operator's name alone, whatever its domain
MOST_NODES = 1_000_000


def read_unchanged(path: Path, sha256: str) -> bytes:
    """The file's bytes, once it was checked; raises BundleError where they are not those of ``sha256`` (empty: any will do)."""
    content = read_bytes(path, "ONNX file", BundleError)
    if sha256 and hashlib.sha256(content).hexdigest() != sha256:
        raise BundleError(f"{path} changed while it was read", "run it again")
    return content


def read_for_session(path: Path, sha256: str) -> bytes:
    """The bytes of ``read_unchanged``; raises BundleError where running them would take in what no checksum covers."""
    content = read_unchanged(path, sha256)
    try:
        check_one_graph(content)
        elsewhere = tensor_elsewhere(content)
        nodes = inlined_nodes(content) if has_functions(content) else 0
        compiled = COMPILED.encode() in content and COMPILED in operators(content)  # it may be a part of another name
    except ValueError as problem:
        raise BundleError(f"{path} is not a whole ONNX file: {problem}", "export it again") from None
    if nodes > MOST_NODES:
        raise BundleError(f"the functions of {path} expand to {nodes:,} nodes, which no network has", "do not trust it")
    if elsewhere is not None:  # given bytes, ONNX Runtime looks for it in the current folder
        raise BundleError(
            f"{path} keeps weights in another file, which no checksum covers", "export the model again with its weights inside"
        )
    if compiled:  # a provider would load and run it
        raise BundleError(
            f"{path} has an {COMPILED} node, which carries a program compiled elsewhere that nothing here can check",
            "export the model again without compiling it",
        )
    return content
