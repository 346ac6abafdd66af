"""Every error edgekit raises on purpose.

EdgekitError
├── UsageError      the command line asks for something contradictory
├── InputError      a file or a value from the user is wrong
│   ├── RecipeError     a recipe
│   ├── DataError       a dataset or a picture
│   ├── ModelError      a model, its weights or its inputs
│   └── BundleError     a bundle, or an ONNX file
│       └── TooLargeError   running a bundle takes more memory than it may
├── EngineError     TensorRT refuses a network, cannot build it, or an engine does not fit
│   └── StaleEngineError  an engine does not load, or has other tensors than its file; rebuild the engine
├── OutputError     a result cannot be written
├── MissingError    this machine lacks a package, a device or a driver
│   ├── BrokenError     an installed package, device or driver does not start
│   └── FallbackError   a runtime silently used another device or provider than requested
├── LostError       a process of a training on several has ended, or cannot be reached
└── Interrupted     the user stopped the work

A message is one sentence: what was wrong, where, and what to do. The command line prints it and exits with 2.
"""

from __future__ import annotations


class EdgekitError(Exception):
    """The root: catch this to catch everything edgekit raises on purpose.

    ``reason`` says what is wrong and where; ``remedy`` says what to do, and may be empty. The message joins both.
    """

    def __init__(self, reason: str = "", remedy: str = "") -> None:
        super().__init__(f"{reason}; {remedy}" if remedy else reason)
        self.reason, self.remedy = reason, remedy


class UsageError(EdgekitError):
    """The command line asks for something contradictory."""


class InputError(EdgekitError):
    """A file or a value from the user is wrong."""


class RecipeError(InputError):
    """A recipe cannot be read, or holds an impossible value."""


class DataError(InputError):
    """A dataset or a picture is missing, damaged or of the wrong shape."""


class ModelError(InputError, ValueError):
    """A model cannot be found or built, or does not accept its inputs."""


class BundleError(InputError):
    """A bundle or an ONNX file is missing, damaged or different from its manifest."""


class TooLargeError(BundleError):
    """Running a bundle takes more memory than its file and its tensors explain; smaller batches may take less."""


class EngineError(EdgekitError):
    """TensorRT refuses a network or cannot build its engine, or an engine does not fit the request."""


class StaleEngineError(EngineError):
    """An engine does not load on this machine, or has other tensors than its ONNX file; rebuilding the engine may help."""


class OutputError(EdgekitError):
    """A result cannot be written to the requested place."""


class MissingError(EdgekitError):
    """The machine lacks a package, a device or a driver."""


class BrokenError(MissingError):
    """A package, a device or a driver is installed but does not start."""


class FallbackError(MissingError):
    """A runtime silently used another device or provider than requested."""


class LostError(EdgekitError):
    """A process of a training on several has ended, or cannot be reached."""


class Interrupted(EdgekitError):
    """The user stopped the work; finished steps are kept. The command line exits with 130, as shells expect."""


def first_line(problem: BaseException) -> str:
    """The first non-empty line of another library's error, or the name of its type if the error has no text."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return lines[0] if lines else type(problem).__name__


FETCH_AGAIN = "get the bundle again from whoever exported it"
"""The remedy for a damaged bundle: who receives one has no source to export it from."""
BROKEN = (Exception, SystemExit)
"""Exceptions that importing a package may raise: a missing library, a half-installed package, a package that calls sys.exit."""


def printable(text: str) -> str:
    """``text`` with undecodable bytes written as escapes, so that any stream can encode it."""
    return text.encode("utf-8", "backslashreplace").decode()
