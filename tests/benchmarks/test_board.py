"""What the page about boards says of wheels, sizes and costs is what was measured."""

from __future__ import annotations

import json
import re
from pathlib import Path

import board
import pytest


def outcome(repository: Path) -> dict[str, dict[str, dict[str, dict[str, dict[str, str]]]]]:
    result: dict[str, dict[str, dict[str, dict[str, dict[str, str]]]]] = json.loads(
        (repository / "benchmarks" / "results" / "board.json").read_text()
    )
    return result


def test_the_page_has_the_table_of_the_outcome(repository: Path) -> None:
    page = (repository / "docs" / "boards.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"<!-- board -->\n(.*?)\n<!-- /board -->", page, re.DOTALL)
    assert shown == board.table(outcome(repository))


def test_every_requirement_had_a_wheel_for_aarch64(repository: Path) -> None:
    for python, extras in outcome(repository)["wheels"].items():
        for extra, answer in extras.items():
            names = {re.sub(r"[-_.]+", "-", name) for name in answer["wheels"]}
            asked = {re.split(r"[<>=!~ \[]", name)[0] for name in board.requirements("" if extra == "core" else extra)}
            assert asked <= names, python


@pytest.mark.parametrize(
    ("wheel", "minor"),
    [
        ("a-1-py3-none-any.whl", 0),
        ("a-1-cp311-cp311-manylinux2014_aarch64.whl", 17),
        ("a-1-cp311-cp311-manylinux_2_27_aarch64.manylinux_2_28_aarch64.whl", 27),
    ],
)
def test_the_glibc_of_a_wheel_is_the_oldest_that_its_name_allows(wheel: str, minor: int) -> None:
    assert board.glibc(wheel) == minor


def test_a_package_without_a_wheel_is_told() -> None:
    assert board.told({"missing": ["ERROR: first", "ERROR: No matching distribution found for x"]}).startswith(
        "no: ERROR: No matching"
    )
