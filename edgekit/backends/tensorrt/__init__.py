"""TensorRT in every flavour: one table of their differences, and code that asks the table instead of the version.

Nothing here imports TensorRT; ``flavour.find`` does, when an engine is asked for. By convention a name stands for one kind of
TensorRT object everywhere (``api`` the module, ``builder``, ``network``, ``config``, ...): tests/test_trt_contract.py reads the
code by these names and holds every attribute against the listings of each flavour.
"""
