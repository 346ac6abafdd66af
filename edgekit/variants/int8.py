"""An int8 file of a bundle's network: ranges from calibration samples, steps where ``onnx/placing.py`` says.

Nothing here trains. The weights are rounded, the ranges of what flows between layers are measured, and what that costs is
measured too: on the calibration samples to choose, on the golden inputs for the bar of ``edgekit verify``.
"""

from __future__ import annotations

import msgspec
import numpy as np

from edgekit.budgets import LOSSES, parse_budget
from edgekit.bundle.allowance import MARGIN_DB, WHOLE_BARS
from edgekit.bundle.folder import Bundle
from edgekit.bundle.manifest import Allowance, Calibration, Conversion, Variant
from edgekit.bundle.ranges import RangeTable, TensorRange
from edgekit.bundle.variants import VariantDraft, outputs_to_npz
from edgekit.errors import ModelError
from edgekit.machine.cpu import instruction_sets
from edgekit.onnx.calibration import WAYS, Observed
from edgekit.onnx.placing import kept_by_rule, placed
from edgekit.parity.allowances import int8_allowance, within_support
from edgekit.parity.conversion_claims import FLOORS
from edgekit.parity.converted import worst_snr_db
from edgekit.parity.inputs import recorded_in
from edgekit.progress import SILENT, Progress
from edgekit.recipe import DataRecipe
from edgekit.reports.quantize import Attempt, KeptNode
from edgekit.variants import Outcome, Wanted
from edgekit.variants.int8_network import FLOAT, FloatNetwork, Network, QuantFile, clipped
from edgekit.variants.int8_rounding import rounding_steps
from edgekit.variants.int8_search import Judge, Search, search
from edgekit.variants.samples import SAMPLES, Samples, own_data, samples_of
from edgekit.version import __version__

NAME, FILE, OUTPUTS, RANGES = "int8", "int8.onnx", "int8.npz", "int8.json"
LEAST_GAIN_DB = 1.0
"""What equalised weights must gain to be taken."""


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
        samples = samples_of(bundle, wanted.calibrate, wanted.samples or SAMPLES, wanted.training)
        data = samples.recipe or wanted.training or own_data(bundle)
        advance(1, "ranges of the values inside")
        network = Network(bundle, samples.feed, wanted.keep)
        advance(1, "choosing ranges")
        network, attempts, best = _best_of(network, Network.equalised_of(bundle, samples.feed, wanted.keep))
        advance(1, "what single layers cost")
        way = WAYS[best % len(WAYS)]
        found = search(network, way, Judge.of(network, budget, bundle, data)) if budget else Search({})
        advance(1, "its own outputs")
        made = network.file(way, found.kept)
        calibration = Calibration(samples.source, samples.size, samples.sha256(), way[0], samples.calibrated)
        table = RangeTable(calibration, way[1], _ranges(made, network.observed), network.equalised)
        outcome = _outcome(bundle, network, made, table, (*_notes(samples), *found.notes))
        advance(1, "")
    tried = tuple(msgspec.structs.replace(attempt, chosen=place == best) for place, attempt in enumerate(attempts))
    return outcome._replace(attempts=tried, sensitivity=found.sensitivity, budget=budget, data=data)


def _best_of(plain: Network, equalised: Network | None) -> tuple[Network, list[Attempt], int]:
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


def _of_training(bundle: Bundle, table: RangeTable, data: DataRecipe | None, progress: Progress) -> Outcome:
    """The file of a network that was trained for int8, with the ranges that were learnt.

    Raises ModelError where the network rounds at other places than were trained.
    """
    with progress.task("quantising", 1) as advance:
        advance(0, "its own outputs")
        network = FloatNetwork(bundle)
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


def _outcome(bundle: Bundle, network: FloatNetwork, made: QuantFile, table: RangeTable, notes: tuple[str, ...]) -> Outcome:
    """The file with its own outputs on the golden inputs and the bars that these give."""
    recorded = recorded_in(bundle)
    inputs, begin = recorded.arrays.inputs, recorded.of_first(recorded.arrays.float64)
    own = network.outputs(made.content, inputs)
    readings = recorded.of_first(own), network.outputs(clipped(made.content), recorded.of_first(inputs))
    snr_db = min(worst_snr_db(outputs, begin) for outputs in readings)
    least = WHOLE_BARS[NAME].snr_db + MARGIN_DB
    if snr_db < least:
        raise ModelError(
            f"int8 leaves {snr_db:.1f} dB of signal to noise in the outputs of bundle {bundle.manifest.name}, and {least:g} are "
            "the least that a file may have",
            f"put layers back with --budget snr={least:g}dB or --keep, calibrate on real pictures, or {FLOAT}",
        )
    rounding = rounding_steps(network, made.content, recorded, own)
    proposed = _variant(network, made, table, int8_allowance(readings, begin, rounding), recorded.error(own))
    variant = within_support(proposed, recorded, own)
    files = {
        variant.file: made.content,
        OUTPUTS: outputs_to_npz(own),
        RANGES: msgspec.json.format(msgspec.json.encode(table), indent=2) + b"\n",
    }
    return Outcome(VariantDraft(variant, files, notes), snr_db)


def _variant(network: FloatNetwork, made: QuantFile, table: RangeTable, allowance: Allowance, error: float) -> Variant:
    """What the manifest says of the file; ``error``: of scale, on all golden inputs."""
    placement = made.placement
    kept = (KeptNode(each.name, each.operator, network.modules.get(each.output, ""), each.reason) for each in placement.kept)
    return Variant(
        name=NAME,
        file=FILE,
        precision="int8",
        allowance=allowance,
        error=error,
        made_by={
            "command": "train" if table.calibration.method == "trained" else "quantize",
            "edgekit": __version__,
            "to": NAME,
            "bias_correction": table.bias_correction,
            "equalised": bool(table.equalised),
        },
        conversion=Conversion(
            outputs=OUTPUTS,
            converted=len(placement.layers),
            kept=tuple(kept),
            ranges=RANGES,
            calibration=table.calibration,
            floor=FLOORS[NAME],
            cpu=", ".join(instruction_sets()),
        ),
    )


def _notes(samples: Samples) -> tuple[str, ...]:
    random = () if samples.calibrated else ("the int8 file is not calibrated: its ranges are those of random numbers",)
    return (*random, *samples.notes)


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
