"""``edgekit verify``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from edgekit.backends import RUNTIMES, open_backend
from edgekit.backends.choose import check_graph, choose, flavour_asked, model_files
from edgekit.backends.contract import Backend
from edgekit.bundle.folder import Bundle, open_bundle
from edgekit.parity.run import FILE_ITSELF, FILE_REFERENCE, REFERENCE, parity
from edgekit.progress import SILENT, Progress
from edgekit.reports.base import Skipped
from edgekit.reports.verify import VerifyReport
from edgekit.tolerance import Tolerance


def verify_bundle(
    root: Path | str,
    *,
    backends: Sequence[str] = (),
    tolerance: Tolerance | None = None,
    source: str | None = None,
    cuda_graph: bool = False,
    flavour: str | None = None,
    engine: Path | None = None,
    progress: Progress = SILENT,
) -> VerifyReport:
    """Every runtime present, or just ``backends``, against the golden outputs; ``source`` names the PyTorch side.

    ``cuda_graph`` is how TensorRT runs; ``flavour`` which of it, where more than one is installed; ``engine`` a plan that
    ``build_bundle`` wrote.
    """
    from edgekit.commands.verify import verify

    bundle = open_bundle(Path(root))
    files = model_files(bundle, source)
    flavour = flavour_asked(flavour, engine)
    kinds, skipped = choose(files, backends, flavour)
    check_graph(cuda_graph, kinds)
    samples = bundle.manifest.golden.samples

    def open_one(kind: str) -> Backend:
        # the engine that is verified is the one that is built, timed and shipped: in the batches it takes
        batches = () if RUNTIMES[kind].in_ranges else (1, samples)
        return open_backend(
            kind, files, batches=batches, cuda_graph=cuda_graph, flavour=flavour, engine=engine, progress=progress
        )

    return verify(bundle, open_one, kinds, skipped, tolerance=tolerance, progress=progress)


def verify(
    bundle: Bundle,
    open_one: Callable[[str], Backend],
    kinds: Sequence[str],
    skipped: Sequence[Skipped] = (),
    *,
    tolerance: Tolerance | None = None,
    progress: Progress = SILENT,
) -> VerifyReport:
    """Run every runtime in ``kinds`` on the golden inputs and compare_output; ``tolerance`` is the manifest's unless given."""
    golden = bundle.golden()
    allowed = tolerance or bundle.variant.tolerance
    reference = FILE_REFERENCE if bundle.manifest.source.model.endswith(".onnx") else REFERENCE
    reference = FILE_ITSELF if bundle.manifest.golden.float32_error is None else reference
    parities = []
    with progress.task("verifying", len(kinds)) as advance:
        for kind in kinds:
            with open_one(kind) as backend:
                parities.append(parity(backend, golden, allowed, reference))
            advance(1, kind)
    return VerifyReport(str(bundle.root), bundle.onnx_sha256, tuple(parities), tuple(skipped))
