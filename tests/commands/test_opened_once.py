"""A command opens a bundle, hashes its files and reads its golden inputs once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekit.bundle import folder
from edgekit.commands.bench import bench
from edgekit.commands.inspect import inspect
from edgekit.commands.predict import predict
from edgekit.commands.verify import verify
from edgekit.files import sha256_of
from edgekit.latency.loop import Timing
from edgekit.reports.base import Report
from edgekit.tolerance import ToleranceChange

SETUPS = ["ort-cpu threads=1", "ort-cpu threads=2"]


def picture(folder: Path) -> Path:
    path = folder / "p.png"
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(path)
    return path


COMMANDS: dict[str, Callable[[Path, Path], Report]] = {
    "verify": lambda bundle, place: verify(bundle, SETUPS, tolerance=ToleranceChange(atol=1e-3)),
    "bench": lambda bundle, place: bench(bundle, SETUPS, Timing((1, 2), 0.01)),
    "predict": lambda bundle, place: predict(bundle, [picture(place)] * 2),
    "inspect": lambda bundle, place: inspect(bundle),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_hashes_each_file_of_its_bundle_once(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    hashed: Counter[str] = Counter()
    real = sha256_of

    def counting(path: Path) -> str:
        hashed[path.name] += 1
        return real(path)

    monkeypatch.setattr(folder, "sha256_of", counting)
    assert COMMANDS[command](bundle, tmp_path).passed
    assert hashed == dict.fromkeys(json.loads((bundle / "manifest.json").read_text())["files"], 1)
