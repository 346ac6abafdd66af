"""Backends that other packages bring: found by their entry point, one module each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ECHO = Path(__file__).parent / "echo_backend.py"
GROUP = "[edgekit.backends]\n"


def install(site: Path, entries: str, module: str | None = None, name: str = "edgekit-echo") -> Path:
    """What pip leaves behind: a module and the metadata of its distribution."""
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(GROUP + entries)
    (site / "edgekit_echo.py").write_text(ECHO.read_text() if module is None else module)
    return site


def edgekit(site: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, JSON document and stderr of a command where ``site`` is installed."""
    path = os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH", ""))))
    command = [sys.executable, "-m", "edgekit", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=False)
    return done.returncode, json.loads(done.stdout), done.stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("site"), "echo = edgekit_echo:BACKEND\n")


def test_a_backend_from_elsewhere_is_verified_and_timed_like_any_other(site: Path, bundle: Path) -> None:
    code, report, stderr = edgekit(site, "verify", str(bundle))
    assert code == 0, stderr
    (echo,) = [parity for parity in report["parities"] if parity["backend"] == "echo"]
    assert echo["setup"]["backend"] == "echo"
    assert echo["facts"]["echo"] == "1.0"
    code, report, stderr = edgekit(
        site, "bench", str(bundle), "--backend", "ort-cpu", "--backend", "echo", "--batch", "1", "--seconds", "0.05"
    )
    assert code == 0, stderr
    assert {row["backend"] for row in report["rows"]} == {"ort-cpu", "echo"}


def test_its_options_are_checked_and_reach_it(site: Path, bundle: Path) -> None:
    code, report, _ = edgekit(site, "verify", str(bundle), "--backend", "echo gain=2")
    assert code == 1
    assert report["parities"][0]["setup"]["options"] == {"gain": 2.0}
    code, report, _ = edgekit(site, "verify", str(bundle), "--backend", "echo volume=2")
    assert code == 2
    assert report["error"]["message"] == "echo has no option 'volume'; its options: gain, variant, threads, batches"
    code, report, _ = edgekit(site, "verify", str(bundle), "--backend", "echo gain=loud")
    assert code == 2
    assert report["error"]["message"].startswith("echo: gain: ")


def test_doctor_names_it(site: Path) -> None:
    _, report, _ = edgekit(site, "doctor")
    assert report["backends"]["echo"] is None


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("raise OSError('libecho.so: cannot open')", "libecho.so: cannot open"),
        ("BACKEND = 7", "'int' object is not iterable"),
        ("raise SystemExit(3)", "it ends the program"),
    ],
    ids=["breaks", "no row", "leaves"],
)
def test_one_that_breaks_is_named_and_the_others_run(tmp_path: Path, bundle: Path, module: str, expected: str) -> None:
    site = install(tmp_path, "echo = edgekit_echo:BACKEND\n", module)
    code, report, stderr = edgekit(site, "verify", str(bundle))
    assert code == 0, stderr
    (skipped,) = [skipped for skipped in report["skipped"] if skipped["backend"] == "echo"]
    assert expected in skipped["reason"]
    assert skipped["remedy"] == "pip install --force-reinstall edgekit-echo"
    assert skipped["broken"]
    code, report, _ = edgekit(site, "doctor")
    assert (code, report["passed"], report["backends"]["echo"]["broken"]) == (1, False, True)


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        ('raise RuntimeError("the license server is gone")', "echo cannot tell whether it works: the license server is gone"),
        ('return "not today"', "echo cannot tell whether it works: its absence is 'not today'"),
        ("raise SystemExit(1)", "echo cannot tell whether it works: 1"),
    ],
)
def test_one_whose_absence_breaks_is_skipped_by_name(tmp_path: Path, bundle: Path, broken: str, expected: str) -> None:
    module = ECHO.read_text().replace('    """It is always here."""\n    return None\n', f"    {broken}\n")
    assert broken in module
    site = install(tmp_path, "echo = edgekit_echo:BACKEND\n", module)
    code, report, stderr = edgekit(site, "verify", str(bundle))
    assert code == 0, stderr
    (skipped,) = [skipped for skipped in report["skipped"] if skipped["backend"] == "echo"]
    assert (skipped["reason"], skipped["broken"]) == (expected, True)


@pytest.mark.parametrize("name", ["every", "", "my backend", "a/b"])
def test_a_name_that_no_backend_can_have_is_refused(tmp_path: Path, bundle: Path, name: str) -> None:
    site = install(tmp_path, "echo = edgekit_echo:BACKEND\n", ECHO.read_text().replace('Backend("echo"', f"Backend({name!r}"))
    code, report, stderr = edgekit(site, "verify", str(bundle))
    assert code == 0, stderr
    (skipped,) = [skipped for skipped in report["skipped"] if skipped["backend"] == "echo"]
    assert f"{name!r} is no name for a backend" in skipped["reason"]


def test_one_that_takes_a_name_of_edgekits_own_does_not_get_it(tmp_path: Path, bundle: Path) -> None:
    site = install(tmp_path, "ort-cpu = edgekit_echo:BACKEND\n", ECHO.read_text().replace('Backend("echo"', 'Backend("ort-cpu"'))
    code, report, stderr = edgekit(site, "verify", str(bundle), "--backend", "ort-cpu")
    assert code == 0, stderr
    assert "onnxruntime" in report["parities"][0]["facts"]
    _, report, _ = edgekit(site, "verify", str(bundle))
    assert "edgekit-echo:ort-cpu" in [skipped["backend"] for skipped in report["skipped"]]


@pytest.mark.parametrize("word", ["--help", "--version"])
def test_help_and_version_read_no_entry_point(tmp_path: Path, word: str) -> None:
    site = install(tmp_path, "echo = edgekit_echo:BACKEND\n", "raise SystemExit('it was imported')")
    path = os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH", ""))))
    watch = (
        "import sys, importlib.metadata as m\n"
        "def read(*a, **k): raise SystemExit('entry points were read')\n"
        "m.entry_points = read\n"
        f"sys.argv = ['edgekit', {word!r}]\n"
        "from edgekit.cli.app import main\nmain()\n"
    )
    env = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", watch], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout
