"""The nodes that the caller wants to keep in float32: named themselves, or by the module that they are in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx

from edgekit.bundle.folder import Bundle
from edgekit.errors import UsageError
from edgekit.onnx.read import name_of
from edgekit.spelling import did_you_mean


def modules_of(bundle: Bundle) -> dict[str, str]:
    """Value -> path of the PyTorch module that computes it, where the export has recorded it."""
    evidence = bundle.evidence()
    return {name: node.module for name, node in (evidence.nodes if evidence else {}).items()}


def asked_to_keep(keep: Iterable[str], model: onnx.ModelProto, modules: Mapping[str, str]) -> dict[str, str]:
    """Node -> reason, for the nodes, and all nodes of the modules, that the caller wants in float32.

    Raises UsageError for a name that is neither.
    """
    of_module = {name_of(node): modules.get(node.output[0], "") for node in model.graph.node if node.output}
    asked = {}
    for name in keep:
        if not name.strip():
            raise UsageError("--keep names no node", "give a node or a module; edgekit inspect lists them")
        nodes = [
            node for node, module in of_module.items() if name in (node, module) or (module and module.startswith(f"{name}."))
        ]
        if not nodes:
            near = did_you_mean(name, [*of_module, *filter(None, of_module.values())])
            raise UsageError(f"--keep {name}: the network has no such node or module{near}", "see edgekit inspect")
        asked.update(dict.fromkeys(nodes, f"asked for by --keep {name}"))
    return asked
