"""What edgekit asks of a board: wheels for aarch64, installed size, start-up, memory, and what verifying LeNet costs.

    python benchmarks/board.py              measures, and writes ``benchmarks/results/board.json``
    python benchmarks/board.py --table      prints the table of docs/boards.md from that file

pip is asked which wheels it would install on aarch64, for each Python, for the core and ``[cpu]``. The wheel of edgekit is built,
installed into environments of its own, and used from another folder than the clone. ``board_emulated.py`` runs tests.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgekit.machine.cpu import machine_facts

ROOT = Path(__file__).parent.parent
RESULT = Path(__file__).parent / "results" / "board.json"
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
NEWEST_GLIBC = 39
"""The minor version of glibc that wheels may ask for: that of JetPack 7's Ubuntu 24.04."""
PLATFORMS = ("manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in range(17, NEWEST_GLIBC + 1)))
ROUNDS = 7
IMPORTS = "import edgekit.cli.outcome, edgekit.commands.verify, edgekit.backends.onnxruntime.session"


def main() -> None:
    if sys.argv[1:] == ["--table"]:
        print(table(json.loads(RESULT.read_text())))
        return
    with tempfile.TemporaryDirectory(prefix="edgekit-board-") as scratch:
        result = {"wheels": wheels(), **footprint(Path(scratch)), "machine": machine_facts()}
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(table(result))


def requirements(extra: str = "") -> list[str]:
    """What the core, or an extra with it, requires by name, without the conditions on Python, which pip is told apart."""
    project = msgspec.toml.decode((ROOT / "pyproject.toml").read_bytes())["project"]
    named: list[str] = [*project["dependencies"], *(project["optional-dependencies"][extra] if extra else [])]
    return [name.split(";")[0].strip() for name in named]


def wheels() -> dict[str, Any]:
    """Python -> extra -> what pip would install on aarch64, or its own word why it cannot."""
    return {python: {extra or "core": asked(python, requirements(extra)) for extra in ("", "cpu")} for python in PYTHONS}


def asked(python: str, names: Sequence[str]) -> dict[str, Any]:
    """Package -> its wheel; ``glibc`` is the oldest that all of them run on."""
    words = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--dry-run",
        "--ignore-installed",
        "--report",
        "-",
        "--only-binary=:all:",
    ]
    words += ["--target", "nowhere", "--implementation", "cp", "--python-version", python]
    words += [f"--platform={name}" for name in PLATFORMS]
    done = subprocess.run([*words, *names], capture_output=True, text=True, check=False)
    if done.returncode:
        return {"missing": [line for line in done.stderr.splitlines() if line.startswith("ERROR")]}
    installed = json.loads(done.stdout)["install"]
    files = {item["metadata"]["name"].lower(): item["download_info"]["url"].rpartition("/")[2] for item in installed}
    return {"glibc": f"2.{max(map(glibc, files.values()))}", "wheels": dict(sorted(files.items()))}


def glibc(wheel: str) -> int:
    """The minor version of glibc 2 that a wheel asks for; 0 for one that is not compiled."""
    minors = [int(minor) for minor in re.findall(r"manylinux_2_(\d+)_aarch64", wheel)]
    return min(minors, default=17 if "manylinux2014" in wheel else 0)


def footprint(scratch: Path) -> dict[str, Any]:
    """Installed bytes, and the costs of commands with ``[cpu]``, by a wheel in environments of its own."""
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", scratch / "dist", ROOT], check=True)
    (wheel,) = (scratch / "dist").glob("*.whl")
    sizes, python = {}, ""
    for extra in ("", "[cpu]"):
        environment = scratch / f"venv{extra.strip('[]')}"
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        python = str(environment / "bin" / "python")
        subprocess.run([python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", f"{wheel}{extra}"], check=True)
        sizes[f"edgekit{extra}"] = installed(environment)
    bundle = str(ROOT / "exported" / "lenet")
    commands = {
        "python": ["-c", "pass"],
        "edgekit --help": ["-m", "edgekit", "--help"],
        "imports of verify": ["-c", IMPORTS],
        "edgekit verify exported/lenet": ["-m", "edgekit", "verify", bundle, "--backend", "ort-cpu"],
    }
    empty = scratch / "elsewhere"
    empty.mkdir()
    return {"wheel_bytes": wheel.stat().st_size, "installed_bytes": sizes, "commands": costs(python, commands, empty)}


def installed(environment: Path) -> dict[str, int]:
    """Bytes in all and of the largest packages, without pip and compiled Python files."""
    site = next((environment / "lib").glob("python3*/site-packages"))
    of: dict[str, int] = {}
    for path in site.rglob("*"):
        top = path.relative_to(site).parts[0]
        if path.is_file() and path.suffix != ".pyc" and not top.startswith(("pip", "setuptools", "wheel", "_distutils")):
            of[top] = of.get(top, 0) + path.stat().st_size
    largest = sorted(of, key=lambda name: -of[name])[:6]
    return {"all": sum(of.values()), **{name: of[name] for name in largest}}


def costs(python: str, commands: dict[str, list[str]], folder: Path) -> dict[str, dict[str, float]]:
    """Command -> the least wall clock and processor time in seconds of ``ROUNDS`` runs in turns, and the peak memory in MiB."""
    runs: dict[str, list[tuple[float, float, float]]] = {name: [] for name in commands}
    for _ in range(ROUNDS):
        for name, words in commands.items():
            runs[name].append(cost([python, *words], folder))
    return {
        name: {"wall_s": round(min(each[0] for each in taken), 3), "cpu_s": round(min(each[1] for each in taken), 3),
               "peak_mib": round(max(each[2] for each in taken), 1)}
        for name, taken in runs.items()
    }  # fmt: skip


def cost(command: list[str], folder: Path) -> tuple[float, float, float]:
    """Wall clock and processor time in seconds, and MiB resident at the most, of a process; raises where it fails.

    Two cores, because each thread of a runtime takes memory; the peak is at least that of this script, from which it is started.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "EDGEKIT"))}
    environment |= {"EDGEKIT_STATE": str(folder / "state"), "EDGEKIT_CACHE": str(folder / "cache")}
    begin = time.perf_counter()
    process = subprocess.Popen(
        ["taskset", "-c", "0,1", *command], cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}")
    return time.perf_counter() - begin, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def table(result: dict[str, Any]) -> str:
    """Markdown: sizes and costs, and the wheels."""
    sizes, commands = result["installed_bytes"], result["commands"]
    verify, imports = commands["edgekit verify exported/lenet"], commands["imports of verify"]
    beyond = {name: round(verify[name] - imports[name], 2) for name in verify}
    rows = ["| | wall clock | processor | memory at the most |", "|---|---|---|---|"]
    for name, taken in {**commands, "verify beyond its imports": beyond}.items():
        rows.append(f"| {name} | {taken['wall_s']:.2f} s | {taken['cpu_s']:.2f} s | {taken['peak_mib']:.0f} MiB |")
    rows += ["", "| installed | MB | of which |", "|---|---|---|"]
    for name, of in sizes.items():
        parts = ", ".join(f"{part} {size / 1e6:.1f}" for part, size in of.items() if part != "all")
        rows.append(f"| `{name}` | {of['all'] / 1e6:.0f} | {parts} |")
    rows += ["", "| Python on aarch64 | core | `[cpu]` |", "|---|---|---|"]
    for python, extras in result["wheels"].items():
        rows.append(f"| {python} | {told(extras['core'])} | {told(extras['cpu'])} |")
    return "\n".join(rows)


def told(answer: dict[str, Any]) -> str:
    """One answer of pip in a few words."""
    if "missing" in answer:
        return f"no: {answer['missing'][-1]}"
    names = answer["wheels"]
    which = [f"{name} {re.split('-', wheel)[1]}" for name, wheel in names.items() if name in ("numpy", "onnxruntime", "onnx")]
    return f"{len(names)} wheels, glibc {answer['glibc']}: {', '.join(which)}"


if __name__ == "__main__":
    main()
