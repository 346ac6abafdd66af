"""Folds of two bundles that differ in names alone: modules, or a folded norm's class, that are called otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any, TypeAlias

import msgspec

Entry: TypeAlias = Mapping[str, Any]
"""A norm of the manifest's ``fold``: one of ``folded``, or one of ``kept``."""


def renamed(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[tuple[str, Entry, Entry]]:
    """``folded`` or ``kept``, and an entry of each ``fold`` that is the other's under another name; the order tells which.

    Of norms that both have by name the layers may be renamed. A name counts as another one only where the other bundle's folds
    have it nowhere: with a layer that both have, it is the fold that differs.
    """
    modules = _modules_of_all(first), _modules_of_all(second)
    for part in ("folded", "kept"):
        ours, theirs = ({entry["norm"]: entry for entry in side[part]} for side in (first, second))
        left = [entry for norm, entry in ours.items() if norm not in theirs]
        right = [entry for norm, entry in theirs.items() if norm not in ours]
        pairs = [*((ours[norm], theirs[norm]) for norm in ours if norm in theirs), *_in_order(left, right)]
        for one, other in pairs:
            if one != other and _rest(one) == _rest(other) and _only_renamed(one, other, modules):
                yield part, one, other


def _in_order(left: Sequence[Entry], right: Sequence[Entry]) -> Iterator[tuple[Entry, Entry]]:
    """Pairs that are alike but for names, as many as their order allows."""
    matcher = SequenceMatcher(None, list(map(_rest, left)), list(map(_rest, right)), autojunk=False)
    for block in matcher.get_matching_blocks():
        yield from zip(left[block.a : block.a + block.size], right[block.b : block.b + block.size], strict=True)


def _rest(entry: Entry) -> tuple[int, bytes]:
    """All but names; the class of a norm that is folded away is one, that of a kept norm says what is computed."""
    names = {"norm", "kind", "into"} if "into" in entry else {"norm"}
    rest = {key: entry[key] for key in entry.keys() - names}
    return len(entry.get("into", ())), msgspec.json.encode(rest, order="deterministic")


def _modules(entry: Entry) -> tuple[str, ...]:
    return (entry["norm"], *entry.get("into", ()))


def _modules_of_all(fold: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(name for part in ("folded", "kept") for entry in fold[part] for name in _modules(entry))


def _only_renamed(one: Entry, other: Entry, modules: tuple[frozenset[str], frozenset[str]]) -> bool:
    ours, theirs = modules
    pairs = zip(_modules(one), _modules(other), strict=True)
    return all(a == b or (a not in theirs and b not in ours) for a, b in pairs)
