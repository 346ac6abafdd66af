"""The float32 network that an int8 file is made of, and the files that are written of it.

Nothing here trains: weights are rounded, and the ranges of what flows between layers are measured on calibration samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import onnx

from edgekit.bundle.folder import Bundle
from edgekit.errors import ModelError, first_line
from edgekit.onnx.averages import average_over_four_axes
from edgekit.onnx.calibration import BATCH, Way, limits_of, observe, values_of
from edgekit.onnx.correction import corrected_biases
from edgekit.onnx.equalise import equalise
from edgekit.onnx.placing import LAST, Graph, Placement, first_layers, last_layers, name_apart, placed
from edgekit.onnx.qdq import quantised_model
from edgekit.onnx.read import opset_of, quantised
from edgekit.onnx.run import open_unoptimised, run_in_turns
from edgekit.onnx.signed import signed_codes
from edgekit.onnx.widen import inlined, only_real_inputs
from edgekit.parity.converted import worst_snr_db
from edgekit.tensors import Array, Feed, fixed_batch
from edgekit.variants.kept import asked_to_keep, modules_of

OPSET = 13
"""The first opset whose DequantizeLinear has a scale for each channel."""
FLOAT = "ship it in float32 or float16"


class QuantFile(NamedTuple):
    """An int8 file, where its steps are, and group -> the limit of its scale."""

    content: bytes
    placement: Placement
    limits: dict[str, float]


class FloatNetwork:
    """The bundle's float32 network, of which int8 files are written."""

    def __init__(self, bundle: Bundle, *, equalised: bool = False) -> None:
        self.model = _float_model(bundle)
        self.equalised = equalise(self.model) if equalised else ()
        self.graph = Graph(self.model)
        self.modules = modules_of(bundle)
        self.size = fixed_batch(bundle.manifest.inputs) or BATCH

    def written(self, placement: Placement, limits: dict[str, float], biases: Mapping[str, Array]) -> QuantFile:
        """The int8 file with these limits, group -> limit, and other biases where they are given."""
        model = quantised_model(self.model, placement, limits, biases)
        try:
            onnx.checker.check_model(model, full_check=True)
        except Exception as problem:
            raise ModelError(f"the int8 file is not valid ONNX: {first_line(problem)}", "report the model") from None
        return QuantFile(model.SerializeToString(deterministic=True), placement, limits)

    def outputs(self, content: bytes, feed: Feed, level: str = "off") -> dict[str, Array]:
        """A file's outputs, computed in batches."""
        return run_in_turns(open_unoptimised(content, Path("model.onnx"), level=level), feed, (self.size,))


class Network(FloatNetwork):
    """The bundle's float32 network, with the ranges of its values on the calibration samples."""

    def __init__(self, bundle: Bundle, feed: Feed, keep: Sequence[str], *, equalised: bool = False) -> None:
        super().__init__(bundle, equalised=equalised)
        asked = asked_to_keep(keep, self.model, self.modules)
        self._narrow: frozenset[str] = frozenset()
        self._asked = {**dict.fromkeys(last_layers(self.graph), LAST), **asked}
        if not placed(self.graph, self._asked).layers:
            self._asked = asked
        self.everywhere = placed(self.graph, self._asked)
        if not self.everywhere.layers:
            reasons = _reasons(self.everywhere)
            raise ModelError(f"{bundle.onnx_of()} has no layer that 8 bits would suit: {reasons}", FLOAT)
        self.first = self._able_first(asked)
        seen = self._seen()
        self.feed = feed
        self.observed = observe(seen, values_of(self.model, set(seen.groups), feed, self.size))
        self.float_outputs = self.outputs(self.model.SerializeToString(), feed)

    @classmethod
    def equalised_of(cls, bundle: Bundle, feed: Feed, keep: Sequence[str]) -> Network | None:
        """The network with equalised weights, which computes the same; None where nothing can be equalised."""
        return cls(bundle, feed, keep, equalised=True) if equalise(_float_model(bundle)) else None

    def _able_first(self, asked: Mapping[str, str]) -> tuple[str, ...]:
        """The first layers that stay in float by rule and could be in 8 bits."""
        first = [node for node in first_layers(self.graph) if node not in asked and node not in last_layers(self.graph)]
        able = {layer.name for layer in placed(self.graph, self._asked, first).layers}
        return tuple(node for node in first if node in able - {layer.name for layer in self.everywhere.layers})

    def _seen(self) -> Placement:
        """All layers that may be in 8 bits, and all values that may be rounded."""
        before, widest = self.everywhere, placed(self.graph, self._asked, self.first)
        layers = {layer.name: layer for layer in (*before.layers, *widest.layers)}
        return widest._replace(layers=tuple(layers.values()), groups={**before.groups, **widest.groups})

    def take(self, first: Iterable[str]) -> None:
        """Let these of the ``first`` layers be in 8 bits, and no others of them."""
        self._narrow = frozenset(first)
        self.everywhere = self._placed({})

    def _placed(self, keep: Mapping[str, str]) -> Placement:
        return placed(self.graph, {**self._asked, **keep}, self._narrow)

    def file(self, way: Way, keep: Mapping[str, str]) -> QuantFile:
        """The int8 file in which the nodes ``keep`` (node -> reason) stay in float."""
        placement = self._placed(keep) if keep else self.everywhere
        method, corrected = way
        limits = limits_of(placement, self.observed, method)
        biases = corrected_biases(self.graph, placement, limits, self.observed.means) if corrected else {}
        return self.written(placement, limits, biases)

    def snr_db(self, content: bytes, count: int | None = None) -> float:
        """The SNR in dB of a file's worst output on the calibration samples, or the first ``count`` of them.

        It is the lower one of both readings: TensorRT clips at code 127 where other runtimes go on to 255.
        """
        feed = {name: array[:count] for name, array in self.feed.items()}
        references = {name: reference[:count] for name, reference in self.float_outputs.items()}
        return min(worst_snr_db(self.outputs(each, feed), references) for each in (content, clipped(content)))


def clipped(content: bytes) -> bytes:
    """The file as TensorRT reads it: uint8 as int8, whose codes end at 127."""
    return bytes(signed_codes(onnx.load_from_string(content)).SerializeToString())


def _float_model(bundle: Bundle) -> onnx.ModelProto:
    variant = bundle.variant()
    model = onnx.load_from_string(bundle.onnx_bytes())
    steps = quantised(model)
    if variant.precision != "float32" or steps:
        said = f"is quantised already ({steps})" if steps else f"is {variant.precision}"
        raise ModelError(f"the first variant of {bundle.root} {said}", "quantize takes a bundle whose first file is float32")
    model = inlined(model) if model.functions else model
    only_real_inputs(model)
    if opset_of(model) < OPSET:
        model = _of_newer_opset(model, bundle.onnx_of())
    name_apart(model)
    average_over_four_axes(model)
    return model


def _of_newer_opset(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    try:
        return onnx.version_converter.convert_version(model, OPSET)
    except Exception as problem:
        raise ModelError(
            f"{path} has opset {opset_of(model)}, and cannot be converted to {OPSET}: {first_line(problem)}",
            f"export it with opset {OPSET} or newer",
        ) from None


def _reasons(placement: Placement) -> str:
    reasons = list(dict.fromkeys(f"{kept.operator} {kept.name}: {kept.reason}" for kept in placement.kept))
    return (
        "; ".join(reasons[:3]) + (f", and {len(reasons) - 3} more" if len(reasons) > 3 else "")
        or "it has no Conv, Gemm or MatMul"
    )
