"""The report of ``edgekit inspect``: layers, shapes, parameters, multiply-accumulates."""

from __future__ import annotations

from edgekit.reports.base import Part, Report
from edgekit.reports.page import Column, Line, Page, Table, columns
from edgekit.tensors import shape_text


class Layer(Part, frozen=True):
    """One layer: its output shape with the batch axis first, its number of parameters, its multiply-accumulates per sample.

    ``macs`` is the sum over all ``calls`` of the layer; the shape is that of the first call.
    """

    name: str
    op: str
    output_shape: tuple[int | str, ...]
    parameters: int
    macs: int
    calls: int = 1


class InspectReport(Report, frozen=True):
    """The layers of a model and their sums; ``ops`` counts calls of operators, ``batch_norms`` the batch norms in the model.

    ``written_out``: of an ONNX file, the batch norms beside them that are written out as arithmetic and that export would fold;
    None where nothing counted them (PyTorch and onnxscript do).
    """

    source: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    layers: tuple[Layer, ...]
    ops: dict[str, int]
    parameters: int
    macs: int
    batch_norms: int
    facts: dict[str, str]
    written_out: int | None = None

    def page(self) -> Page:
        """A row for each layer, the inputs and outputs, and the sums."""
        numbers = ("parameters", "MACs")
        headings = (
            Column("layer", elides=True),
            *columns("operator", "output", *numbers, numbers=numbers, ranks={"parameters": 2, "output": 1}),
        )
        rows = tuple(
            (layer.name, _operator(layer), shape_text(layer.output_shape), _count(layer.parameters), _count(layer.macs))
            for layer in self.layers
        )
        return (
            Table(self.source, headings, rows),
            *(Line(f"input {name}: {text}") for name, text in self.inputs.items()),
            *(Line(f"output {name}: {text}") for name, text in self.outputs.items()),
            Line(f"operators: {', '.join(f'{op} {count}' for op, count in self.ops.items())}"),
            Line(f"{self.parameters:,} parameters, {self.macs:,} MACs per sample, {self._norms()}"),
        )

    def _norms(self) -> str:
        more = f", {self.written_out} more written out as arithmetic" if self.written_out else ""
        return f"{self.batch_norms} batch norm(s){more}"


def _count(number: int) -> str:
    return f"{number:,}" if number else ""


def _operator(layer: Layer) -> str:
    return f"{layer.op} ({layer.calls} calls)" if layer.calls > 1 else layer.op
