"""The report of ``edgekit inspect``: layers, shapes, parameters, multiply-accumulates."""

from __future__ import annotations

from msgspec import field

from edgekit.reports.base import Part, Report
from edgekit.reports.page import Column, Line, Page, Table, columns, note
from edgekit.reports.quantize import KeptNode
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


class VariantRow(Part, frozen=True):
    """One file of a bundle's network. Shares are of 1; None: not recorded, or no conversion.

    ``interval``: the 95 % interval of ``accuracy`` (binomial). ``error``: of scale, against the float64 reference. ``snr_db``
    is the least that ``edgekit verify`` asks of it. ``converted`` and ``kept`` count what is in its precision and what stayed;
    ``calibrated`` is false where its ranges are those of random numbers. ``pays``: where it is faster. ``speed`` says what was
    measured of that when the file was made, empty for a file that was not converted; ``speed_up``: how many times as fast as the
    first file it was then. ``in_float``: the layers that stayed, and why.
    """

    name: str
    precision: str
    bytes: int
    accuracy: float | None
    interval: tuple[float, float] | None
    error: float | None
    snr_db: float | None
    converted: int | None
    kept: int | None
    calibrated: bool | None
    pays: str
    speed: str = ""
    speed_up: float | None = None
    in_float: tuple[KeptNode, ...] = ()

    def cells(self) -> tuple[str, ...]:
        """The row under ``VARIANT_COLUMNS``."""
        accuracy = "-" if self.accuracy is None else f"{self.accuracy:.2%}"
        interval = "" if self.interval is None else f" ({self.interval[0]:.2%} to {self.interval[1]:.2%})"
        return (
            self.name,
            f"{self.bytes / 1e6:.2f} MB",
            accuracy + interval,
            "-" if self.error is None else f"{self.error:.1e}",
            "-" if self.snr_db is None else f"{self.snr_db:.1f} dB",
            "-" if self.converted is None else f"{self.converted} / {self.kept}",
            {None: "-", True: "yes", False: "NO"}[self.calibrated],
            self.pays,
        )


VARIANT_COLUMNS = (
    "variant",
    "size",
    "accuracy (95 %)",
    "error of scale",
    "SNR at least",
    "converted / kept",
    "calibrated",
    "pays on",
)


class InspectReport(Report, frozen=True):
    """The layers of a model and their sums; ``ops`` counts calls of operators, ``batch_norms`` the batch norms in the model.

    ``written_out``: of an ONNX file, the batch norms beside them that are written out as arithmetic and that export would fold;
    None where nothing counted them (PyTorch and onnxscript do). ``variants``: all files of a bundle that has several.
    ``origin``: where a bundle comes from, in words: licence, author, commit, data, training, tools, and whether it is signed.
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
    variants: tuple[VariantRow, ...] = ()
    origin: dict[str, str] = field(default_factory=dict)

    def page(self) -> Page:
        """A row for each layer, the inputs and outputs, the sums, and where a bundle comes from."""
        numbers = ("parameters", "MACs")
        headings = (
            Column("layer", elides=True),
            *columns("operator", "output", *numbers, numbers=numbers, ranks={"parameters": 2, "output": 1}),
        )
        rows = tuple(
            (layer.name, _operator(layer), shape_text(layer.output_shape), _count(layer.parameters), _count(layer.macs))
            for layer in self.layers
        )
        prose = ("pays on",)
        variants = Table("variants", columns(*VARIANT_COLUMNS, prose=prose), tuple(row.cells() for row in self.variants))
        return (
            *((variants,) if self.variants else ()),
            *(note(row.speed) for row in self.variants if row.speed),
            Table(self.source, headings, rows),
            *(Line(f"input {name}: {text}") for name, text in self.inputs.items()),
            *(Line(f"output {name}: {text}") for name, text in self.outputs.items()),
            Line(f"operators: {', '.join(f'{op} {count}' for op, count in self.ops.items())}"),
            Line(f"{self.parameters:,} parameters, {self.macs:,} MACs per sample, {self._norms()}"),
            *(Line(f"{name}: {text}") for name, text in self.origin.items()),
        )

    def _norms(self) -> str:
        more = f", {self.written_out} more written out as arithmetic" if self.written_out else ""
        return f"{self.batch_norms} batch norm(s){more}"


def _count(number: int) -> str:
    return f"{number:,}" if number else ""


def _operator(layer: Layer) -> str:
    return f"{layer.op} ({layer.calls} calls)" if layer.calls > 1 else layer.op
