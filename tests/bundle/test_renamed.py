"""Folds that two bundles have under other names are told apart from folds that differ."""

from __future__ import annotations

from typing import Any

import pytest

from edgekit.bundle.renamed import renamed


def norm(name: str, *into: str, kind: str = "BatchNorm2d", nodes: int = 1) -> dict[str, Any]:
    return {"norm": name, "kind": kind, "into": list(into), "side": "before", "nodes": nodes}


def fold(*folded: dict[str, Any], kept: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    return {"folded": list(folded), "kept": list(kept)}


FIRST = fold(norm("1", "0"), norm("4", "3"), norm("7", "6"))


@pytest.mark.parametrize(
    ("second", "names"),
    [
        (FIRST, []),
        (fold(norm("a.bn", "a.conv"), norm("b.bn", "b.conv"), norm("c.bn", "c.conv")), ["a.bn", "b.bn", "c.bn"]),
        (fold(norm("1", "0"), norm("4", "conv"), norm("7", "6")), ["4"]),
        (fold(norm("1", "0"), norm("4", "3", kind="Mine"), norm("7", "6")), ["4"]),
        (fold(norm("1", "0"), norm("4", "6"), norm("7", "3")), []),  # into layers that the other has: folded otherwise
        (fold(norm("1", "0"), norm("7", "6")), []),
        (fold(norm("1", "0"), norm("bn", "conv", nodes=2), norm("7", "6")), []),
        (fold(norm("1", "0"), norm("bn", "conv", "conv2"), norm("7", "6")), []),
        (fold(norm("1", "0"), norm("bn", "0"), norm("7", "6")), []),
        (fold(norm("a", "x"), norm("b", "y")), ["a", "b"]),
    ],
)
def test_only_what_another_name_explains_is_renamed(second: dict[str, Any], names: list[str]) -> None:
    assert [other["norm"] for _, _, other in renamed(FIRST, second)] == names


def test_a_norm_that_stays_is_another_one_if_it_is_of_another_class() -> None:
    def kept(name: str, kind: str) -> dict[str, Any]:
        obstacle = {"side": "before", "code": "nonlinear", "at": "relu", "why": "it is not linear"}
        return fold(kept=({"norm": name, "kind": kind, "reason": "it depends on its input", "obstacles": (obstacle,)},))

    assert [part for part, _, _ in renamed(kept("n", "LayerNorm"), kept("m", "LayerNorm"))] == ["kept"]
    assert not list(renamed(kept("n", "LayerNorm"), kept("n", "GroupNorm")))
    assert not list(renamed(kept("n", "LayerNorm"), kept("m", "GroupNorm")))
