"""Whether a picture that is decoded has frames behind its first, told to who decodes it: its file is open then anyway."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

VIEWS = ("MPO",)
"""Formats whose further frames are previews and views of the first, and neither an animation's nor pages."""


class Frames:
    """Whether a picture with ``several`` frames has been decoded, of which the first counts."""

    def __init__(self) -> None:
        self.several = False


_watched: ContextVar[Frames | None] = ContextVar("_watched", default=None)


@contextmanager
def watched_frames() -> Iterator[Frames]:
    """Yield what the pictures tell of their frames that this thread decodes inside."""
    frames = Frames()
    token = _watched.set(frames)
    try:
        yield frames
    finally:
        _watched.reset(token)


def tell_frames(opened: Any) -> None:
    """Tell whoever watches of the frames of a picture, once its pixels are loaded: Pillow may go on to the second to find out."""
    frames = _watched.get()
    if frames is not None and opened.format not in VIEWS:
        with suppress(Exception):  # decoders raise whatever a damaged second frame makes them trip over
            frames.several |= bool(getattr(opened, "is_animated", False))
