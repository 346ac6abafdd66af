"""How TensorRT tells of which ONNX nodes it made a layer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

NAMELESS = "node_of_"
"""What its parser puts before the name of what a nameless node puts out."""
SHOWN = 3
_BEGIN = "[ONNX Layer: "
# after the name of a node come the functions that it stands in, and between two nodes nothing, a control character, or the six
# characters by which JSON writes one
_FUNCTIONS, _BETWEEN = " | ", re.compile(r"\\u001[ef]|[\s\x1e\x1f]")
# "conv1 + relu1", "PWN(relu1, add1)", "fc1 || fc2": releases that keep no metadata name a layer after what was fused
_PARTS = re.compile(r" \+ | \|\| |PWN\(|[(),\s]+")


def onnx_nodes(metadata: str) -> tuple[str, ...]:
    """``[ONNX Layer: conv][ONNX Layer: relu]`` -> ``("conv", "relu")``; a name may hold brackets itself."""
    return tuple(dict.fromkeys(_told(metadata)))


def _told(metadata: str) -> Iterator[str]:
    for part in metadata.split(_BEGIN)[1:]:
        text, closed, behind = part.rpartition("]")
        if closed and not _BETWEEN.sub("", behind):
            yield text.partition(_FUNCTIONS)[0]


def fused_parts(name: str) -> tuple[str, ...]:
    """``conv + PWN(relu)`` -> ``("conv", "relu")``."""
    return tuple(filter(None, _PARTS.split(name)))


def some(names: Sequence[str]) -> str:
    """The first few of ``names``, for a sentence."""
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
