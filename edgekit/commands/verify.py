"""``edgekit verify``: compare every backend present with the recorded float64 outputs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from edgekit.backends import row_of
from edgekit.backends.choose import choose, open_named
from edgekit.bundle.folder import open_bundle
from edgekit.parity.run import parity
from edgekit.progress import SILENT, Progress
from edgekit.reports.verify import VerifyReport
from edgekit.setups import Setup, labels, taking
from edgekit.tolerance import Tolerance, ToleranceChange

AS_RECORDED = ToleranceChange()


def verify(
    bundle: Path | str,
    setups: Setup | str | Iterable[Setup | str] = (),
    *,
    tolerance: Tolerance | ToleranceChange = AS_RECORDED,
    progress: Progress = SILENT,
) -> VerifyReport:
    """Check a bundle against its recorded float64 outputs, on every backend present or by ``setups``.

    A setup may be text in the form of ``--backend``. Each variant must keep to its own allowance, unless ``tolerance`` changes
    the allowance. Raises BundleError for a damaged bundle, and MissingError for a setup that cannot run on this machine.
    """
    opened = open_bundle(Path(bundle))
    choice = choose(opened, setups)
    golden, reference = opened.golden(), opened.manifest.golden.reference
    parities = []
    with progress.task("verifying", len(choice.setups)) as advance:
        for name, setup in zip(labels(choice.setups), choice.setups, strict=True):
            variant = opened.variant(setup.variant)
            with open_named(name, _taking(setup, opened.manifest.golden.samples), opened, progress) as ready:
                parities.append(parity(ready, golden, tolerance.of(variant.allowance.tolerance), reference))
            advance(1, name)
    digest = opened.sha256_of(choice.setups[0].variant)
    return VerifyReport(str(opened.root), digest, tuple(parities), choice.skipped, opened.notes)


def _taking(setup: Setup, samples: int) -> Setup:
    """The setup with verification's batch sizes; a backend with ranges keeps its own, so that the shipped engine is verified."""
    return setup if row_of(setup.backend).in_ranges else taking(setup, (1, samples))
