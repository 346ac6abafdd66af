"""Every error edgekit raises on purpose.

EdgekitError
├── UsageError      the command line asks for something contradictory
├── InputError      a file or value that was given is wrong
│   ├── RecipeError     a recipe
│   ├── DataError       a dataset or a picture
│   ├── ModelError      a model, its weights, or what it was fed
│   └── BundleError     a bundle, or an ONNX file
├── EngineError     TensorRT refuses a network, cannot build it, or an engine does not fit
│   └── StaleEngineError  an engine does not load, or is of other tensors: it wants building again
├── OutputError     a result cannot be written
├── MissingError    this machine lacks a package, a device or a driver
│   ├── BrokenError     what is there does not start
│   └── FallbackError   a runtime quietly used something other than what was asked for
└── Interrupted     the user stopped the work

A message is one sentence: what was wrong, where, and what to do. The command line prints it and exits with 2.
"""

from __future__ import annotations


class EdgekitError(Exception):
    """The root: catch this to catch everything edgekit raises on purpose.

    ``reason`` is what was wrong and where; ``remedy``, where it is known apart from the reason, what to do. The message is both.
    """

    def __init__(self, reason: str = "", remedy: str = "") -> None:
        super().__init__(f"{reason}; {remedy}" if remedy else reason)
        self.reason, self.remedy = reason, remedy


class UsageError(EdgekitError):
    """The command line asks for something contradictory."""


class InputError(EdgekitError):
    """A file or value that was given is wrong."""


class RecipeError(InputError):
    """A recipe cannot be read, or says something impossible."""


class DataError(InputError):
    """A dataset or a picture is missing, damaged or of the wrong shape."""


class ModelError(InputError, ValueError):
    """A model cannot be found or built, or was fed something it does not take."""


class BundleError(InputError):
    """A bundle or an ONNX file is missing, damaged or not what its manifest says."""


class EngineError(EdgekitError):
    """TensorRT refuses a network, cannot build an engine of it, or an engine does not fit what it is asked for."""


class StaleEngineError(EngineError):
    """An engine does not load here, or is not of the file's tensors; building it again may mend that."""


class OutputError(EdgekitError):
    """A result cannot be written where it was asked for."""


class MissingError(EdgekitError):
    """Something is not on this machine: a package, a device or a driver."""


class BrokenError(MissingError):
    """Something is on this machine, and yet does not start."""


class FallbackError(MissingError):
    """A runtime quietly used something other than what was asked for."""


class Interrupted(EdgekitError):
    """The user stopped the work; what was done is kept. The command line exits with 130, as shells expect."""


def first_line(problem: BaseException) -> str:
    """The first line that says something of another library's error, or the error's type: what fits into a sentence."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return lines[0] if lines else type(problem).__name__


BROKEN = (Exception, SystemExit)
"""What importing a package may raise: a library is missing, the package is half there, or it leaves by itself."""


def printable(text: str) -> str:
    """A name of bytes that are no valid text, with these written out: what can be encoded."""
    return text.encode("utf-8", "backslashreplace").decode()
