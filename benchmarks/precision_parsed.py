"""What TensorRT-RTX's own parser and builder say of a file; neither needs a GPU."""

from __future__ import annotations

import re
from typing import Any

from edgekit.backends.tensorrt.messages import collector, plain

GPU = "SM89"
"""What is built for where no GPU is: Ada, whose kernels int8 has."""
MOST = 8
NOT_OF_THE_FILE = "logger passed into"
PLACES = re.compile(r"^\S+\.cpp:\d+: ")


def parsed(content: bytes) -> dict[str, Any]:
    """``{"refused": why}``, or ``layers``, ``builds`` and the ``warnings``; raises ImportError without TensorRT-RTX."""
    import tensorrt_rtx  # type: ignore[import-untyped,unused-ignore]

    logger = collector(tensorrt_rtx)
    builder = tensorrt_rtx.Builder(logger)
    network = builder.create_network(0)
    parser = tensorrt_rtx.OnnxParser(network, logger)
    if not parser.parse(content):
        return {"refused": plain(parser.get_error(0).desc())}
    warnings = [PLACES.sub("", message.text) for message in logger.messages if message.severity == "WARNING"]
    engine = builder.build_serialized_network(network, _config(tensorrt_rtx, builder, network))
    return {
        "layers": network.num_layers,
        "builds": engine is not None,
        "warnings": [warning for warning in dict.fromkeys(warnings) if NOT_OF_THE_FILE not in warning],
    }


def _config(api: Any, builder: Any, network: Any) -> Any:
    """Batches from 1 to ``MOST``, for one kind of GPU that need not be here."""
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for place in range(network.num_inputs):
        spec = network.get_input(place)
        sample = tuple(spec.shape)[1:]
        profile.set_shape(spec.name, (1, *sample), (MOST, *sample), (MOST, *sample))
    config.add_optimization_profile(profile)
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(api.ComputeCapability, GPU), 0)
    return config
