"""The reference network that edgekit ships: what has not changed must not have moved, or two days cannot be compared.

``network/`` is a bundle, written once by ``benchmarks/reference_network.py`` and frozen: with another file in its place no
earlier report could be compared with. It takes about a millisecond on one core.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from edgekit.backends import USUAL_BACKEND, absence
from edgekit.bundle.folder import open_bundle
from edgekit.latency.turns import Thing
from edgekit.setups import Setup

NETWORK = Path(__file__).parent / "network"
BATCH, BOUNDARY = 1, "end-to-end"


def controls_of(setups: Iterable[Setup]) -> tuple[Thing, ...]:
    """The reference network on each backend and thread count of ``setups``; on the usual backend where theirs cannot run it."""
    files = open_bundle(NETWORK).files()
    wanted = [Setup(setup.backend, threads=setup.threads) for setup in setups]
    usual = [Setup(USUAL_BACKEND, threads=setup.threads) for setup in wanted[:1]]
    able = [setup for setup in wanted if absence(setup, files) is None] or [
        setup for setup in usual if absence(setup, files) is None
    ]
    return tuple(Thing(f"reference network on {setup}", NETWORK, setup, BATCH, BOUNDARY) for setup in dict.fromkeys(able))
