"""Picture files into one array, by several threads, in an order that does not depend on them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgekit.data.listing import Picture
from edgekit.decoding import CHANNELS, Color, decoder
from edgekit.decoding.frames import watched_frames
from edgekit.errors import DataError
from edgekit.machine.cpu import cores
from edgekit.progress import Progress

AHEAD = 4
"""Each thread is as many pictures ahead of whoever takes them, at most: what is decoded waits in memory."""
_Given = TypeVar("_Given")
_Made = TypeVar("_Made")


class Decoding(NamedTuple):
    """How pictures become arrays; ``size`` is (height, width), ``white`` as of ``edgekit.decoding.decoded``."""

    color: Color
    size: tuple[int, int]
    white: float | None = None
    skip_bad: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of every picture."""
        return (CHANNELS[self.color], *self.size)

    @property
    def picture_bytes(self) -> int:
        """The bytes of one decoded picture."""
        return int(np.prod(self.shape))


class Bad(NamedTuple):
    """A picture that cannot be decoded: its place among those that were asked for, and why."""

    place: int
    reason: str


class Decoded(NamedTuple):
    """``images`` uint8 N x C x H x W, of the good pictures alone and in their order.

    ``several`` are the places of those with several frames, among the pictures that were asked for.
    """

    images: NDArray[np.uint8]
    bad: tuple[Bad, ...]
    several: tuple[int, ...]


def decode(pictures: Sequence[Picture], decoding: Decoding, name: str, progress: Progress) -> Decoded:
    """Decode ``pictures`` into memory; a bar calls them ``name``."""
    images = np.empty((len(pictures), *decoding.shape), np.uint8)
    good, bad, several = 0, [], list[int]()
    for result in decode_each(pictures, decoding, name, progress, several):
        if isinstance(result, Bad):
            bad.append(result)
        else:
            images[good] = result
            good += 1
    return Decoded(images[:good], tuple(bad), tuple(several))


def decode_each(
    pictures: Sequence[Picture], decoding: Decoding, name: str, progress: Progress, several: list[int]
) -> Generator[NDArray[np.uint8] | Bad, None, None]:
    """uint8 C x H x W of each picture, or why there is none, in the order of ``pictures``, under a bar.

    The places of those with several frames are added to ``several``.
    """
    with (
        progress.task(f"decoding {name} pictures", len(pictures)) as advance,
        decoder(decoding.color, decoding.size, decoding.white) as decode_file,
    ):

        def result(place: int) -> tuple[NDArray[np.uint8] | Bad, bool]:
            try:
                with watched_frames() as frames:
                    return decode_file(pictures[place].path), frames.several
            except DataError as problem:
                return Bad(place, problem.reason), False

        for place, (decoded, has_several) in enumerate(_in_order(result, range(len(pictures)), cores())):
            several += [place] * has_several
            yield decoded
            advance(1, pictures[place].path.parent.name)


def _in_order(function: Callable[[_Given], _Made], given: Iterable[_Given], threads: int) -> Iterator[_Made]:
    """``function`` of each, worked on by ``threads`` threads (Pillow decodes without Python's lock)."""
    waiting: deque[Future[_Made]] = deque()
    with ThreadPoolExecutor(threads, "decode") as pool:
        try:
            for each in given:
                waiting.append(pool.submit(function, each))
                if len(waiting) > AHEAD * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # Ctrl-C waits for what has begun alone
            for future in waiting:
                future.cancel()
