"""edgekit: train, fold, export, verify and time vision models, and ship bundles that prove themselves.

The verbs of the command line are functions of the same name in modules of the same name:
``edgekit.train.train``, ``edgekit.fold.fold``, ``edgekit.export.export_onnx``, ``edgekit.verify.verify``,
``edgekit.bench.bench``. Importing this package imports nothing heavy.
"""

__version__ = "0.1.0"
