"""``edgekit bench``: its rows, its budget, and models that cannot run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import edgekit.latency.loop
from edgekit.backends import table
from edgekit.commands.bench import bench
from edgekit.commands.further import Further
from edgekit.commands.ways import fitting, short_names
from edgekit.errors import BundleError, MissingError, UsageError
from edgekit.latency.control import NETWORK
from edgekit.latency.loop import BOUNDARIES, Row, Timing
from edgekit.latency.prediction import prediction_interval
from edgekit.machine.child import Failure
from edgekit.reports.bench import BenchReport
from edgekit.setups import Setup
from edgekit.tensors import TensorSpec
from tests.command_line import Command
from tests.ways import ways


def test_a_bundle_is_timed_on_every_runtime_and_its_report_goes_to_json_and_back(bundle: Path) -> None:
    report = bench(bundle, ways(threads=1), Timing(batches=(1, 3), seconds=0.01), budget_ms=1e9)
    names = list(dict.fromkeys(row.backend for row in report.rows))
    assert names[:2] == ["torch", "ort-cpu"]
    assert [(row.batch, row.boundary, row.backend) for row in report.rows] == [
        (batch, boundary, name) for batch in (1, 3) for boundary in BOUNDARIES for name in names
    ]
    for row in report.rows:
        assert row.count >= 5
        assert min(map(min, row.samples_ms)) > 0
        assert row.facts.get("threads", "1") == "1"  # an engine has no threads
    assert report.passed
    assert report.threads == 1
    assert report.overhead_us > 0
    assert {"cpu", "cores", "system", "python"} <= set(report.machine)
    assert {skipped.backend for skipped in report.skipped} == set(table()) - set(names)
    again = BenchReport.from_json(report.to_json())
    assert again == report
    assert again.rows[0].samples_ms == report.rows[0].samples_ms


def test_a_bundle_over_its_budget_fails(bundle: Path) -> None:
    report = bench(bundle, ways("ort-cpu", threads=1), Timing(batches=(1,), seconds=0.01), budget_ms=1e-9)
    assert not report.passed


def test_a_model_that_cannot_run_at_a_batch_is_one_sentence(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {"input": np.zeros((3, 1, 5, 5), np.float32)}
    monkeypatch.setattr(edgekit.latency.loop, "sample_feed", lambda specs, batch: wrong)
    with pytest.raises(BundleError, match="3x1x5x5"):
        bench(bundle, ways("ort-cpu"), Timing(batches=(3,), seconds=0.01))


def test_a_source_at_the_command_line_reaches_the_backends_that_have_it(
    bundle: Path, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Setup] = []

    def stand_in(bundle: Path, setups: Sequence[Setup], *rest: Any, **more: Any) -> None:
        asked.extend(setups)
        raise UsageError("enough", "stop")

    monkeypatch.setattr("edgekit.commands.bench.bench", stand_in)
    assert run("bench", bundle, "--backend", "torch", "--source", "my.nets:make").code == 2
    assert [setup.options for setup in asked] == [{"source": "my.nets:make"}]


# several bundles


@pytest.mark.parametrize(
    ("places", "names"),
    [
        (["exported/lenet"], ("lenet",)),
        (["exported/lenet", "exported/densenet"], ("lenet", "densenet")),
        (["/a/lenet", "/b/lenet", "/b/resnet"], ("a/lenet", "b/lenet", "b/resnet")),
        (["x/lenet", "x/lenet", "x/./lenet"], ("lenet", "lenet#2", "lenet#3")),
        (["/a/x/lenet", "/b/x/lenet"], ("a/x/lenet", "b/x/lenet")),
        (["lenet", "old/lenet"], (f"{Path.cwd().name}/lenet", "old/lenet")),
    ],
)
def test_bundles_are_called_by_the_last_parts_that_tell_them_apart(places: list[str], names: tuple[str, ...]) -> None:
    assert short_names([Path(place) for place in places]) == names


def test_bundles_with_other_inputs_take_turns_each_with_its_own(bundle: Path) -> None:
    report = bench([bundle, NETWORK], ["ort-cpu threads=1", "ort-cpu threads=2"], Timing((2,), 0.01))
    names = [f"{label} ort-cpu threads={count}" for label in ("bundle", "network") for count in (1, 2)]
    assert [row.backend for row in report.rows] == names * 2
    assert [row.bundle for row in report.rows] == ["bundle", "bundle", "network", "network"] * 2
    assert [(comparison.baseline, comparison.backend) for comparison in report.comparisons] == [
        (names[0], name) for name in names[1:]
    ] * 2
    assert [(named.label, named.path) for named in report.bundles] == [("bundle", str(bundle)), ("network", str(NETWORK))]
    assert report.bundles[0].sha256 != report.bundles[1].sha256
    assert BenchReport.from_json(report.to_json()) == report


def test_layers_are_told_of_each_bundle_by_its_own_nodes(bundle: Path) -> None:
    report = bench([bundle, NETWORK], ["ort-cpu threads=1"], Timing((1,), 0.01), further=Further(layers=True))
    nodes = [{node for layer in layers.layers for node in layer.nodes} for layers in report.layers]
    assert [layers.backend for layers in report.layers] == ["bundle ort-cpu", "network ort-cpu"]
    assert {f"conv{place}" for place in range(5)} <= nodes[1]
    assert nodes[0].isdisjoint(nodes[1])


def of_batch(*sizes: int | str) -> list[Any]:
    """Stand-ins for bundles that take these batches."""
    return [
        SimpleNamespace(root=f"b{size}", manifest=SimpleNamespace(inputs=[TensorSpec("x", "float32", (size, 3))]))
        for size in sizes
    ]


@pytest.mark.parametrize(
    ("sizes", "batches", "expected"),
    [
        (("batch", "batch"), (2, 5), (2, 5)),
        (("batch", 4), (1, 8, 32), (4,)),
        ((4, 4), (4,), (4,)),
    ],
)
def test_the_batch_that_one_bundle_takes_only_is_everybodys(
    sizes: tuple[int | str, ...], batches: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    assert fitting(Timing(batches, 0.5, 3, seed=5), of_batch(*sizes)) == Timing(expected, 0.5, 3, seed=5)


def test_batches_that_do_not_fit_together_are_one_sentence() -> None:
    with pytest.raises(UsageError, match=r"^bundle b4 takes batches of 4 only; give --batch 4, or leave it out$"):
        fitting(Timing((8,)), of_batch("batch", 4))
    with pytest.raises(UsageError, match=r"^bundle b4 takes batches of 4 only and bundle b2 takes batches of 2 only; time them"):
        fitting(Timing(), of_batch(4, 2))


def test_a_setup_that_one_of_the_bundles_has_no_variant_for_is_one_sentence(bundle: Path) -> None:
    with pytest.raises(UsageError, match="int8"):
        bench([bundle, NETWORK], ["ort-cpu variant=int8"], Timing((1,), 0.01))


# several processes


@pytest.mark.parametrize("count", [-1, 1, 2, 101])
def test_processes_are_as_many_as_tell_something(count: int) -> None:
    with pytest.raises(UsageError, match="give a number from 3 to 100"):
        Timing(processes=count)


def test_fresh_processes_tell_where_the_next_run_falls_and_the_reference_network_runs_beside_them(bundle: Path) -> None:
    timing = Timing((2, 1), 0.01, processes=3, rows=(Row(), Row(1, "device"), Row(2)))
    report = bench(bundle, "ort-cpu threads=1", timing)
    assert [(row.backend, row.batch, row.boundary) for row in report.between] == [
        ("ort-cpu", 2, "end-to-end"), ("ort-cpu", 1, "device"),
    ]  # fmt: skip
    for row in report.between:
        assert len(row.processes) == 3
        assert (row.low_ms, row.high_ms) == prediction_interval(row.medians_ms)
        assert row.low_ms <= min(row.medians_ms) <= max(row.medians_ms) <= row.high_ms
    assert [str(control.setup) for control in report.controls] == ["ort-cpu threads=1"]
    assert len(report.controls[0].processes) == 3
    assert BenchReport.from_json(report.to_json()) == report


def test_processes_that_fail_are_one_sentence(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "edgekit.latency.fresh.run_child", lambda *given, **named: Failure("memory", "takes more than 1 MB of memory")
    )
    with pytest.raises(MissingError, match=r"^ort-cpu cannot be timed: its process takes more than 1 MB of memory$"):
        bench(bundle, "ort-cpu threads=1", Timing((1,), 0.01, processes=3))
