"""What TensorRT says when it fails: None, False or -1, and lines in a log. Here they become one sentence."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from edgekit.backends.tensorrt.flavour import TensorRT
from edgekit.errors import EngineError, first_line

Answer = TypeVar("Answer")

LOUD = ("INTERNAL_ERROR", "ERROR", "WARNING")
NO_OPERATOR = "no such operator"
SILENT = "it does not say why"
REPORT = "run the bundle with ort-cpu, and report it if that works"

REMEDIES = (
    ("optimization profile", "give the batch sizes to build for, like --batch 1:8:32"),
    ("workspace", "give it more with --workspace"),
    ("out of memory", "free some of the GPU's memory, or give less with --workspace"),
    ("zero point", "quantise symmetrically, with zero points of 0"),
    ("parse the ONNX model", "export it again"),
    (NO_OPERATOR, "export the model without it, or run the bundle with ort-cpu"),
    ("not supported", "export the model without it, or run the bundle with ort-cpu"),
)


class Message(NamedTuple):
    """One line of the log."""

    severity: str
    text: str


class BadNode(NamedTuple):
    """A node that the parser refuses; name and operator are empty where it is the file as a whole."""

    name: str
    operator: str
    reason: str


def collector(api: Any) -> Any:
    """A logger that keeps warnings and errors in ``messages`` and prints nothing."""

    class Collector(api.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            api.ILogger.__init__(self)
            self.messages: list[Message] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity.name in LOUD:
                self.messages.append(Message(severity.name, msg))

    return Collector()


def failure(trt: TensorRT, action: str, messages: Sequence[Message], otherwise: str = SILENT) -> EngineError:
    """The error for a call that gave None, False or -1: ``what`` it could not do, its first reason and the remedy."""
    reason = reason_of(messages, otherwise)
    return EngineError(f"{trt} cannot {action}: {reason}", remedy_for(reason))


@contextmanager
def asking(trt: TensorRT, action: str, logger: Any) -> Iterator[Callable[[Answer], Answer]]:
    """Around calls that TensorRT may refuse: raises EngineError that says ``what`` was, where its bindings raise.

    What it yields passes an answer on, or raises the same for None, False and a negative number.
    """

    def granted(answer: Answer) -> Answer:
        if answer is None or answer is False or (isinstance(answer, int) and answer < 0):
            raise failure(trt, action, logger.messages)
        return answer

    try:
        yield granted
    except (RuntimeError, TypeError, ValueError) as problem:
        raise failure(trt, action, logger.messages, first_line(problem)) from problem


def reason_of(messages: Sequence[Message], otherwise: str = SILENT) -> str:
    """The first error in the log that tells something, made plain; where there is none, ``otherwise``."""
    errors = [message.text for message in messages if message.severity != "WARNING"]
    # without a driver every call also complains of that, which is not why it failed
    telling = [text for text in errors if "catchCudaError" not in text] or errors
    return plain(telling[0] if telling else otherwise)


def refusal(trt: TensorRT, path: Path, nodes: Sequence[BadNode], opset: int = 0) -> EngineError:
    """The error for a file of this opset that the parser refuses: every node at fault, sorted by operator and reason.

    Where the parser knows only older opsets, what it says of the nodes follows from that: it reads a newer operator by old rules.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for node in nodes:
        groups.setdefault((node.operator, node.reason), []).append(node.name)
    faults = [
        f"{operator} ({', '.join(name or 'without a name' for name in names)}): {reason}" if operator else reason
        for (operator, reason), names in groups.items()
    ]
    remedies = dict.fromkeys(remedy_for(node.reason) for node in nodes)
    newest = trt.flavour.opset
    if newest is not None and opset > newest:
        reason = f"{trt} refuses {path}: it reads ONNX up to opset {newest}, and the file has opset {opset}"
        remedy = "convert the file to that opset (onnx.version_converter), use a newer TensorRT, or run the bundle with ort-cpu"
        return EngineError(f"{reason}: {', '.join(faults)}", remedy)
    return EngineError(f"{trt} refuses {path}: {', '.join(faults)}", ", ".join(remedies))


def remedy_for(reason: str) -> str:
    """The remedy for a reason, or to report the reason where none is known."""
    remedies = (remedy for clue, remedy in REMEDIES if clue.lower() in reason.lower())
    return next(remedies, REPORT)


def plain(text: str) -> str:
    """An error line without the places in NVIDIA's sources where it arose."""
    text = re.sub(r"(?<=.)\s*\[checkMacros\.cpp::catchCudaError.*$", "", " ".join(text.split()))
    inner = re.search(r"Error Code \d+: [^(]*\((.*)\)$", text)
    text = re.sub(r"\s*\.?\s+In \w+ at \S+$", "", inner[1] if inner else text)
    text = re.sub(r"\[[\w./]+:\d+: \w+\] ?", "", text)
    asserted = re.search(r"Assertion failed: .*?: (.+)$", text)
    text = asserted[1] if asserted else text
    if "Plugin not found" in text:
        return NO_OPERATOR
    return "not supported" if text == "false" else text.rstrip(".;")
