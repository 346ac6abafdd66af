"""The calls behind a report: few in its JSON, all beside it, and bounded while they are taken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import InputError
from edgekit.reports.samples import Kept, SamplesFile, named, packed, read_samples, samples_path, thinned_blocks

BLOCKS = st.lists(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=30).map(tuple), max_size=30).map(tuple)


@given(BLOCKS, st.integers(1, 200))
def test_thinned_blocks_are_few_and_each_begins_as_before(blocks: tuple[tuple[float, ...], ...], most: int) -> None:
    kept = thinned_blocks(blocks, most)
    assert sum(map(len, kept)) <= most
    if len(blocks) <= most:
        assert [block[0] for block in kept] == [block[0] for block in blocks]
        steps = {step for step in range(1, 31) if tuple(block[::step] for block in blocks) == kept}
        assert steps
        assert (
            kept == blocks or sum(len(block[:: min(steps) - 1]) for block in blocks) > most
        )  # no more are left out than need be
    else:
        assert set(kept) <= {block[:1] for block in blocks}


def test_a_long_timing_is_kept_in_bounded_memory_and_its_count_and_slowest_call_are_of_all() -> None:
    kept = Kept(most=1000)
    for block in range(50):
        kept.add([1.0] * 99 + [1.0 + block % 7])
    assert kept.calls == 5000
    assert kept.slowest_ms == 7.0
    assert len(kept.blocks) == 50
    assert 500 < sum(map(len, kept.blocks)) <= 1000
    assert kept.flat == tuple(sample for block in kept.blocks for sample in block)


def test_a_short_timing_is_kept_whole() -> None:
    kept = Kept(most=1000)
    for block in ((1.0, 2.0), (3.0,)):
        kept.add(block)
    assert kept.blocks == ((1.0, 2.0), (3.0,))


def test_more_blocks_than_are_kept_keep_a_call_each() -> None:
    kept = Kept(most=10)
    for block in range(40):
        kept.add([float(block + 1)] * 5)
    assert kept.blocks == tuple((float(block + 1),) for block in range(40))


def test_samples_go_to_a_file_and_back_exactly(tmp_path: Path) -> None:
    samples = {"rows/0": ((0.1, 0.2), (0.3,)), "load/0": ((1e-3,),), "empty": ()}
    report = tmp_path / "bench.json"
    content = packed(samples)
    assert samples_path(report) == tmp_path / "bench.samples.npz"
    assert content == packed(samples)  # the same bytes, or its sha256 would tell nothing
    samples_path(report).write_bytes(content)
    assert read_samples(report, named(report, content)) == samples
    with np.load(samples_path(report)) as arrays:  # what anybody can read
        np.testing.assert_array_equal(arrays["rows/0/ms"], [0.1, 0.2, 0.3])
        np.testing.assert_array_equal(arrays["rows/0/lengths"], [2, 1])


def test_a_file_that_is_not_the_reports_is_one_sentence(tmp_path: Path) -> None:
    report = tmp_path / "bench.json"
    file = named(report, packed({"rows/0": ((1.0,),)}))
    with pytest.raises(InputError, match=r"bench.samples.npz does not exist"):
        read_samples(report, file)
    samples_path(report).write_bytes(packed({"rows/0": ((2.0,),)}))
    with pytest.raises(InputError, match="holds the samples of another run than"):
        read_samples(report, file)
    samples_path(report).write_bytes(b"PK and nothing else")
    with pytest.raises(InputError, match="is no file of samples"):
        read_samples(report, named(report, b"PK and nothing else"))


def test_a_name_in_a_report_leads_to_no_other_folder(tmp_path: Path) -> None:
    content = packed({})
    (tmp_path / "secret.npz").write_bytes(content)
    (tmp_path / "reports").mkdir()
    elsewhere = SamplesFile("../secret.npz", named(tmp_path / "x", content).sha256)
    with pytest.raises(InputError, match=r"reports/secret\.npz does not exist"):
        read_samples(tmp_path / "reports" / "bench.json", elsewhere)
