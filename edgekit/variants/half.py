"""The float16 variant of a bundle: its first file in float16, but for what exceeds that on the golden inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
import numpy as np
import onnx

from edgekit.bundle.folder import Bundle
from edgekit.bundle.manifest import Allowance, Conversion, Variant
from edgekit.bundle.variants import VariantDraft, outputs_to_npz
from edgekit.errors import ModelError, UsageError
from edgekit.onnx.half import LARGEST, Halved, rounded_after_every_node, to_half
from edgekit.onnx.read import name_of
from edgekit.onnx.run import Runner, open_every_value, open_unoptimised, run_in_batches
from edgekit.onnx.widen import inlined
from edgekit.parity.allowances import half_allowance, rounding_room, within_support
from edgekit.parity.converted import worst_snr_db
from edgekit.parity.inputs import Recorded, recorded_in
from edgekit.parity.rounding import most_steps
from edgekit.progress import SILENT, Progress
from edgekit.reports.quantize import KeptNode
from edgekit.tensors import Array, Feed, batches_of, fixed_batch
from edgekit.tolerance import finite_scale
from edgekit.variants import Outcome, Wanted
from edgekit.variants.kept import asked_to_keep, modules_of
from edgekit.variants.samples import own_data
from edgekit.version import __version__

NAME, FILE, OUTPUTS = "float16", "float16.onnx", "float16.npz"
MOST = LARGEST / 8
"""What a value may reach on the golden inputs: other inputs reach further, and sums inside a node do."""
BATCH = 8
ON_A_CPU = "ONNX Runtime's CPU computes it in another way than a GPU; edgekit bench times it there"


def convert(bundle: Bundle, wanted: Wanted, progress: Progress = SILENT) -> Outcome:
    """The draft of the variant ``float16`` of a bundle.

    Raises UsageError for wishes that are about int8 and for a node that the network lacks, and ModelError for a first file that
    is not float32, that cannot be converted or run, or whose outputs float16 ruins.
    """
    of_int8 = {"--calibrate": wanted.calibrate, "--samples": wanted.samples, "--budget": wanted.budget}
    idle = next((name for name, value in of_int8.items() if value is not None), "")
    if idle:
        raise UsageError(f"{idle} does not go with float16, whose nodes are kept by the golden inputs", f"leave out {idle}")
    with progress.task("converting", 1) as advance:
        model, modules, recorded = float32_model(bundle), modules_of(bundle), recorded_in(bundle)
        draft, outputs = drafted(bundle, model, recorded, asked_to_keep(wanted.keep, model, modules), modules)
        advance(1, "")
    snr_db = worst_snr_db(recorded.of_first(outputs), recorded.of_first(recorded.arrays.float64))
    return Outcome(draft, snr_db, data=wanted.training or own_data(bundle), untimed=ON_A_CPU)


def drafted(
    bundle: Bundle, model: onnx.ModelProto, recorded: Recorded, keep: Iterable[str], modules: Mapping[str, str]
) -> tuple[VariantDraft, dict[str, Array]]:
    """A draft of the bundle's ``model`` in float16, whose callers keep float32, and its outputs on the ``recorded`` samples.

    ``keep``: nodes that stay float32 beside those that need it; ``modules``: value -> path of its PyTorch module. The outputs are
    ONNX Runtime's, without optimisations. The allowance is measured on them and on outputs that are rounded to float16 behind
    every node, which that runtime leaves out. Raises ModelError for a model that cannot be converted or run, or whose outputs
    float16 ruins.
    """
    size = fixed_batch(bundle.manifest.inputs) or BATCH
    named = dict.fromkeys(keep, "named to be kept")
    run = open_every_value(model, Path(bundle.variant().file))
    halved = to_half(model, _too_large(model, run, recorded.arrays.inputs, size) | named)
    if not halved.converted:
        raise ModelError(f"nothing of bundle {bundle.manifest.name} can be float16: {_why_nothing(halved)}", "stay with float32")
    content = halved.model.SerializeToString(deterministic=True)
    outputs, rounded = (
        run_in_batches(open_unoptimised(file, Path(FILE)), recorded.arrays.inputs, size, Path(FILE))
        for file in (content, rounded_after_every_node(halved.model))
    )
    kept = tuple(KeptNode(each.node, each.operator, modules.get(each.value, ""), each.reason) for each in halved.kept)
    variant = Variant(
        name=NAME,
        file=FILE,
        precision="float16",
        allowance=_allowance(bundle, recorded, outputs, rounded),
        error=recorded.error(outputs),
        made_by={"command": "quantize", "edgekit": __version__, "to": NAME},
        conversion=Conversion(outputs=OUTPUTS, converted=halved.converted, kept=kept),
    )
    variant = within_support(variant, recorded, outputs)
    return VariantDraft(variant, {FILE: content, OUTPUTS: outputs_to_npz(outputs)}), outputs


def float32_model(bundle: Bundle) -> onnx.ModelProto:
    """The bundle's first file, its functions written out; raises ModelError for one that is not float32."""
    first = bundle.variant()
    if first.precision != "float32":
        raise ModelError(
            f"the first file of bundle {bundle.manifest.name} is {first.precision}, and float16 is made from float32",
            "export the model in float32 and quantize that bundle",
        )
    return inlined(onnx.load_from_string(bundle.onnx_bytes()))


def _too_large(model: onnx.ModelProto, run: Runner, inputs: Feed, size: int) -> dict[str, str]:
    """Node -> why it is kept: a float that it reads or gives is beyond ``MOST`` on ``inputs``, run in batches of ``size``.

    ``run`` gives every value of ``model``.
    """
    reached: dict[str, float] = {}
    for batch, _ in batches_of(inputs, size):
        for name, array in {**batch, **run(batch)}.items():
            if np.issubdtype(array.dtype, np.floating):
                reached[name] = max(reached.get(name, 0.0), finite_scale(array))
    reasons = {}
    for node in model.graph.node:
        most = max((reached.get(name, 0.0) for name in (*node.input, *node.output)), default=0.0)
        if most > MOST:
            reasons[name_of(node)] = f"its values reach {most:.3g} on the golden inputs, beyond {MOST:.0f}"
    return reasons


def _why_nothing(halved: Halved) -> str:
    return halved.kept[0].reason if halved.kept else "it has no float32 arithmetic"


def _allowance(bundle: Bundle, recorded: Recorded, own: Mapping[str, Array], rounded: Mapping[str, Array]) -> Allowance:
    """What the worse of two readings needs, and of rounding four times what lies between them, or a last place of float16.

    ``own``: the outputs that are recorded; ``rounded``: those with every value rounded. Raises ModelError where that is more than
    a float16 file may ask for.
    """
    allowance = half_allowance((own, rounded), recorded)
    error = float(np.max([recorded.error(outputs) for outputs in (own, rounded)]))
    if not error <= allowance.tolerance.rtol:
        raise ModelError(
            f"float16 changes the outputs of bundle {bundle.manifest.name} by {error:.1e} of their scale, and "
            f"{allowance.tolerance.rtol:g} is the most that such a file may",
            "keep the nodes that amplify rounding with --keep",
        )
    steps = most_steps(rounded, own, recorded.sizes)
    return msgspec.structs.replace(allowance, rounding=rounding_room(steps, "float16"))
