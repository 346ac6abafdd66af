"""The table of a model's layers."""

from __future__ import annotations

from edgekit.reports.inspect import InspectReport, Layer
from edgekit.reports.page import Table

LAYERS = (
    Layer("conv", "Conv2d", ("batch", 8, 26, 26), 80, 54_080),
    Layer("relu", "ReLU", ("batch", 8, 26, 26), 0, 0, calls=2),
)


def test_a_layer_that_is_called_more_than_once_says_so() -> None:
    report = InspectReport(
        source="net", inputs={"x": "1x1x28x28"}, outputs={"y": "1x10"}, layers=LAYERS, ops={"Conv": 1, "Relu": 2}, parameters=80,
        macs=54_080, batch_norms=0, facts={},
    )  # fmt: skip
    (table,) = (item for item in report.page() if isinstance(item, Table))
    assert [row[:2] for row in table.rows] == [("conv", "Conv2d"), ("relu", "ReLU (2 calls)")]
    assert [row[3:] for row in table.rows] == [("80", "54,080"), ("", "")]
    assert [column.heading for column in table.columns if column.rank > 1] == ["parameters"]
