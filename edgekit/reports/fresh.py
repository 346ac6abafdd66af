"""What one fresh process measured of one setup: a piece of the reports that compare processes."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from edgekit.reports.base import Part


class Fresh(Part, frozen=True):
    """One setup, timed in a process that was started for it; its parts come in this order, and each has a boundary of its own.

    ``load_ms``: from the checked bundle to the open session. Importing the runtime is in it, and so is building an engine or a
    blob; checking the bundle's files is not. ``first_calls_ms``: the first calls at the boundary, at most twenty, in order.
    ``median_ms``: of the ``calls`` that were recorded after that and after the warm-up of ``edgekit bench``.
    ``samples_ms``: those calls in order, at most 5,000: every k-th of more.

    ``memory_load_bytes``: resident memory that loading added, the runtime's own libraries too. ``memory_peak_bytes``: the most
    that the process had resident while it loaded and ran, Python and edgekit too; None where the system does not tell. Both are
    the host's memory, and count this process alone. ``gpu_memory_bytes``: what the GPU's memory holds more after the timing than
    before loading, by whomever; None without a GPU, or for a backend that does not use it.
    """

    batch: int
    boundary: str
    median_ms: float
    calls: int
    samples_ms: tuple[float, ...]
    load_ms: float
    first_calls_ms: Annotated[tuple[float, ...], Meta(min_length=1)]
    memory_load_bytes: int
    memory_peak_bytes: int | None
    noise: str
    facts: dict[str, str]
    gpu_memory_bytes: int | None = None

    @property
    def first_ms(self) -> float:
        """The first inference."""
        return self.first_calls_ms[0]
