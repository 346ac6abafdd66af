"""The script that has written the reference network still makes the same file."""

from __future__ import annotations

from pathlib import Path

import pytest
import reference_network

from edgekit.latency.control import NETWORK


def test_the_script_makes_the_shipped_file(tmp_path: Path) -> None:
    reference_network.write(tmp_path / "anew")
    assert (tmp_path / "anew" / "model.onnx").read_bytes() == (NETWORK / "model.onnx").read_bytes()


def test_it_replaces_nothing(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="frozen"):
        reference_network.write(tmp_path)
