"""Setup: one way to run a bundle. Absence: why something cannot be used on this machine."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from edgekit.errors import BrokenError, MissingError, UsageError
from edgekit.numerals import whole
from edgekit.tensors import LARGEST_BATCH, whole_numbers

EVERY = "every"
"""Stands in place of a backend's name for every backend that is present on this machine."""
TUNED = "tuned"
"""Stands in place of a backend's name for what ``edgekit tune`` chose for the bundle on this machine."""
RESERVED = (EVERY, TUNED)
"""Words that no backend bears."""
MOST_THREADS = 1024


class Setup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One way to run a bundle: a backend, a variant, CPU threads, batch sizes and the backend's own options.

    ``backend`` names a row of the table of backends; ``EVERY`` stands for all of them, ``TUNED`` for the best one known.
    ``variant`` names one file of the bundle; an empty name selects the first. ``threads``: CPU threads; None uses all cores
    allowed. ``batches``: batch sizes that the session must accept. ``options``: the backend's own options, checked by the
    backend's row.

    The text form of a Setup is the value of ``--backend``: ``tensorrt variant=int8 threads=4 batches=1,8 cuda-graph``.
    """

    backend: str
    variant: str = ""
    threads: Annotated[int, Meta(ge=1, le=MOST_THREADS)] | None = None
    batches: tuple[Annotated[int, Meta(ge=1, le=LARGEST_BATCH)], ...] = ()
    options: dict[str, Any] = {}

    def __post_init__(self) -> None:
        """Raise UsageError unless names are text, and ``threads`` and ``batches`` hold whole numbers in range."""
        if not isinstance(self.backend, str) or not isinstance(self.variant, str):
            raise UsageError(
                f"a setup has the names {self.backend!r} and {self.variant!r}", "give those of a backend and a variant"
            )
        if self.threads is not None and not (isinstance(self.threads, int) and 1 <= self.threads <= MOST_THREADS):
            raise UsageError(f"{self.backend}: threads takes a whole number from 1 to {MOST_THREADS}", "write it like threads=4")
        if not all(isinstance(size, int) and 1 <= size <= LARGEST_BATCH for size in self.batches):
            raise UsageError(
                f"{self.backend}: batches takes whole numbers from 1 to {LARGEST_BATCH}", "write it like batches=1,8,32"
            )

    @classmethod
    def parse(cls, text: str) -> Setup:
        """Read the text form; raises UsageError that quotes the word at fault. The backend's row checks ``options`` later."""
        if not isinstance(text, str):
            raise UsageError(f"a backend was given as {text!r}", "give a Setup, or text like 'ort-cpu threads=4'")
        try:
            words = shlex.split(text)
        except ValueError as problem:
            raise UsageError(f"backend {text!r} cannot be read: {problem}; write it like 'ort-cpu threads=4'") from None
        if not words:
            raise UsageError("a backend has no name; write it like 'ort-cpu threads=4'")
        options: dict[str, Any] = {}
        for word in words[1:]:
            key, equals, value = word.partition("=")
            key = key.replace("-", "_")
            if not key.isidentifier() or key in options:
                raise UsageError(
                    f"backend {text!r}: {word!r} is not an option, or repeats one",
                    "write each option once, like threads=4 or cuda-graph",
                )
            options[key] = value if equals else True
        own: dict[str, Any] = {key: _READERS[key](text, options.pop(key)) for key in tuple(options) if key in _READERS}
        return cls(words[0], options=options, **own)

    def __str__(self) -> str:
        return " ".join(self.words())

    def __hash__(self) -> int:
        return hash(str(self))

    def words(self) -> tuple[str, ...]:
        """The words of the text form, the backend's name first; ``parse`` reads them back."""
        own = {
            "variant": self.variant or None,
            "threads": self.threads,
            "batches": ",".join(map(str, self.batches)) or None,
        }
        values = {**own, **dict(sorted(self.options.items()))}
        return (self.backend, *(_word(key, value) for key, value in values.items() if value is not None))


class Absence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why something cannot be used on this machine, and the remedy; ``broken``: it is installed but does not start."""

    reason: str
    remedy: str
    broken: bool = False

    def __str__(self) -> str:
        return f"{self.reason}; {self.remedy}" if self.remedy else self.reason

    def error(self, prefix: str = "") -> MissingError:
        """The exception for this absence; ``prefix`` starts the message with what cannot be done."""
        return (BrokenError if self.broken else MissingError)(f"{prefix}{self.reason}", self.remedy)


def filled(setup: Setup, variant: str | None = None, threads: int | None = None) -> Setup:
    """``setup`` with ``variant`` and ``threads`` filled in where the setup leaves them open."""
    return msgspec.structs.replace(setup, variant=setup.variant or variant or "", threads=setup.threads or threads)


def taking(setup: Setup, batches: Sequence[int]) -> Setup:
    """``setup`` with ``batches`` added to the batch sizes that its session must accept."""
    return msgspec.structs.replace(setup, batches=tuple(dict.fromkeys((*setup.batches, *batches))))


def as_setups(backends: Setup | str | Iterable[Setup | str]) -> tuple[Setup, ...]:
    """The Setups of one backend or several, each a Setup or its text form; ``EVERY`` for an empty list."""
    if isinstance(backends, Iterable) and not isinstance(backends, str):
        return tuple(map(as_setup, tuple(backends) or (EVERY,)))
    return (as_setup(backends),)


def as_setup(given: Setup | str) -> Setup:
    """A Setup, or the one that its text form means; raises UsageError for what is neither."""
    return given if isinstance(given, Setup) else Setup.parse(given)


def labels(setups: Sequence[Setup]) -> tuple[str, ...]:
    """The shortest labels that tell ``setups`` apart: the backend, plus the words in which setups of one backend differ."""
    backends = [setup.backend for setup in setups]
    named = []
    for setup in setups:
        namesakes = [set(other.words()) for other in setups if other.backend == setup.backend]
        shared = set.intersection(*namesakes) if backends.count(setup.backend) > 1 else set(setup.words())
        named.append(" ".join((setup.backend, *(word for word in setup.words()[1:] if word not in shared))))
    return tuple(named)


def shared_variant(setups: Iterable[Setup]) -> str:
    """`` (float32)`` for a title if all setups run one variant; otherwise empty, and ``labels`` name the variants."""
    variants = {setup.variant for setup in setups} - {""}
    return f" ({variants.pop()})" if len(variants) == 1 else ""


def _word(key: str, value: Any) -> str:
    name = key.replace("_", "-")
    if value is True:
        return name
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"{name}={shlex.quote(','.join(map(str, value)) if isinstance(value, (list, tuple)) else text)}"


def _read_variant(text: str, value: Any) -> str:
    if value is True or not value:
        raise UsageError(f"backend {text!r}: variant takes a name; write it like variant=float16")
    return str(value)


def _read_threads(text: str, value: Any) -> int:
    threads = None if value is True else whole(value, 4)
    if threads is None:
        raise UsageError(f"backend {text!r}: threads takes a whole number from 1 to {MOST_THREADS}", "write it like threads=4")
    return threads


def _read_batches(text: str, value: Any) -> tuple[int, ...]:
    sizes = None if value is True else whole_numbers(value.split(","))
    if sizes is None:
        raise UsageError(f"backend {text!r}: batches takes whole numbers", "write it like batches=1,8,32")
    return tuple(dict.fromkeys(sizes))


_READERS = {"variant": _read_variant, "threads": _read_threads, "batches": _read_batches}
OWN_WORDS = tuple(_READERS)
"""The options in every backend's text form, beside the backend's own."""
