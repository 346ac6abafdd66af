"""Measure the noise floor of a model that is exported: run it in every way that is right, and see what rounding changes."""

from __future__ import annotations

import itertools
import platform
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from edgekit.bundle.evidence import EvidenceArrays
from edgekit.bundle.manifest import EVIDENCE, MODEL, Evidence
from edgekit.errors import ModelError
from edgekit.graphs.trace import as_arrays, inference_copy, own_copies, run_module, tensors_of_feed, torch_version
from edgekit.machine.cpu import cores
from edgekit.onnx.regimes import nonlinearities
from edgekit.onnx.run import Runner, open_every_value, open_unoptimised, ort_version
from edgekit.parity.fingerprints import fingerprinted, fingerprints
from edgekit.parity.inputs import Recorded
from edgekit.parity.noise import Outcome, jittered, noise_of, some_of_each_part
from edgekit.parity.run import BATCHES
from edgekit.sources.testing import Tested
from edgekit.tensors import Array, Feed, batches_of, in_turns, joined_outputs, real_samples

if TYPE_CHECKING:
    from torch import nn

ALONE = 8
"""Samples that PyTorch runs one by one: each call takes longer than its arithmetic."""
ELEMENTS = 1 << 20
"""Input elements that a run beside the first takes at most: large pictures are measured on fewer samples."""


class Way(NamedTuple):
    """One way to run a file: optimisation level, threads (0: all cores), batch sizes in turn (none: all samples), and jitter.

    ``jitter`` is a seed by which the inputs are moved; 0 leaves them as they are.
    """

    level: str
    threads: int = 0
    batches: tuple[int, ...] = ()
    jitter: int = 0


WAYS = (
    Way("all"),
    Way("off", 1),
    Way("all", batches=BATCHES),
    Way("all", 1, (1,)),
    Way("extended", 1, (7,)),
    Way("basic", 0, (3,)),
    *(Way("all", jitter=seed) for seed in range(1, 7)),
    *(Way("off", 1, jitter=seed) for seed in range(7, 9)),
)
"""The first two are those of ``edgekit verify``. The first runs every sample, the others some where samples are large."""


def runs_of_module(module: nn.Module, recorded: Recorded) -> Iterator[Outcome]:
    """The outputs of a PyTorch model as it is: as recorded, one by one, and with inputs jittered."""
    golden = recorded.arrays
    yield Outcome(np.arange(sum(recorded.sizes)), golden.original)
    some = some_of_each_part(recorded.sizes, most_samples(golden.inputs))
    few = some_of_each_part(recorded.sizes, ALONE)
    copy, feed = inference_copy(module), chosen(golden.inputs, some)

    def run(batch: Feed) -> dict[str, Array]:
        return as_arrays(run_module(copy, own_copies(tensors_of_feed(batch))))

    yield Outcome(few, joined_outputs([run(sample) for sample, _ in batches_of(chosen(golden.inputs, few), 1)]))
    for seed in (11, 12):
        yield Outcome(some, run(jittered(feed, seed)))


def runs_of_file(content: bytes, recorded: Recorded, fixed: int | None = None) -> Iterator[Outcome]:
    """The outputs of an ONNX file in every way of ``WAYS``; ``fixed`` is its only batch size, or None."""
    inputs, sessions = recorded.arrays.inputs, dict[tuple[str, int], Runner]()
    some = some_of_each_part(recorded.sizes, most_samples(inputs))
    for place, way in enumerate(WAYS):
        index = np.arange(sum(recorded.sizes)) if place == 0 else some
        key = way.level, way.threads or cores()
        if key not in sessions:
            sessions[key] = open_unoptimised(content, Path(MODEL), level=key[0], threads=key[1])
        feed = chosen(inputs, index)
        sizes = (fixed,) if fixed else way.batches or (len(index),)
        parts = [
            real_samples(sessions[key](batch), size, samples.stop - samples.start)
            for samples, batch, size in in_turns(jittered(feed, way.jitter) if way.jitter else feed, sizes)
        ]
        yield Outcome(index, joined_outputs(parts))


def most_samples(inputs: Feed) -> int:
    """How many samples of ``inputs`` hold ``ELEMENTS`` elements."""
    return max(1, ELEMENTS // max(1, sum(int(np.prod(array.shape[1:])) for array in inputs.values())))


def chosen(feed: Feed, index: NDArray[np.int64]) -> dict[str, Array]:
    """The samples ``index`` of a feed."""
    return {name: array[index] for name, array in feed.items()}


class Measured(NamedTuple):
    """What a Draft takes: the manifest's part, and the arrays."""

    described: Evidence
    arrays: EvidenceArrays


def with_predictions(noise: Measured, test: Tested) -> Measured:
    """``noise`` with the original's predictions of a test set."""
    arrays = msgspec.structs.replace(noise.arrays, predicted=test.predicted, truth=test.truth)
    return Measured(msgspec.structs.replace(noise.described, data=test.data), arrays)


def noise_of_module(
    module: nn.Module, content: bytes | None, recorded: Recorded, modules: Mapping[str, str], also: Iterable[Outcome] = ()
) -> Measured:
    """The noise floors of a PyTorch model: of the original, and of its ONNX file where ONNX Runtime can run its ``content``.

    ``also``: runs of the file beside those of ``runs_of_file``.
    """
    runs, runtimes = runs_of_module(module, recorded), {"torch": {"torch": torch_version()}}
    if content is None:
        return _measured(recorded, runs, runtimes)
    noise = _measured(recorded, itertools.chain(runs, runs_of_file(content, recorded), also), runtimes | ort_runtime())
    return with_fingerprints(noise, content, recorded, modules)


def noise_of_file(content: bytes, recorded: Recorded, fixed: int | None, also: Iterable[Outcome] = ()) -> Measured:
    """The noise floors of an ONNX file, which takes batches of ``fixed`` samples only; None: of any size.

    ``also``: runs of the file beside those of ``runs_of_file``.
    """
    noise = _measured(recorded, itertools.chain(runs_of_file(content, recorded, fixed), also), ort_runtime())
    return noise if fixed is not None else with_fingerprints(noise, content, recorded, {})


def with_fingerprints(noise: Measured, content: bytes, recorded: Recorded, modules: Mapping[str, str]) -> Measured:
    """``noise`` with fingerprints of the values inside an ONNX file, as ONNX Runtime computes them without optimisations.

    ``modules``: value -> path of the PyTorch module that computes it.
    """
    try:
        run = open_every_value(onnx.load_from_string(content), Path(MODEL))
        values = run(fingerprinted(recorded.arrays.inputs, recorded.sizes))
    except ModelError:  # it runs, and does not show every value: then there is nothing to bisect by
        return noise
    return noise._replace(arrays=msgspec.structs.replace(noise.arrays, nodes=fingerprints(values, modules)))


MOST_NAMED = 4
"""Nonlinearities that a note names; of more it tells the number."""


def not_reached(content: bytes, recorded: Recorded, fixed: int | None = None) -> tuple[str, ...]:
    """A note on the regimes of nonlinearities that no golden input reaches, in which a fault cannot show; none where all are.

    ``fixed`` is the file's only batch size, or None.
    """
    model = onnx.load_from_string(content)
    nodes = nonlinearities(model)
    inputs = {value.name for value in model.graph.input}
    inner = [node for node in nodes if node.value not in inputs]
    if not inner:
        return ()
    try:
        run = open_every_value(model, Path(MODEL), only={node.value for node in inner})
        reached = [np.zeros(len(node.bounds) + 1, bool) for node in inner]
        for batch, _ in batches_of(recorded.arrays.inputs, fixed or ALONE):
            values = run(batch)
            reached = [
                seen | (node.regimes(values[node.value]) if node.value in values else True)
                for node, seen in zip(inner, reached, strict=True)
            ]
            if all(seen.all() for seen in reached):
                return ()
    except ModelError:  # it does not show these values
        return ()
    missed = {
        f"{node.operator} {node.name}": [node.described(int(place)) for place in np.flatnonzero(~seen)]
        for node, seen in zip(inner, reached, strict=True)
        if not seen.all()
    }
    if not missed:
        return ()
    named = ", ".join(f"{name} {' and '.join(regimes)}" for name, regimes in list(missed.items())[:MOST_NAMED])
    more = f", and {len(missed) - MOST_NAMED} more" if len(missed) > MOST_NAMED else ""
    return (
        f"the golden inputs do not reach every range of {len(missed)} of {len(nodes)} nonlinearities, where a fault would not "
        f"show: {named}{more}",
    )


def _measured(recorded: Recorded, outcomes: Iterable[Outcome], runtimes: Mapping[str, Mapping[str, str]]) -> Measured:
    """The noise floors from ``outcomes``; ``runtimes``: backend -> facts of those that were run."""
    noise = noise_of(recorded.arrays.float64, recorded.sizes, outcomes)
    described = Evidence(
        EVIDENCE, noise.axes, {name: dict(facts) for name, facts in runtimes.items()}, platform.machine(), noise.runs
    )
    return Measured(described, EvidenceArrays(noise.floors))


def ort_runtime() -> dict[str, dict[str, str]]:
    """ONNX Runtime on this CPU, as ``measured`` takes it."""
    return {"ort-cpu": {"onnxruntime": ort_version()}}
