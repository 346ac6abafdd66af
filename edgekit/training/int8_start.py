"""What a training for int8 begins with: the folded network with fake quantisation, as the best calibration leaves it."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from edgekit.data import Dataset
from edgekit.data.pictures import spread
from edgekit.errors import ModelError
from edgekit.onnx.calibration import SMALLEST, WAYS, Method, limits_of, observe, values_of
from edgekit.onnx.calibration import Batches as ValuesOfBatches
from edgekit.onnx.correction import corrected_biases
from edgekit.onnx.placing import Graph, Placement
from edgekit.onnx.qdq import quantised_model
from edgekit.onnx.run import open_unoptimised, run_in_turns
from edgekit.onnx.signed import signed_codes
from edgekit.recipe import ExportRecipe
from edgekit.tensors import Array, bounded_snr_db
from edgekit.training.distributed import ALONE, Peers
from edgekit.training.fake_quantisation import FakeQuantised
from edgekit.training.int8_places import Folded, Places, find_places

SAMPLES = 256
"""Training pictures on which the ranges to begin with are calibrated."""
TOGETHER = 32
"""Pictures that are computed together."""
OTHER_NETWORK = 0.5
"""By this share of its own error the int8 file may differ in ONNX Runtime from PyTorch; codes at a border move it by less."""


class Start(NamedTuple):
    """A folded network with fake quantisation as calibration leaves it, how that chose, and the pictures that it saw, float32."""

    network: Folded
    settings: ExportRecipe
    module: FakeQuantised
    placement: Placement
    method: Method
    bias_correction: bool
    pictures: NDArray[np.float32]


def begun(
    network: Folded, settings: ExportRecipe, dataset: Dataset, batch_size: int, moving: int, together: Peers = ALONE
) -> Start:
    """Calibrate in every way, and take the one with the best SNR; raises ModelError as ``train_int8``."""
    places = find_places(network, settings)
    pictures = dataset.preprocess.normalise(dataset.train.images[spread(len(dataset.train), SAMPLES)])
    feed = {network.inputs[0].name: pictures}
    values = set(places.placement.groups)
    observed = observe(places.placement, values_of(places.model, values, feed))
    largest = _largest(places.placement, values_of(places.model, values, feed, min(batch_size, len(pictures))))
    reference, biases, graph = outputs_of(network.graph, pictures), _biases(places), Graph(places.model)
    ways: dict[float, tuple[Method, bool, FakeQuantised, dict[str, Array]]] = {}
    for method, corrected in WAYS:
        limits = limits_of(places.placement, observed, method)
        changed = corrected_biases(graph, places.placement, limits, observed.means) if corrected else {}
        module = FakeQuantised(places, limits, largest, moving, together)
        _set_biases(places, {**biases, **changed})
        outputs = outputs_of(module, pictures)
        if not ways:
            _check_same(places, module, outputs, reference, pictures)
        ways.setdefault(bounded_snr_db(outputs, reference), (method, corrected, module, changed))
    method, corrected, module, changed = ways[max(ways)]
    _set_biases(places, {**biases, **changed})
    return Start(network, settings, module, places.placement, method, corrected, pictures)


def _largest(placement: Placement, batches: ValuesOfBatches) -> dict[str, float]:
    """Group -> the largest |value| of a batch, on average."""
    members = placement.members()
    rows = [
        [max(float(np.abs(values[name]).max()) for name in names if name not in placement.clamped) for names in members.values()]
        for values in batches()
    ]
    return dict(zip(members, np.maximum(np.mean(rows, axis=0), SMALLEST).tolist(), strict=True))


def _biases(places: Places) -> dict[str, Array]:
    """Layer -> a copy of its bias."""
    return {
        layer: attrgetter(str(weighted.bias.target))(places.graph).detach().numpy().copy()
        for layer, weighted in places.layers.items()
        if weighted.bias is not None
    }


@torch.no_grad()
def _set_biases(places: Places, biases: Mapping[str, Array]) -> None:
    """A layer without a bias keeps none."""
    for layer, array in biases.items():
        bias = places.layers[layer].bias
        if bias is not None:
            attrgetter(str(bias.target))(places.graph).copy_(torch.from_numpy(array))


@torch.inference_mode()
def outputs_of(module: nn.Module, pictures: NDArray[np.float32]) -> Array:
    """What a network on the CPU makes of ``pictures``, computed in batches."""
    module.eval()
    return np.concatenate([module(batch).numpy() for batch in torch.split(torch.from_numpy(pictures), TOGETHER)])


def in_runtime(model: onnx.ModelProto, placement: Placement, limits: Mapping[str, float], pictures: NDArray[np.float32]) -> Array:
    """The outputs of the int8 file in ONNX Runtime, as TensorRT reads it: codes end at 127."""
    file = signed_codes(quantised_model(model, placement, limits, {}))
    feed = {file.graph.input[0].name: pictures}
    return next(iter(run_in_turns(open_unoptimised(file, Path("int8.onnx")), feed, (TOGETHER,)).values()))


def _rms(numbers: Array) -> float:
    return float(np.sqrt(np.square(numbers, dtype=np.float64).mean()))


def _check_same(places: Places, module: FakeQuantised, outputs: Array, reference: Array, pictures: NDArray[np.float32]) -> None:
    """Raise ModelError where the network's int8 file is another network in ONNX Runtime than ``module`` in PyTorch."""
    written = in_runtime(places.model, places.placement, module.limits_now(), pictures)
    apart, error = _rms(outputs - written), _rms(reference - written)
    if apart > OTHER_NETWORK * error:
        raise ModelError(
            f"the network's int8 file differs in ONNX Runtime from PyTorch by {apart / error:.2f} times what int8 changes",
            "leave [train.int8] out and calibrate with edgekit quantize, and report the model",
        )
