"""Backends that other packages bring: found by their entry point, one module each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from edgekit.backends import table
from tests.command_line import Command, answered_here

ECHO = Path(__file__).parent / "echo_backend.py"
GROUP = "[edgekit.backends]\n"


def install(site: Path, entries: str, module: str | None = None, name: str = "edgekit-echo") -> Path:
    """What pip leaves behind: a module and the metadata of its distribution. ``name`` is of both: ``edgekit_echo``."""
    written = name.replace("-", "_")
    info = site / f"{written}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(GROUP + entries)
    (site / f"{written}.py").write_text(ECHO.read_text() if module is None else module)
    return site


def install_many(site: Path, modules: Mapping[str, str]) -> Path:
    """A distribution for each backend, because a command takes as long with many as with one: "echo" of ``edgekit-echo``."""
    for name, module in modules.items():
        install(site, f"{name} = edgekit_{name}:BACKEND\n", module, f"edgekit-{name}")
    return site


def edgekit(site: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, JSON document and stderr of a command where ``site`` is installed."""
    path = os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH", ""))))
    command = [sys.executable, "-m", "edgekit", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=False)
    return done.returncode, json.loads(done.stdout), done.stderr


Here: TypeAlias = "Callable[..., tuple[int, dict[str, Any], str]]"


@pytest.fixture
def here(run: Command) -> Iterator[Here]:
    """As ``edgekit``, in this process, which has imported the runtimes already, and with the probes of ``edgekit doctor``."""
    with pytest.MonkeyPatch.context() as patch:

        def call(site: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
            if str(site) not in sys.path:
                patch.syspath_prepend(site)
                table.cache_clear()
            done = run(*arguments, "--json")
            return done.code, done.document, done.err

        patch.setattr("edgekit.commands.doctor.ask", answered_here)
        yield call
    table.cache_clear()
    for name in [name for name in sys.modules if name.startswith("edgekit_")]:
        del sys.modules[name]


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


def test_its_options_are_checked_and_reach_it(site: Path, bundle: Path, here: Here) -> None:
    code, report, _ = here(site, "verify", str(bundle), "--backend", "echo gain=2")
    assert code == 1
    assert report["parities"][0]["setup"]["options"] == {"gain": 2.0}
    code, report, _ = here(site, "verify", str(bundle), "--backend", "echo volume=2")
    assert code == 2
    assert report["error"]["message"] == "echo has no option 'volume'; its options: gain, variant, threads, batches"
    code, report, _ = here(site, "verify", str(bundle), "--backend", "echo gain=loud")
    assert code == 2
    assert report["error"]["message"].startswith("echo: gain: ")


BREAKING = {
    "breaks": ("raise OSError('libecho.so: cannot open')", "libecho.so: cannot open"),
    "rowless": ("BACKEND = 7", "'int' object is not iterable"),
    "leaves": ("raise SystemExit(3)", "it ends the program"),
}
"""Backends whose module gives no backend, and what is said of each."""


def test_one_that_breaks_is_named_and_the_others_run(tmp_path: Path, bundle: Path, here: Here) -> None:
    site = install_many(tmp_path / "site", {"echo": ECHO.read_text(), **{name: module for name, (module, _) in BREAKING.items()}})
    code, report, stderr = here(site, "verify", str(bundle))
    assert code == 0, stderr
    assert "echo" in [parity["backend"] for parity in report["parities"]]
    skipped = {skipped["backend"]: skipped for skipped in report["skipped"]}
    for name, (_, expected) in BREAKING.items():
        assert expected in skipped[name]["reason"]
        assert skipped[name]["remedy"] == f"pip install --force-reinstall edgekit-{name}"
        assert skipped[name]["broken"]
    code, report, _ = here(site, "doctor")
    assert (code, report["passed"], report["backends"]["echo"]) == (1, False, None)
    assert all(report["backends"][name]["broken"] for name in BREAKING)


UNSURE = {
    "raises": ('raise RuntimeError("the license server is gone")', "the license server is gone"),
    "answers": ('return "not today"', "its absence is 'not today'"),
    "ends": ("raise SystemExit(1)", "1"),
}
"""Backends whose ``absence`` breaks, and what is said of each."""


def test_one_whose_absence_breaks_is_skipped_by_name(tmp_path: Path, bundle: Path, here: Here) -> None:
    whole, works = ECHO.read_text(), '    """It is always here."""\n    return None\n'
    assert works in whole
    modules = {name: named(whole.replace(works, f"    {broken}\n"), name) for name, (broken, _) in UNSURE.items()}
    code, report, stderr = here(install_many(tmp_path / "site", modules), "verify", str(bundle))
    assert code == 0, stderr
    skipped = {skipped["backend"]: (skipped["reason"], skipped["broken"]) for skipped in report["skipped"]}
    for name, (_, expected) in UNSURE.items():
        assert skipped[name] == (f"{name} cannot tell whether it works: {expected}", True)


def named(module: str, name: str) -> str:
    """``module`` whose backend has another name."""
    return module.replace('Backend("echo"', f"Backend({name!r}")


NAMELESS = {"one": "every", "two": "", "three": "my backend", "four": "a/b"}


def test_a_name_that_no_backend_can_have_is_refused(tmp_path: Path, bundle: Path, here: Here) -> None:
    site = install_many(tmp_path / "site", {entry: named(ECHO.read_text(), name) for entry, name in NAMELESS.items()})
    code, report, stderr = here(site, "verify", str(bundle))
    assert code == 0, stderr
    reasons = [skipped["reason"] for skipped in report["skipped"]]
    for name in NAMELESS.values():
        assert any(f"{name!r} is no name for a backend" in reason for reason in reasons), (name, reasons)


def test_one_that_takes_a_name_of_edgekits_own_does_not_get_it(tmp_path: Path, bundle: Path, here: Here) -> None:
    site = install(tmp_path / "site", "ort-cpu = edgekit_echo:BACKEND\n", named(ECHO.read_text(), "ort-cpu"))
    code, report, stderr = here(site, "verify", str(bundle), "--backend", "ort-cpu")
    assert code == 0, stderr
    assert "onnxruntime" in report["parities"][0]["facts"]
    _, report, _ = here(site, "verify", str(bundle))
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
