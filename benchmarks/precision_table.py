"""Markdown tables of the result files of ``benchmarks/precision.py``; ``docs/results.py`` puts them into docs/precision.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

FLOAT = "float32"
READING = "TensorRT's reading"
PARSER = "TensorRT-RTX's parser"
WRITTEN = "ONNX Runtime, optimisations off"
FAST = ("ONNX Runtime", "OpenVINO")
BATCHES = (1, 8)
NONE_YET = "Not measured yet: run `python benchmarks/precision.py`."
JUDGED_ON = "judged on"
BESIDE = ("machine", "emulator", "timed on", JUDGED_ON)


def summary(results: Mapping[str, Any], without_vnni: Mapping[str, Any]) -> str:
    """Tables of error and of speed for each network, then one of what a CPU without VNNI computes."""
    networks = [name for name in results if name not in BESIDE]
    lines = [*_machine(results), *(line for name in networks for line in _network(name, results[name]))]
    return "\n".join([*(lines if networks else [NONE_YET, ""]), *_without_vnni(without_vnni)]).strip()


def _machine(results: Mapping[str, Any]) -> Iterator[str]:
    facts = results.get("machine")
    if facts:
        yield f"Measured on {_described(facts)}."
        yield ""


def _described(facts: Mapping[str, str]) -> str:
    tools = ", ".join(f"{name} {facts[name]}" for name in facts if name not in FACTS)
    return f"{facts['cores']} cores of {facts['cpu']} ({facts.get('instruction sets', '-')}); {tools}"


FACTS = ("system", "cpu", "cores", "python", "instruction sets", "load")


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
    others = {file: row for file, row in rows.items() if file != FLOAT}
    for file, row in others.items():
        size = next((f"{each['bytes'] / 1e6:.2f}" for each in row.values() if "bytes" in each), "-")
        cells = [cell for runtime in (*FAST, READING) for cell in _error_cells(row, runtime)]
        yield f"| {' | '.join([file, size, *cells, _parser_cell(row.get(PARSER))])} |"
    yield ""
    yield from _speeds(others)
    yield from _reasons(others)


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


def _speeds(files: Mapping[str, Any]) -> Iterator[str]:
    """Times as fast as float32 in the same runtime, and as edgekit's int8, where that was measured."""
    columns = [(runtime, batch) for runtime in FAST for batch in BATCHES]
    times = {
        file: [rows.get(runtime, {}).get(f"speed_up_{batch}", {}) for runtime, batch in columns] for file, rows in files.items()
    }
    against = {
        "float32": {file: [_three(each, "speed_up", "low", "high") for each in row] for file, row in times.items()},
        "edgekit int8": {file: [tuple(each.get("of_edgekit_int8", ())) for each in row] for file, row in times.items()},
    }
    for other, cells in against.items():
        rows = {file: row for file, row in cells.items() if any(row) and file != other}
        if rows:
            yield f"Times as fast as {other} in the same runtime, with the 95 % interval:"
            yield ""
            yield f"| file | {' | '.join(f'{runtime}, batch {batch}' for runtime, batch in columns)} |"
            yield "|---" * (1 + len(columns)) + "|"
            yield from (f"| {file} | {' | '.join(map(_speed_cell, row))} |" for file, row in rows.items())
            yield ""


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


def _without_vnni(results: Mapping[str, Any]) -> Iterator[str]:
    """One table of all networks: SNR as written, on the CPU here and on the emulated one."""
    networks = {name: files for name, files in results.items() if name not in BESIDE}
    if not networks:
        return
    rows = [row for files in networks.values() for file in files.values() for row in file.values() if "here" in row]
    pictures = max((row["here"]["pictures"] for row in rows), default=0)
    yield "### Without VNNI"
    yield ""
    here = results["machine"].get("instruction sets", "-")
    yield f"SNR in dB of int8 files on {pictures} test pictures: as written (ONNX Runtime, optimisations off); here ({here});"
    yield f"and on a CPU with AVX2 and no VNNI, emulated by {results['emulator']}."
    yield ""
    yield "| network | file | runtime | as written | here | without VNNI | flips here | flips without VNNI |"
    yield "|---|---|---|---|---|---|---|---|"
    for network, files in networks.items():
        for file, runtimes in files.items():
            for runtime, row in runtimes.items():
                yield f"| {' | '.join([network, file, runtime, *_vnni_cells(row)])} |"
    yield ""


def _vnni_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    if "refused" in row:
        return (f"refused: {row['refused']}", *["-"] * 4)
    here, without = row["here"], row["without_vnni"]
    numbers = [_decibels(each) for each in (row["as_written"], here, without)]
    return (*numbers, str(here["flips"]), str(without["flips"]))
