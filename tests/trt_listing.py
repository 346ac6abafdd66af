"""The listings in tests/trt_api: every class, method and enum member of each flavour, read off the real bindings."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from edgekit.backends.tensorrt.flavour import Flavour, flavour_of

FOLDER = Path(__file__).parent / "trt_api"
RELEASES = (("tensorrt", "8.6.0"), ("tensorrt", "10.16.1"), ("tensorrt", "11.4.0"), ("tensorrt_rtx", "1.7.1"))


class Listing(NamedTuple):
    """``enums``: name -> members in order; ``classes``: name -> attribute -> signature; ``bases``: name -> base class."""

    module: str
    version: str
    enums: dict[str, list[str]]
    classes: dict[str, dict[str, str]]
    bases: dict[str, str]
    functions: set[str]

    @property
    def flavour(self) -> Flavour:
        found = flavour_of(self.module.replace("_", "-"), self.version)
        assert found is not None
        return found

    def has(self, kind: str, member: str = "") -> bool:
        """Whether there is a class, enum or function ``kind``, with the attribute or member ``member``."""
        if not member:
            return kind in self.enums or kind in self.classes or kind in self.functions
        return member in self.enums.get(kind, ()) or member in self.members(kind)

    def members(self, kind: str) -> dict[str, str]:
        """Attributes of a class and of those it derives from."""
        return {**(self.members(self.bases[kind]) if kind in self.bases else {}), **self.classes.get(kind, {})}

    def returned(self, kind: str, method: str) -> str:
        """The class that a method gives, where its signature tells one of TensorRT's."""
        found = re.search(r"-> [\w.]*\.(\w+)$", self.members(kind).get(method, ""))
        return found[1] if found and found[1] in self.classes else ""


@cache
def listing(module: str, version: str) -> Listing:
    filled = Listing(module, version, {}, {}, {}, set())
    for line in (FOLDER / f"{module}-{version}.txt").read_text(encoding="utf-8").splitlines():
        if found := re.match(r"ENUM (\w+): (.*)", line):
            filled.enums[found[1]] = found[2].split(", ")
        elif found := re.match(r"CLASS (\w+)\((\w+)\)", line):
            filled.classes[found[1]], filled.bases[found[1]] = {}, found[2]
        elif found := re.match(r"FUNC (\w+)", line):
            filled.functions.add(found[1])
        elif found := re.match(r"  (\w+)\.(\w+) (?:def|prop)(?: \[ro\])?(?: \| (.*))?", line):
            filled.classes.setdefault(found[1], {})[found[2]] = (found[3] or "").strip()
    return filled


LISTINGS = tuple(listing(*release) for release in RELEASES)


TEN = next(listed for listed in LISTINGS if listed.version.startswith("10."))
EIGHT = next(listed for listed in LISTINGS if listed.version.startswith("8."))
