"""The report of what a model is made of."""

from __future__ import annotations

from edgekit.reports.base import Part, Report


class Layer(Part, frozen=True):
    """One layer: shapes with the batch axis in front, parameters as a count of numbers, multiply-accumulates per sample."""

    name: str
    op: str
    output_shape: tuple[int | str, ...]
    parameters: int
    macs: int


class InspectReport(Report, frozen=True):
    """What a model is made of; ``batch_norms`` counts normalisations that are still there."""

    source: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    layers: tuple[Layer, ...]
    ops: dict[str, int]
    parameters: int
    macs: int
    batch_norms: int
    facts: dict[str, str]
