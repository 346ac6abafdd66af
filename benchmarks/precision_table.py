"""Markdown tables of the result files of ``benchmarks/precision.py``; ``docs/results.py`` puts them into docs/precision.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

FLOAT = "float32"
READING = "TensorRT's reading"
PARSER = "TensorRT-RTX's parser"
WRITTEN = "ONNX Runtime, optimisations off"
FAST = ("ONNX Runtime", "OpenVINO")
BATCHES = (1, 8)
NONE_YET = "Not measured yet: run `python benchmarks/precision.py`."
JUDGED_ON = "judged on"
TIMED_ON = "timed on"
WEIGHTS = "sha256 of the weights"
BESIDE = ("machine", TIMED_ON, JUDGED_ON, WEIGHTS)


def summary(results: Mapping[str, Any], on_avx2: Mapping[str, Any]) -> str:
    """Tables of error and of speed for each network, then those of a CPU without VNNI."""
    networks = [name for name in results if name not in BESIDE]
    lines = [*_machine(results), *(line for name in networks for line in _network(name, results[name]))]
    return "\n".join([*(lines if networks else [NONE_YET, ""]), *_without_vnni(results, on_avx2)]).strip()


def _machine(results: Mapping[str, Any]) -> Iterator[str]:
    facts = results.get("machine")
    if facts:
        yield f"Measured on {_described(facts)}."
        yield ""


def _described(facts: Mapping[str, str]) -> str:
    tools = ", ".join(f"{name} {facts[name]}" for name in facts if name not in FACTS)
    return f"{facts['cores']} cores of {facts['cpu']} ({facts.get('instruction sets', '-')}); {tools}"


FACTS = ("system", "cpu", "cores", "python", "instruction sets", "cpu features", "load")


def _network(name: str, files: Mapping[str, Any]) -> Iterator[str]:
    """The tables of one network, with what was refused below them."""
    rows = {file: rows for file, rows in files.items() if file not in BESIDE and rows}
    yield f"### {name}"
    yield ""
    known = rows.get(FLOAT, {}).get(FAST[0])
    if known:
        yield f"float32: {known['bytes'] / 1e6:.2f} MB, accuracy {known['accuracy']:.4f} on {known['pictures']:,} test pictures."
        yield ""
    if JUDGED_ON in files:
        yield f"Measured on {_described(files[JUDGED_ON])}."
        yield ""
    columns = [f"{runtime}: SNR in dB | points lost | flips" for runtime in (*FAST, READING)]
    yield f"| file | MB | {' | '.join(columns)} | {PARSER} |"
    yield "|---" * (3 + 3 * len(columns)) + "|"
    others = _others(rows)
    for file, row in others.items():
        size = next((f"{each['bytes'] / 1e6:.2f}" for each in row.values() if "bytes" in each), "-")
        cells = [cell for runtime in (*FAST, READING) for cell in _error_cells(row, runtime)]
        yield f"| {' | '.join([file, size, *cells, _parser_cell(row.get(PARSER))])} |"
    yield ""
    yield from _speeds(others)
    yield from _reasons(others)


def _others(files: Mapping[str, Any]) -> dict[str, Any]:
    """The rows of every file but the float32 one."""
    return {file: row for file, row in files.items() if file not in (FLOAT, *BESIDE)}


def _error_cells(rows: Mapping[str, Any], runtime: str) -> tuple[str, str, str]:
    """SNR, points of accuracy lost with their interval, and flips; ONNX Runtime's SNR is as written and as optimised."""
    row = rows.get(runtime)
    if row is None or "snr_db" not in row:
        return ("refused" if row and "refused" in row else "-", "-", "-")
    written = rows.get(WRITTEN, {})
    before = f"{_decibels(written)} → " if runtime == FAST[0] and "snr_db" in written else ""
    return before + _decibels(row), _lost(row), str(row["flips"])


def _decibels(row: Mapping[str, Any]) -> str:
    return "exact" if row["snr_db"] is None else f"{row['snr_db']:.1f}"


def _lost(row: Mapping[str, Any]) -> str:
    """Points of accuracy that float32 has more, with the 95 % interval of the paired difference."""
    shares = (row["float32_accuracy"] - row["accuracy"], -row["high"], -row["low"])
    lost, low, high = (round(100 * share, 2) + 0.0 for share in shares)  # + 0.0: no "-0.00"
    return f"{lost:.2f} ({low:.2f} to {high:.2f})"


def _parser_cell(row: Mapping[str, Any] | None) -> str:
    if row is None or "absent" in row:
        return "-"
    if "refused" in row:
        return "refused"
    return ("builds" if row["builds"] else "parses, does not build") + (", warns" if row["warnings"] else "")


COLUMNS = [(runtime, batch) for runtime in FAST for batch in BATCHES]
SPEEDS_HEAD = " | ".join(f"{runtime}, batch {batch}" for runtime, batch in COLUMNS)
SPEED_UP = ("speed_up", "low", "high")


def _speeds(files: Mapping[str, Any]) -> Iterator[str]:
    """Times as fast as float32 in the same runtime, and as edgekit's int8, where that was measured."""
    against = {
        "float32": _speed_rows(files, lambda row: _three(row, *SPEED_UP)),
        "edgekit int8": _speed_rows(files, lambda row: tuple(row.get("of_edgekit_int8", ()))),
    }
    for other, cells in against.items():
        rows = {file: row for file, row in cells.items() if file != other}
        if rows:
            yield f"Times as fast as {other} in the same runtime, with the 95 % interval:"
            yield ""
            yield f"| file | {SPEEDS_HEAD} |"
            yield "|---" * (1 + len(COLUMNS)) + "|"
            yield from (f"| {file} | {row} |" for file, row in rows.items())
            yield ""


def _speed_rows(files: Mapping[str, Any], read: Callable[[Mapping[str, Any]], tuple[float, ...]]) -> dict[str, str]:
    """File -> cells of ``SPEEDS_HEAD``, of the files that have one; ``read``: a ratio and its interval, from what was timed."""
    numbers = {
        file: [read(rows.get(runtime, {}).get(f"speed_up_{batch}", {})) for runtime, batch in COLUMNS]
        for file, rows in files.items()
    }
    return {file: " | ".join(map(_speed_cell, row)) for file, row in numbers.items() if any(row)}


def _three(row: Mapping[str, Any], *names: str) -> tuple[float, ...]:
    return tuple(row[name] for name in names if name in row)


def _speed_cell(numbers: tuple[float, ...]) -> str:
    return "{:.2f} ({:.2f} to {:.2f})".format(*numbers) if numbers else "-"


def _reasons(files: Mapping[str, Any]) -> Iterator[str]:
    """What was refused, each reason of a file once."""
    places: dict[tuple[str, str], list[str]] = {}
    for file, rows in files.items():
        for runtime, row in rows.items():
            if "refused" in row:
                places.setdefault((file, row["refused"]), []).append(runtime)
    if places:
        yield from (f"- {file}; {', '.join(runtimes)}: {reason}" for (file, reason), runtimes in places.items())
        yield ""


def _without_vnni(results: Mapping[str, Any], on_avx2: Mapping[str, Any]) -> Iterator[str]:
    """Two tables of all networks: error of int8 files here and with AVX2 alone, and how fast all files are there."""
    networks = {name: _others(files) for name, files in on_avx2.items() if name not in BESIDE}
    if not networks:
        return
    yield "### Without VNNI"
    yield ""
    yield "The same again, as on a CPU that has AVX2 and nothing newer: CPUID tells the runtimes so (`benchmarks/lesser_cpu.py`)."
    yield f"The silicon is that of {_described(on_avx2['machine'])}."
    yield ""
    columns = "SNR in dB, with VNNI | AVX2 alone | points lost, with VNNI | AVX2 alone | flips, with VNNI | AVX2 alone"
    yield f"| network | file | runtime | {columns} |"
    yield "|---" * 9 + "|"
    for network, files in networks.items():
        known = results.get(network, {})
        here = known if known.get(WEIGHTS) == on_avx2[network][WEIGHTS] else {}
        for file in (file for file in files if "int8" in file):
            yield from (f"| {network} | {file} | {cells} |" for cells in _side_by_side(here.get(file, {}), files[file]))
    yield ""
    speeds = {name: _speed_rows(files, lambda row: _three(row, *SPEED_UP)) for name, files in networks.items()}
    if any(speeds.values()):
        yield "Times as fast as float32 in the same runtime on AVX2 alone, with the 95 % interval:"
        yield ""
        yield f"| network | file | {SPEEDS_HEAD} |"
        yield "|---" * (2 + len(COLUMNS)) + "|"
        yield from (f"| {name} | {file} | {row} |" for name, rows in speeds.items() for file, row in rows.items())
        yield ""


def _side_by_side(here: Mapping[str, Any], there: Mapping[str, Any]) -> Iterator[str]:
    """Cells of a file in each fast runtime: SNR, points lost and flips, here and there in turns."""
    for runtime in FAST:
        pairs = zip(_error_cells(here, runtime), _error_cells(there, runtime), strict=True)
        yield " | ".join([runtime, *(cell for pair in pairs for cell in pair)])
