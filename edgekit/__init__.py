"""edgekit: train, fold, export, verify and time vision models, and ship bundles that prove themselves.

Every command is a function of this package, which returns the report that the command line prints; ``bisect`` is ``verify
--bisect``, ``against`` is ``bench --against``, ``fitness`` is ``doctor --bench``, ``fetch_data`` is ``data fetch``,
``cached_data`` is ``data cache``, ``list_models`` is ``models``, and ``ship_bundle`` is ``export`` of a bundle::

    from edgekit import bench, verify

    assert verify("exported/lenet").passed
    report = bench("exported/lenet", ["ort-cpu threads=1"])

A program that runs a bundle keeps it open::

    from edgekit import load

    with load("exported/lenet") as model:
        print(model.predict("exported/lenet/picture-0.png").label)

Importing this package imports next to nothing, not even ``typing``: each verb's module is imported on first use.
"""

from __future__ import annotations

from edgekit.machine.user import ensure_user_name
from edgekit.version import __version__

TYPE_CHECKING = False  # as type checkers know it
if TYPE_CHECKING:
    from typing import Any

    from edgekit.commands.against import Terms, against
    from edgekit.commands.bench import bench
    from edgekit.commands.bisect import bisect
    from edgekit.commands.build import build
    from edgekit.commands.data import cache as cached_data
    from edgekit.commands.data import fetch as fetch_data
    from edgekit.commands.diff import diff
    from edgekit.commands.doctor import doctor, fitness
    from edgekit.commands.evaluate import Bars, evaluate
    from edgekit.commands.export import export
    from edgekit.commands.export import ship as ship_bundle
    from edgekit.commands.inspect import inspect
    from edgekit.commands.models import models as list_models
    from edgekit.commands.pack import pack
    from edgekit.commands.predict import predict
    from edgekit.commands.quantize import quantize
    from edgekit.commands.report import report
    from edgekit.commands.run import run
    from edgekit.commands.runs import runs
    from edgekit.commands.train import train
    from edgekit.commands.tune import Goal, tune
    from edgekit.commands.unpack import unpack
    from edgekit.commands.verify import verify
    from edgekit.commands.web import web
    from edgekit.latency.loop import Timing
    from edgekit.model import Labelled, Model, load
    from edgekit.setups import Setup
    from edgekit.ship import Forms
    from edgekit.sources import ExportOptions
    from edgekit.tolerance import Tolerance, ToleranceChange
    from edgekit.variants import Wanted

_HOMES = {
    "Bars": "edgekit.commands.evaluate",
    "ExportOptions": "edgekit.sources",
    "Forms": "edgekit.ship",
    "Goal": "edgekit.commands.tune",
    "Labelled": "edgekit.model",
    "Model": "edgekit.model",
    "Setup": "edgekit.setups",
    "Terms": "edgekit.commands.against",
    "Timing": "edgekit.latency.loop",
    "Tolerance": "edgekit.tolerance",
    "ToleranceChange": "edgekit.tolerance",
    "Wanted": "edgekit.variants",
    "against": "edgekit.commands.against",
    "bench": "edgekit.commands.bench",
    "bisect": "edgekit.commands.bisect",
    "build": "edgekit.commands.build",
    "cached_data": "edgekit.commands.data:cache",
    "diff": "edgekit.commands.diff",
    "doctor": "edgekit.commands.doctor",
    "evaluate": "edgekit.commands.evaluate",
    "export": "edgekit.commands.export",
    "fetch_data": "edgekit.commands.data:fetch",
    "fitness": "edgekit.commands.doctor",
    "inspect": "edgekit.commands.inspect",
    "list_models": "edgekit.commands.models:models",
    "load": "edgekit.model",
    "pack": "edgekit.commands.pack",
    "predict": "edgekit.commands.predict",
    "quantize": "edgekit.commands.quantize",
    "report": "edgekit.commands.report",
    "run": "edgekit.commands.run",
    "runs": "edgekit.commands.runs",
    "ship_bundle": "edgekit.commands.export:ship",
    "train": "edgekit.commands.train",
    "tune": "edgekit.commands.tune",
    "unpack": "edgekit.commands.unpack",
    "verify": "edgekit.commands.verify",
    "web": "edgekit.commands.web",
}
"""Name -> its module, with the attribute after a colon where that is called otherwise there."""
__all__ = [
    "__version__",
    "Bars",
    "ExportOptions",
    "Forms",
    "Goal",
    "Labelled",
    "Model",
    "Setup",
    "Terms",
    "Timing",
    "Tolerance",
    "ToleranceChange",
    "Wanted",
    "against",
    "bench",
    "bisect",
    "build",
    "cached_data",
    "diff",
    "doctor",
    "evaluate",
    "export",
    "fetch_data",
    "fitness",
    "inspect",
    "list_models",
    "load",
    "pack",
    "predict",
    "quantize",
    "report",
    "run",
    "runs",
    "ship_bundle",
    "train",
    "tune",
    "unpack",
    "verify",
    "web",
]


ensure_user_name()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgekit' has no attribute {name!r}")
    import importlib

    module, _, attribute = _HOMES[name].partition(":")
    return getattr(importlib.import_module(module), attribute or name)


def __dir__() -> list[str]:
    return sorted((*globals(), *__all__))
