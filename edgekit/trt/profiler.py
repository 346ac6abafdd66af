"""TensorRT's own clock for each layer."""

from __future__ import annotations

from typing import Any


def layer_profiler(api: Any) -> Any:
    """An object for ``context.profiler``: ``calls`` holds, of each call, the milliseconds of each layer.

    Whoever runs the engine puts a new dict at the end of ``calls`` before each call.
    """

    class Profiler(api.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            api.IProfiler.__init__(self)
            self.calls: list[dict[str, float]] = []

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            if self.calls:
                self.calls[-1][layer_name] = self.calls[-1].get(layer_name, 0.0) + ms

    return Profiler()
