"""The reference network that edgekit ships: what has not changed must not have moved, or two days cannot be compared.

``network/`` is a bundle, written once by ``benchmarks/reference_network.py`` and frozen: with another file in its place no
earlier report could be compared with. It takes about a millisecond on one core.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from edgekit.backends import absence
from edgekit.bundle.folder import open_bundle
from edgekit.latency.turns import Thing
from edgekit.setups import Setup

NETWORK = Path(__file__).parent / "network"
BATCH, BOUNDARY = 1, "end-to-end"


def control_of(setup: Setup) -> Setup:
    """How the reference network runs to stand for ``setup``: in the runtime and on the device of its backend, by its threads.

    Its variant and options are those of its own bundle.
    """
    return Setup(setup.backend, threads=setup.threads)


def controls_of(setups: Iterable[Setup]) -> tuple[Thing, ...]:
    """The reference network for each of ``setups``, once; none for a backend that cannot run it: no other can stand for that."""
    files = open_bundle(NETWORK).files()
    wanted = dict.fromkeys(map(control_of, setups))
    able = [setup for setup in wanted if absence(setup, files) is None]
    return tuple(Thing(f"reference network on {setup}", NETWORK, setup, BATCH, BOUNDARY) for setup in able)
