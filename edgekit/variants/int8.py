"""An int8 file of a bundle's network: ranges from calibration samples, steps where ``onnx/placing.py`` says.

Nothing here trains. The weights are rounded, the ranges of what flows between layers are measured, and what that costs is
measured too: on the calibration samples to choose, on the golden inputs for the bar of ``edgekit verify``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import onnx
from onnx import numpy_helper

from edgekit.budgets import LOSSES, Budget, parse_budget
from edgekit.bundle.allowance import LEAST_TOP1, MARGIN_DB, MOST_ROUNDING, MOST_RTOL, MOST_STEPS, WHOLE_BARS
from edgekit.bundle.folder import Bundle
from edgekit.bundle.manifest import Allowance, Calibration, Conversion, Variant
from edgekit.bundle.ranges import RangeTable, TensorRange
from edgekit.bundle.variants import VariantDraft, outputs_to_npz
from edgekit.errors import ModelError, first_line
from edgekit.machine.cpu import instruction_sets
from edgekit.onnx.averages import average_over_four_axes
from edgekit.onnx.calibration import BATCH, WAYS, Observed, Way, limits_of, observe, values_of
from edgekit.onnx.correction import corrected_biases
from edgekit.onnx.equalise import equalise
from edgekit.onnx.placing import LAST, Graph, Placement, first_layers, kept_by_rule, last_layers, name_apart, placed
from edgekit.onnx.qdq import CODES, quantised_model
from edgekit.onnx.read import name_of, opset_of, quantised
from edgekit.onnx.run import open_unoptimised, run_in_turns
from edgekit.onnx.signed import signed_codes
from edgekit.onnx.widen import inlined, only_real_inputs
from edgekit.parity.conversion_claims import FLOORS
from edgekit.parity.converted import worst_snr_db
from edgekit.parity.inputs import Recorded, recorded_in
from edgekit.parity.keeping import fewest_kept
from edgekit.parity.noise import jittered
from edgekit.progress import SILENT, Progress
from edgekit.recipe import DataRecipe
from edgekit.reports.quantize import Attempt, KeptNode, Sensitivity
from edgekit.tensors import Array, Feed, fixed_batch, normalised_error
from edgekit.tolerance import Tolerance
from edgekit.variants import Outcome, Wanted
from edgekit.variants.kept import asked_to_keep, modules_of
from edgekit.variants.pictures import LabelledPictures, held_pictures
from edgekit.variants.samples import Samples, own_data, samples_of
from edgekit.version import __version__

NAME = "int8"
OPSET = 13
"""The first opset whose DequantizeLinear has a scale for each channel."""
TIMES_ERROR, FEW_STEPS = 3.0, 3.0
"""``verify`` accepts so many times the measured error, and at least so many steps."""
TIMES_ROUNDING, DRAWS = 4.0, 4
"""Times what rounding in float32 was seen to move outputs by, in so many draws, that ``verify`` accepts."""
LEAST_GAIN_DB = 1.0
"""What equalised weights must gain to be taken."""
ROOM = 0.5
"""The first and the last layer are in int8 where they leave so much of a budget of accuracy, or MARGIN_DB of one of SNR."""
FLOAT = "ship it in float32 or float16"
JUDGED = 64
"""Calibration samples on which single layers are judged."""


def convert(bundle: Bundle, wanted: Wanted, progress: Progress = SILENT) -> Outcome:
    """The draft of the variant ``int8`` of a bundle.

    Raises ModelError for a network that has no float32 file, or no layer for 8 bits, DataError for calibration samples that do
    not fit, and UsageError for a node that the network lacks.
    """
    if wanted.learned is not None:
        return _of_training(bundle, wanted.learned, wanted.training, progress)
    budget = None if wanted.budget is None else parse_budget(wanted.budget, LOSSES)
    with progress.task("quantising", 5) as advance:
        advance(0, "calibration samples")
        samples = samples_of(bundle, wanted.calibrate, wanted.samples, wanted.training)
        data = samples.recipe or wanted.training or own_data(bundle)
        advance(1, "ranges of the values inside")
        network = _Network(bundle, samples.feed, wanted.keep)
        advance(1, "choosing ranges")
        network, attempts, best = _best_of(network, _Network.equalised_of(bundle, samples.feed, wanted.keep))
        advance(1, "what single layers cost")
        way = WAYS[best % len(WAYS)]
        search = _search(network, way, _Judge.of(network, budget, bundle, data)) if budget else Search({})
        advance(1, "its own outputs")
        made = network.file(way, search.kept)
        calibration = Calibration(samples.source, samples.size, samples.sha256(), way[0], samples.calibrated)
        table = RangeTable(calibration, way[1], _ranges(made, network.observed), network.equalised)
        outcome = _outcome(bundle, network, made, table, (*_notes(samples), *search.notes))
        advance(1, "")
    tried = tuple(msgspec.structs.replace(attempt, chosen=place == best) for place, attempt in enumerate(attempts))
    return outcome._replace(attempts=tried, sensitivity=search.sensitivity, budget=budget, data=data)


def _best_of(plain: _Network, equalised: _Network | None) -> tuple[_Network, list[Attempt], int]:
    """The network and the way with the best SNR, all that was tried, and the place of the best among them.

    Equalised weights are taken where they gain LEAST_GAIN_DB at least: less is chance.
    """
    attempts = [
        Attempt(*way, network.snr_db(network.file(way, {}).content), equalised=network is equalised)
        for network in (plain, equalised)
        if network is not None
        for way in WAYS
    ]
    gained = [attempt.snr_db - LEAST_GAIN_DB * attempt.equalised for attempt in attempts]
    best = gained.index(max(gained))
    return (equalised if equalised is not None and attempts[best].equalised else plain), attempts, best


class QuantFile(NamedTuple):
    """An int8 file, where its steps are, and group -> the limit of its scale."""

    content: bytes
    placement: Placement
    limits: dict[str, float]


class _FloatNetwork:
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


class _Network(_FloatNetwork):
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
        self.edges = self._edges(asked)
        seen = self._seen()
        self.feed = feed
        self.observed = observe(seen, values_of(self.model, set(seen.groups), feed, self.size))
        self.float_outputs = self.outputs(self.model.SerializeToString(), feed)

    @classmethod
    def equalised_of(cls, bundle: Bundle, feed: Feed, keep: Sequence[str]) -> _Network | None:
        """The network with equalised weights, which computes the same; None where nothing can be equalised."""
        return cls(bundle, feed, keep, equalised=True) if equalise(_float_model(bundle)) else None

    def _edges(self, asked: Mapping[str, str]) -> dict[str, str]:
        """The first and last layers that stay in float by rule and could be in 8 bits: node -> which of the two."""
        ends = {**dict.fromkeys(last_layers(self.graph), "last"), **dict.fromkeys(first_layers(self.graph), "first")}
        free = {node: reason for node, reason in self._asked.items() if node not in ends or node in asked}
        able = {layer.name for layer in placed(self.graph, free, ends).layers} - {layer.name for layer in self.everywhere.layers}
        return {node: end for node, end in ends.items() if node in able}

    def _seen(self) -> Placement:
        """All layers that may be in 8 bits, and all values that may be rounded."""
        before, narrow = self.everywhere, self.edges
        widest = placed(self.graph, {node: reason for node, reason in self._asked.items() if node not in narrow}, narrow)
        layers = {layer.name: layer for layer in (*before.layers, *widest.layers)}
        return widest._replace(layers=tuple(layers.values()), groups={**before.groups, **widest.groups})

    def take(self, edges: Iterable[str]) -> None:
        """Let these of the ``edges`` be in 8 bits, and no others."""
        self._narrow = frozenset(edges)
        self.everywhere = self._placed({})

    def _placed(self, keep: Mapping[str, str]) -> Placement:
        by_rule = {node: reason for node, reason in self._asked.items() if node not in self._narrow}
        return placed(self.graph, {**by_rule, **keep}, self._narrow)

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


class Search(NamedTuple):
    """The layers that went back to float, node -> reason, what each layer costs by itself, and what became of the ends."""

    kept: Mapping[str, str]
    sensitivity: tuple[Sensitivity, ...] = ()
    notes: tuple[str, ...] = ()


class _Judge(NamedTuple):
    """Whether a file of ``network`` holds a ``budget``; ``held``: the pictures that one of accuracy is judged on."""

    network: _Network
    budget: Budget
    bundle: Bundle
    held: LabelledPictures | None

    @classmethod
    def of(cls, network: _Network, budget: Budget, bundle: Bundle, data: DataRecipe | None) -> _Judge:
        return cls(network, budget, bundle, held_pictures(bundle, data, budget) if budget.points is not None else None)

    def holds(self, content: bytes) -> bool:
        """Whether the file costs no more than the budget."""
        if self.held is None or self.budget.points is None:
            return self.network.snr_db(content) >= (self.budget.snr_db or 0.0)
        return self._lost(content) <= self.budget.points

    def holds_with_room(self, content: bytes) -> bool:
        """Whether the budget holds by a margin, as other pictures and other CPUs need it, and so does the bar of every file."""
        least = max(self.budget.snr_db or 0.0, WHOLE_BARS[NAME].snr_db + MARGIN_DB) + MARGIN_DB
        if self.network.snr_db(content) < least:
            return False
        return self.held is None or self.budget.points is None or self._lost(content) <= ROOM * self.budget.points

    def _lost(self, content: bytes) -> float:
        assert self.held is not None
        change = self.held.change(content)
        return 100 * (change.before - change.after)


def _search(network: _Network, way: Way, judge: _Judge) -> Search:
    """Layers in float, as few as the budget allows; raises ModelError if it leaves none in 8 bits.

    The first and the last layer, which stay in float by rule, are in 8 bits too where the budget then holds with room. Otherwise
    layers go back to float, the one that costs most first, until it holds.
    """
    ends, budget = _ends_in_int8(network, way, judge), judge.budget
    ranked = _sensitivity(network, way)
    reasons = {row.node: f"the budget {budget.text} needs it: by itself it costs {row.snr_db:.1f} dB" for row in ranked}

    def holds(kept: Sequence[str]) -> bool:
        if len(kept) == len(ranked):
            return True  # nothing is left in 8 bits
        return judge.holds(network.file(way, {node: reasons[node] for node in kept}).content)

    kept = () if ends else fewest_kept([row.node for row in ranked], holds) or ()
    if len(kept) == len(ranked):
        raise ModelError(
            f"the budget {budget.text} leaves no layer of {judge.bundle.onnx_of()} in 8 bits",
            f"allow more, or {FLOAT}",
        )
    rows = tuple(msgspec.structs.replace(row, kept=row.node in kept) for row in ranked)
    return Search({node: reasons[node] for node in kept}, rows, tuple(_about_ends(network, ends, budget)))


def _ends_in_int8(network: _Network, way: Way, judge: _Judge) -> tuple[str, ...]:
    """Which of the first and last layers the ``network`` has in 8 bits from here on: most of them with which there is room."""
    first, last = ([node for node, end in network.edges.items() if end == each] for each in ("first", "last"))
    for ends in dict.fromkeys(tuple(each) for each in ((*first, *last), first, last) if each):
        network.take(ends)
        if judge.holds_with_room(network.file(way, {}).content):
            return ends
    network.take(())
    return ()


def _about_ends(network: _Network, ends: Sequence[str], budget: Budget) -> Iterator[str]:
    for node, end in network.edges.items():
        if node in ends:
            yield f"the {end} layer, {node}, is in int8: the budget {budget.text} holds with room"
        else:
            yield f"the {end} layer, {node}, stays in float: in int8 the budget {budget.text} would not hold with room"


def _sensitivity(network: _Network, way: Way) -> tuple[Sensitivity, ...]:
    """Each layer in 8 bits by itself, the one that costs most first."""
    layers = network.everywhere.layers
    outputs = {name_of(node): node.output[0] for node in network.model.graph.node}
    rows = []
    for layer in layers:
        others = {other.name: "is judged by itself" for other in layers if other is not layer}
        snr_db = network.snr_db(network.file(way, others).content, JUDGED)
        rows.append(Sensitivity(layer.name, network.modules.get(outputs[layer.name], ""), snr_db))
    return tuple(sorted(rows, key=lambda row: row.snr_db))


def _of_training(bundle: Bundle, table: RangeTable, data: DataRecipe | None, progress: Progress) -> Outcome:
    """The file of a network that was trained for int8, with the ranges that were learnt.

    Raises ModelError where the network rounds at other places than were trained.
    """
    with progress.task("quantising", 1) as advance:
        advance(0, "its own outputs")
        network = _FloatNetwork(bundle)
        placement = placed(network.graph, kept_by_rule(network.graph))
        learnt = {row.tensor: (row.group, row.dtype == "int8") for row in table.tensors}
        if learnt != {tensor: (group, group in placement.signed) for tensor, group in placement.groups.items()}:
            raise ModelError(
                f"{bundle.onnx_of()} rounds at other places than its training for int8 did", "train it again with this edgekit"
            )
        made = network.written(placement, {row.group: row.limit for row in table.tensors}, {})
        outcome = _outcome(bundle, network, made, table, ())
        advance(1, "")
    return outcome._replace(data=data)


def _outcome(bundle: Bundle, network: _FloatNetwork, made: QuantFile, table: RangeTable, notes: tuple[str, ...]) -> Outcome:
    """The file with its own outputs on the golden inputs and the bars that these give."""
    recorded = recorded_in(bundle)
    inputs, first = recorded.arrays.inputs, slice(recorded.sizes[0])
    own = network.outputs(made.content, inputs)
    begin = {name: wide[first] for name, wide in recorded.arrays.float64.items()}
    readings = (
        {name: array[first] for name, array in own.items()},
        network.outputs(clipped(made.content), {name: array[first] for name, array in inputs.items()}),
    )
    snr_db = min(worst_snr_db(outputs, begin) for outputs in readings)
    least = WHOLE_BARS[NAME].snr_db + MARGIN_DB
    if snr_db < least:
        raise ModelError(
            f"int8 leaves {snr_db:.1f} dB of signal to noise in the outputs of bundle {bundle.manifest.name}, and {least:g} are "
            "the least that a file may have",
            f"put layers back with --budget snr={least:g}dB or --keep, calibrate on real pictures, or {FLOAT}",
        )
    conversion = Conversion(
        outputs=f"{NAME}.npz",
        converted=len(made.placement.layers),
        kept=tuple(
            KeptNode(kept.name, kept.operator, network.modules.get(kept.output, ""), kept.reason) for kept in made.placement.kept
        ),
        ranges=f"{NAME}.json",
        calibration=table.calibration,
        floor=FLOORS[NAME],
        cpu=", ".join(instruction_sets()),
    )
    variant = Variant(
        name=NAME,
        file=f"{NAME}.onnx",
        precision="int8",
        allowance=_allowance(readings, begin, snr_db, rounding_steps(network, made.content, recorded, own)),
        error=recorded.error(own),
        made_by={
            "command": "train" if table.calibration.method == "trained" else "quantize",
            "edgekit": __version__,
            "to": NAME,
            "bias_correction": table.bias_correction,
            "equalised": bool(table.equalised),
        },
        conversion=conversion,
    )
    files = {
        variant.file: made.content,
        conversion.outputs: outputs_to_npz(own),
        f"{NAME}.json": msgspec.json.format(msgspec.json.encode(table), indent=2) + b"\n",
    }
    return Outcome(VariantDraft(variant, files, notes), snr_db)


def _notes(samples: Samples) -> tuple[str, ...]:
    random = () if samples.calibrated else ("the int8 file is not calibrated: its ranges are those of random numbers",)
    return (*random, *samples.notes)


def rounding_steps(network: _FloatNetwork, content: bytes, recorded: Recorded, own: dict[str, Array]) -> float:
    """The most steps by which the outputs ``own`` move when every stored scale moves by a unit in its last place.

    Kernels of other CPUs sum in another order, which moves values that lie between two codes to the other one.
    """
    against_own = recorded._replace(arrays=msgspec.structs.replace(recorded.arrays, float64=own))
    draws = (network.outputs(moved_scales(content, seed), recorded.arrays.inputs) for seed in range(DRAWS))
    return CODES * max(map(against_own.error, draws))


def moved_scales(content: bytes, seed: int) -> bytes:
    """The file with every float32 scale of its stored codes moved by one unit in the last place, up or down at random."""
    model = onnx.load_from_string(content)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    names = dict.fromkeys(node.input[1] for node in model.graph.node if node.op_type == "DequantizeLinear")
    moved = jittered({name: numpy_helper.to_array(stored[name]) for name in names if name in stored}, seed)
    for name, scales in moved.items():
        stored[name].CopyFrom(numpy_helper.from_array(scales, name))
    return bytes(model.SerializeToString())


def _allowance(
    readings: Sequence[Mapping[str, Array]], reference: Mapping[str, Array], snr_db: float, rounding: float
) -> Allowance:
    """What ``verify`` accepts: the errors that the file has on the first part, in the worse of both ``readings``, and a margin.

    An output may be off by three times what it is off here, of its scale, and by as much from the file's own recorded outputs.
    The share of samples whose largest output moves may be twice as large, and two samples larger.
    """
    error = max(normalised_error(outputs[name], wide) for outputs in readings for name, wide in reference.items())
    classes = [name for name, wide in reference.items() if wide.ndim == 2 and wide.shape[1] > 1]
    moved = [int((outputs[name].argmax(1) != reference[name].argmax(1)).sum()) for outputs in readings for name in classes]
    samples = len(next(iter(reference.values())))
    return Allowance(
        Tolerance(
            atol=0.0,
            rtol=min(max(FEW_STEPS / CODES, TIMES_ERROR * error), MOST_RTOL),
            top1=max(LEAST_TOP1, 1 - (2 * max(moved, default=0) + 2) / samples),
        ),
        snr_db=max(0.0, snr_db - MARGIN_DB),
        steps=min(max(FEW_STEPS, TIMES_ERROR * error * CODES), MOST_STEPS),
        rounding=min(TIMES_ROUNDING * rounding, MOST_ROUNDING),
    )


def _ranges(made: QuantFile, observed: Observed) -> tuple[TensorRange, ...]:
    return tuple(
        TensorRange(
            tensor,
            observed.lowest[tensor],
            observed.highest[tensor],
            float(np.float32(made.limits[group])),
            "int8" if group in made.placement.signed else "uint8",
            group,
        )
        for tensor, group in made.placement.groups.items()
    )
