"""A bound on the memory of this process."""

from __future__ import annotations

import re
import resource
import threading
from contextlib import suppress

import numpy as np
import pytest

from edgekit.errors import UsageError
from edgekit.machine import bounds
from edgekit.machine.bounds import granted_seconds, memory_bound, waiting_seconds


def test_an_allocation_beyond_the_bound_fails_and_one_within_does_not() -> None:
    with memory_bound(256 << 20):
        assert np.ones(8 << 20, np.uint8).all()
        with pytest.raises(MemoryError):
            np.empty(2 << 30, np.uint8)
    assert np.empty(512 << 20, np.uint8).size


def test_the_limit_is_afterwards_what_it_was() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with suppress(KeyError), memory_bound(1 << 30):
        assert resource.getrlimit(resource.RLIMIT_DATA) != before
        raise KeyError
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_a_system_that_does_not_tell_is_not_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    monkeypatch.setattr(bounds, "SIZES", bounds.SIZES.with_name("no such file"))
    with memory_bound(1):
        assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_bounds_that_overlap_are_lifted_by_the_last() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    first, second = memory_bound(1 << 30), memory_bound(2 << 30)
    first.__enter__()
    narrow = resource.getrlimit(resource.RLIMIT_DATA)[0]
    second.__enter__()
    wide = resource.getrlimit(resource.RLIMIT_DATA)[0]
    first.__exit__(None, None, None)
    assert narrow < wide == resource.getrlimit(resource.RLIMIT_DATA)[0]
    second.__exit__(None, None, None)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_seconds_are_the_usual_ones_unless_the_user_grants_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, seconds in {
        "": 7.5,
        "20": 20,
        " 0.5 ": 0.5,
        "1e9": 1e9,
        "1e999": threading.TIMEOUT_MAX,
        "9" * 400: threading.TIMEOUT_MAX,
    }.items():
        monkeypatch.setenv("EDGEKIT_SECONDS", given)
        assert granted_seconds(7.5) == seconds


def test_what_is_waited_for_gets_no_less_than_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, seconds in {"": 7.5, "1": 7.5, "20": 20}.items():
        monkeypatch.setenv("EDGEKIT_SECONDS", given)
        assert waiting_seconds(7.5) == seconds


@pytest.mark.parametrize("given", ["soon", "-1", "nan", "0", "0x1", "1.5.", "inf", "1_0", "٣"])
def test_seconds_that_are_no_time_are_refused(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_SECONDS", given)
    with pytest.raises(UsageError, match=f"EDGEKIT_SECONDS={re.escape(given)} is no time; give seconds above 0"):
        granted_seconds(7.5)


def test_stacks_count_for_every_thread() -> None:
    assert bounds.stacks(200) == 200 * bounds.stacks(1) > 0
