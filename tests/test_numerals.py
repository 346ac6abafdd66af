"""One reading of numbers in a user's words: ASCII digits alone."""

from __future__ import annotations

import math

import pytest

from edgekit.cli.options.bench import timing
from edgekit.cli.options.export import numbers
from edgekit.errors import UsageError
from edgekit.numerals import decimal, whole


@pytest.mark.parametrize("text", ["", " ", "1_0", "٣", "+1", "-1", "1.0", "1e3", "²", "9" * 20])
def test_what_is_no_whole_number_is_none(text: str) -> None:
    assert whole(text) is None


@pytest.mark.parametrize("text", ["", ".", "1_0", "٣", "1.٣", "inf", "-inf", "nan", "1e", "0x1", "1,5", "--1", "1 0"])
def test_what_is_no_decimal_number_is_none(text: str) -> None:
    assert decimal(text) is None


def test_numbers_are_read_with_blanks_around_them() -> None:
    assert [whole(text) for text in ("0", " 8 ", "007", "9" * 19)] == [0, 8, 7, 10**19 - 1]
    assert whole("123", 2) is None
    texts = ("0", " -0.3", "5.", ".5", "1e-5", "+2E3", "1e999")
    assert [decimal(text) for text in texts] == [0, -0.3, 5, 0.5, 1e-5, 2000, math.inf]


@pytest.mark.parametrize("word", ["1_0", "٣"])
def test_options_of_several_numbers_read_them_so_too(word: str) -> None:
    with pytest.raises(UsageError, match=r"--batch .* is not a list of batch sizes"):
        timing(f"1,{word}", 1.0, 0, None, None)
    with pytest.raises(UsageError, match=r"--row .* is no boundary and batch"):
        timing("1", 1.0, 0, [f"device:{word}"], None)
    with pytest.raises(UsageError, match=r"--mean .* is not a list of numbers; write it like"):
        numbers("--mean", f"0.5,{word}")
