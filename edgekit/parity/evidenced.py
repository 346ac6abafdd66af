"""A bundle with all that its files say of themselves, which claims of its manifest are held against."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from edgekit.bundle.evidence import EvidenceArrays
from edgekit.bundle.folder import Bundle
from edgekit.bundle.golden import GoldenArrays
from edgekit.bundle.manifest import Manifest
from edgekit.onnx.declared import Declared, declared
from edgekit.reports.verify import Check


class Evidenced(NamedTuple):
    """A bundle with its arrays, and what its files say of themselves; each read once.

    ``declared`` is the first file; ``others``: name of a further variant -> its file.
    """

    bundle: Bundle
    golden: GoldenArrays
    arrays: EvidenceArrays | None
    declared: Declared
    others: Mapping[str, Declared] = {}

    def told_by_each(self, code: str, problem: Callable[[Declared], str]) -> Iterator[Check]:
        """A check for the file of each variant; a problem of a further one begins with its name."""
        yield told(code, problem(self.declared))
        for name, file in self.others.items():
            text = problem(file)
            yield told(code, f"{name}: {text}" if text else "")

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self.bundle.manifest


def evidenced(bundle: Bundle, golden: GoldenArrays, arrays: EvidenceArrays | None) -> Evidenced:
    """Read the variants' files; raises BundleError for what is no ONNX file."""
    first, *others = (variant.name for variant in bundle.manifest.variants)
    files = {name: bundle.read_of(name, declared) for name in others}
    return Evidenced(bundle, golden, arrays, bundle.read_of(first, declared), files)


def told(code: str, problem: str) -> Check:
    """The check of a claim; ``problem`` says what contradicts it, and is empty if nothing does."""
    return Check(code, "fail" if problem else "pass", problem)
