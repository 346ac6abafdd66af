"""Silence what libraries print, log and warn about their own insides, unless the user asks for it with ``--debug``."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from contextvars import ContextVar

_TALKATIVE = ("torch", "torch.onnx", "onnxscript", "onnx_ir")
_shown: ContextVar[bool] = ContextVar("shown", default=False)


@contextlib.contextmanager
def listings(shown: bool) -> Iterator[None]:
    """While the context is open, silence nothing where ``shown``, and otherwise the warnings of PyTorch's own lines too."""
    before = _shown.set(shown)
    try:
        with warnings.catch_warnings():
            if not shown:
                warnings.filterwarnings("ignore", module=r"torch(\.|$)")
            yield
    finally:
        _shown.reset(before)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence PyTorch and its exporter: warnings, loggers with their handlers, stdout and stderr of Python."""
    if _shown.get():
        yield
        return
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    talkers: list[logging.Logger | logging.Handler] = [*loggers, *(handler for logger in loggers for handler in logger.handlers)]
    levels = [talker.level for talker in talkers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        for talker in talkers:
            talker.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            for talker, level in zip(talkers, levels, strict=True):
                talker.setLevel(level)
