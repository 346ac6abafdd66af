"""Every way to run a bundle: what was said is kept, what was left open is tried in every form."""

from __future__ import annotations

from pathlib import Path

import pytest

import edgekit.latency.search_space
from edgekit.backends import row_of, table
from edgekit.bundle.folder import open_bundle
from edgekit.errors import MissingError, UsageError
from edgekit.latency.search_space import files_of, search_space
from edgekit.setups import Setup


@pytest.fixture(autouse=True)
def _six_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edgekit.latency.search_space, "cores", lambda: 6)


def threads(setups: tuple[Setup, ...], backend: str) -> list[int | None]:
    return [setup.threads for setup in setups if setup.backend == backend]


def test_without_any_named_it_is_every_backend_with_threads_in_powers_of_two_and_all_cores(bundle: Path) -> None:
    tried = search_space(open_bundle(bundle))
    assert {setup.backend for setup in tried.setups} >= {"ort-cpu", "torch"}
    assert threads(tried.setups, "ort-cpu") == [1, 2, 4, 6]
    assert {setup.variant for setup in tried.setups} == {"float32"}
    assert len(set(tried.setups)) == len(tried.setups)
    assert {skipped.backend for skipped in tried.skipped} >= {"tensorrt"}


def test_what_a_setup_says_is_kept(bundle: Path) -> None:
    opened = open_bundle(bundle)
    assert threads(search_space(opened, ["ort-cpu threads=3"]).setups, "ort-cpu") == [3]
    basic = search_space(opened, ["ort-cpu optimisation=basic"]).setups
    assert {setup.options["optimisation"] for setup in basic} == {"basic"}
    with pytest.raises(MissingError, match="ort-cuda cannot run here"):
        search_space(opened, ["ort-cuda"])
    with pytest.raises(UsageError, match="no backend 'ort'"):
        search_space(opened, ["ort"])


def test_options_that_a_row_says_are_worth_trying_are_tried(bundle: Path) -> None:
    pytest.importorskip("openvino")
    from edgekit.backends.openvino import session

    tried = search_space(open_bundle(bundle), ["openvino"])
    precisions = {setup.options.get("precision", "float32") for setup in tried.setups}
    if "BF16" in session.capabilities():
        assert precisions == {"float32", "bfloat16"}
    else:
        assert precisions == {"float32"}
        assert any("bfloat16" in skipped.backend for skipped in tried.skipped)


def test_every_rows_options_worth_trying_begin_with_the_usual_ones() -> None:
    for name in table():
        assert row_of(name).worth_trying[0] == {}


def test_ways_of_one_file_and_runtime_differ_by_threads_only() -> None:
    setups = [Setup("ort-cpu", "int8", count, (8,)) for count in (1, 2)] + [Setup("ort-cpu", "float32", 1)]
    assert files_of(setups) == (Setup("ort-cpu", "int8"), Setup("ort-cpu", "float32"))
