"""Sites of mutations are found and applied, and outcomes are counted."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from mutation_sites import mutated, sites
from mutations import Campaign, show

SOURCE = '''
"""A module."""

LIMIT: int = 3

def pick(values, key=None, *, strict=False):
    """A docstring."""
    if not values or len(values) > LIMIT:
        raise ValueError(f"too many: {len(values)}")
    best = max(values, key=key)
    print(best, values)
    return best if strict is True else None
'''


def kinds() -> list[tuple[str, str, str]]:
    return [(site.kind, site.before, site.after) for site in sites(SOURCE, "edgekit/x.py")]


@pytest.mark.parametrize(
    "expected",
    [
        ("another constant", "3", "(3 + 1)"),
        ("another constant", "False", "True"),
        ("another comparison", " > ", " >= "),
        ("another comparison", " is ", " is not "),
        ("drop a half of the condition", "not values or len(values) > LIMIT", "((not values))"),
        ("negate the condition", "strict is True", "not (strict is True)"),
        ("drop an argument", "key=key", ""),
        ("swap two arguments", "best, values", "values, best"),
        ("drop the statement", "print(best, values)", "pass"),
        ("return nothing", "return best if strict is True else None", "return None"),
    ],
)
def test_faults_of_every_kind_are_found(expected: tuple[str, str, str]) -> None:
    assert expected in kinds()


def test_every_fault_is_still_python_and_another_program() -> None:
    for site in sites(SOURCE, "edgekit/x.py"):
        changed = mutated(SOURCE, site)
        assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(SOURCE)), site


def test_texts_for_readers_are_no_sites() -> None:
    assert not any("too many" in before or "docstring" in before for _, before, _ in kinds())


def test_a_campaign_goes_on_where_it_stopped(tmp_path: Path) -> None:
    first, second, *_ = sites(SOURCE, "edgekit/x.py")
    campaign = Campaign(tmp_path / "results.json")
    campaign.record(first, {"file": "edgekit/x.py", "outcome": "survived", "kind": "", "line": 1, "before": "", "after": ""})
    again = Campaign(tmp_path / "results.json")
    assert again.pending([first, second]) == [second]
    assert again.pending([first, second], "survived") == [first, second]


def test_equivalent_faults_and_those_killed_since_are_told_apart() -> None:
    row = {"file": "edgekit/fold/x.py", "kind": "k", "line": 1, "before": "a", "after": "b", "outcome": "survived"}
    rows = {
        "1": row | {"outcome": "killed"}, "2": row | {"read": "equivalent: no matter"}, "3": row,
        "4": row | {"read": "killed since by test_x"},
    }  # fmt: skip
    assert "all                2         1           1    67%" in show(rows)
