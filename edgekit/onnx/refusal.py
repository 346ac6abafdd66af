"""Why an ONNX file, or one kernel, gives no float64 value."""

from __future__ import annotations


class Inexact(Exception):
    """An ONNX file cannot be run in float64; the message says why."""


class Unhandled(Exception):
    """A kernel does not compute a node, though another may; the message says what is in the way."""
