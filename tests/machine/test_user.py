"""A container whose user has a number and no name."""

from __future__ import annotations

import os
import pwd

import pytest

from edgekit.machine.user import ensure_user_name

NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")


@pytest.fixture(autouse=True)
def _no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.setenv(name, "")


def nobody(number: int) -> pwd.struct_passwd:
    raise KeyError(f"getpwuid(): uid not found: {number}")


def test_a_user_without_a_name_is_called_by_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    ensure_user_name()
    assert os.environ["LOGNAME"] == "12345"


def test_a_user_with_a_name_is_left_alone() -> None:
    ensure_user_name()
    assert not os.environ["LOGNAME"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_from_the_environment_is_enough(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.setenv(name, "builder")
    ensure_user_name()
    assert os.environ["LOGNAME"] == ("builder" if name == "LOGNAME" else "")
