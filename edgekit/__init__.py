"""edgekit: train, fold, export, verify and time vision models, and ship bundles that prove themselves.

Every command is a function of this package, which returns the report that the command line prints; ``bisect`` is ``verify
--bisect``, ``fetch_data`` is ``data fetch``, ``cached_data`` is ``data cache``, and ``list_models`` is ``models``::

    from edgekit import bench, verify

    assert verify("exported/lenet").passed
    report = bench("exported/lenet", ["ort-cpu threads=1"])

Importing this package imports nothing heavy: each verb's module is imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from edgekit.machine.user import ensure_user_name
from edgekit.version import __version__

if TYPE_CHECKING:
    from edgekit.commands.bench import bench
    from edgekit.commands.bisect import bisect
    from edgekit.commands.build import build
    from edgekit.commands.data import cache as cached_data
    from edgekit.commands.data import fetch as fetch_data
    from edgekit.commands.diff import diff
    from edgekit.commands.doctor import doctor
    from edgekit.commands.evaluate import Bars, evaluate
    from edgekit.commands.export import export
    from edgekit.commands.inspect import inspect
    from edgekit.commands.models import models as list_models
    from edgekit.commands.predict import predict
    from edgekit.commands.quantize import quantize
    from edgekit.commands.report import report
    from edgekit.commands.run import run
    from edgekit.commands.runs import runs
    from edgekit.commands.train import train
    from edgekit.commands.tune import Goal, tune
    from edgekit.commands.verify import verify
    from edgekit.latency.loop import Timing
    from edgekit.setups import Setup
    from edgekit.sources import ExportOptions
    from edgekit.tolerance import Tolerance, ToleranceChange
    from edgekit.variants import Wanted

_HOMES = {
    **{verb: f"edgekit.commands.{verb}" for verb in (
        "bench", "bisect", "build", "diff", "doctor", "evaluate", "export", "inspect", "predict", "quantize", "report", "run",
        "runs", "train", "tune", "verify",
    )},
    "cached_data": "edgekit.commands.data:cache",
    "fetch_data": "edgekit.commands.data:fetch",
    "list_models": "edgekit.commands.models:models",
    "Bars": "edgekit.commands.evaluate",
    "ExportOptions": "edgekit.sources",
    "Goal": "edgekit.commands.tune",
    "Setup": "edgekit.setups",
    "Timing": "edgekit.latency.loop",
    "Tolerance": "edgekit.tolerance",
    "ToleranceChange": "edgekit.tolerance",
    "Wanted": "edgekit.variants",
}  # fmt: skip
__all__ = [
    "__version__", "Bars", "ExportOptions", "Goal", "Setup", "Timing", "Tolerance", "ToleranceChange", "Wanted",
    "bench", "bisect", "build", "cached_data", "diff", "doctor", "evaluate", "export", "fetch_data", "inspect", "list_models",
    "predict", "quantize", "report", "run", "runs", "train", "tune", "verify",
]  # fmt: skip


ensure_user_name()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgekit' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    return getattr(importlib.import_module(module), attribute or name)


def __dir__() -> list[str]:
    return sorted((*globals(), *__all__))
