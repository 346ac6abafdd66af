"""Run edgekit's float64 evaluator over ONNX's own test cases, and count where it agrees, refuses and is wrong.

    python benchmarks/onnx_suite.py                      # minutes; resumes; --only PATTERN
    python benchmarks/onnx_suite.py --again              # all cases anew: after a change of a kernel
    python benchmarks/onnx_suite.py --summary            # the table, from the result file

The cases are those of the onnx package: 1,884 nodes, and 140 models converted from PyTorch or made by hand. A case counts if an
output holds floats. "Agrees": every output is the case's expected one to what rounding explains. "Refused": the evaluator names a
reason. "Wrong": anything else. Every case is run twice: alone, and with ONNX Runtime as the witness of every node, as
``edgekit export`` does; what the witness refuses, export records in the file's own dtype. "Not run": ONNX Runtime does not run
the file, so it is no source.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import re
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from onnx.backend.test import loader

from edgekit.errors import ModelError, first_line
from edgekit.onnx.evaluator import Step
from edgekit.onnx.exact import ExactFile
from edgekit.onnx.refusal import Inexact, Unhandled
from edgekit.onnx.run import open_unoptimised
from edgekit.onnx.widen import is_float
from edgekit.onnx.witness import RuntimeWitness, error_of_scale
from edgekit.tensors import largest

RESULTS = Path(__file__).parent / "results" / "onnx_suite.json"
KINDS = ("pytorch-converted", "pytorch-operator", "simple")
LIMITS = {"float16": 1e-2, "bfloat16": 5e-2, "float64": 1e-6}  # error of scale; other dtypes: 2e-5
FOUR_DIGITS = ("test_roialign_*", "test_averagepool_2d_ceil_last_window_starts_on_pad")  # so many their expected numbers have
SECONDS = 120.0
OUTCOMES = ("agrees", "refused", "wrong", "not run")


class Case(NamedTuple):
    """A model with feeds, and the outputs expected for each, in the order of the model's outputs."""

    name: str
    model: onnx.ModelProto
    sets: Sequence[tuple[Sequence[Any], Sequence[Any]]]


def cases() -> Iterator[Case]:
    """Every case, sorted by name, nodes first."""
    np.random.seed(0)  # onnx's cases draw from it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nodes = loader.load_model_tests(kind="node")
    for case in sorted(nodes, key=lambda case: case.name):
        yield Case(case.name, case.model or onnx.ModelProto(), list(case.data_sets or ()))
    for kind in KINDS:
        for case in sorted(loader.load_model_tests(kind=kind), key=lambda case: case.name):
            yield stored_case(f"{kind}/{case.name}", Path(case.model_dir or ""))


def stored_case(name: str, folder: Path) -> Case:
    """A case from a folder of protobuf files."""
    model = onnx.load(folder / "model.onnx")
    sets = []
    for data in sorted(folder.glob("test_data_set_*")):
        sets.append((stored_values(data, "input", model.graph.input), stored_values(data, "output", model.graph.output)))
    return Case(name, model, sets)


def stored_values(folder: Path, role: str, infos: Any) -> list[Any]:
    values: list[Any] = []
    for index in range(len(list(folder.glob(f"{role}_*.pb")))):
        content = (folder / f"{role}_{index}.pb").read_bytes()
        if infos[index].type.HasField("sequence_type"):
            values.append(onnx.numpy_helper.to_list(onnx.SequenceProto.FromString(content)))
        else:
            values.append(onnx.numpy_helper.to_array(onnx.TensorProto.FromString(content)))
    return values


def has_floats(case: Case) -> bool:
    """Whether an expected output is an array of floats."""
    return any(isinstance(value, np.ndarray) and is_float(value) for _, outputs in case.sets for value in outputs)


def outcome_of(case: Case, *, witnessed: bool) -> dict[str, str]:
    """The outcome of one case, with the reason for a refusal, or the error of a wrong output."""
    for inputs, expected in case.sets:
        feed = feed_of(case.model, inputs)
        witness = RuntimeWitness(case.model, Path(case.name)) if witnessed else None
        try:
            outputs = ExactFile(case.model).whole(feed, time.process_time() + SECONDS, witness)
        except Inexact as problem:
            unrun = str(problem).startswith("no node can be compared") and theirs_of(case, feed) is None
            return {"outcome": "not run" if unrun else "refused", "reason": str(problem)[:200]}
        except Exception as problem:
            return {"outcome": "wrong", "reason": f"{type(problem).__name__}: {first_line(problem)}"}
        wrong = difference(list(outputs.values()), expected, 2e-4 if is_short(case) else 2e-5)
        if wrong and not in_dispute(case, feed, list(outputs.values())):
            return {"outcome": "wrong", "reason": wrong}
    return {"outcome": "agrees", "reason": ""}


def coarse_operators(case: Case) -> set[str]:
    """Operators of the main graph that answer a change of their inputs by 2^-20, and none by 2^-34: float32 is inside."""
    coarse = set()
    try:
        for moment in ExactFile(case.model).moments(feed_of(case.model, case.sets[0][0])):
            step, values = moment.step, dict(moment.values)
            if answers(step, values, moment.outputs, 20):
                coarse |= set() if answers(step, values, moment.outputs, 34) else {step.op_type}
    except (Inexact, Unhandled):
        pass
    return coarse


def answers(step: Step, values: dict[str, Any], outputs: dict[str, Any], bits: int) -> bool:
    """Whether most numbers of an output move when the inputs grow by some 2^-bits; a step function moves few."""
    rng = np.random.default_rng(0)
    grown = {
        name: value * (1 + 2.0**-bits * rng.uniform(0.5, 1.5, value.shape))
        if isinstance(value, np.ndarray) and is_float(value) else value
        for name, value in values.items()
    }  # fmt: skip
    try:
        moved = step.compute(grown, step.place)
    except Unhandled:  # a size has grown
        return False
    pairs = [(moved[name], value) for name, value in outputs.items() if isinstance(value, np.ndarray) and is_float(value)]
    pairs = [(new, old) for new, old in pairs if new.shape == old.shape and largest(old) > 1e-200]  # some cases hold no numbers
    return any((new != old).mean() > 0.5 for new, old in pairs)


def feed_of(model: onnx.ModelProto, inputs: Sequence[Any]) -> dict[str, Any]:
    """The inputs by name."""
    names = [value.name for value in model.graph.input]
    return dict(zip(names, map(array_of, inputs), strict=False))


def array_of(value: Any) -> Any:
    """A value of a case as an array, if it is a tensor."""
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.generic) else value


def is_short(case: Case) -> bool:
    return any(fnmatch.fnmatch(case.name, pattern) for pattern in FOUR_DIGITS)


def difference(ours: Sequence[Any], expected: Sequence[Any], limit: float = 2e-5) -> str:
    """A sentence on the first output that differs; empty if none does. ``limit``: the error of scale in float32."""
    for index, (value, array) in enumerate(zip(ours, expected, strict=False)):
        if not isinstance(array, np.ndarray) or array.dtype.kind in "OUS":
            continue
        error = error_of_scale(value, array)
        if not error <= LIMITS.get(array.dtype.name, limit):
            return f"output {index} is off by {error:.1e} of its scale"
    return ""


def in_dispute(case: Case, feed: dict[str, Any], ours: Sequence[Any]) -> bool:
    """Whether ONNX Runtime gives our outputs, not the expected ones; some expected outputs are those of another rounding."""
    theirs = theirs_of(case, feed)
    return theirs is not None and not difference(ours, theirs)


def theirs_of(case: Case, feed: dict[str, Any]) -> list[Any] | None:
    """ONNX Runtime's outputs; None if it does not run the case, which edgekit cannot export either."""
    try:
        return list(open_unoptimised(case.model, Path(case.name))(feed).values())
    except ModelError:
        return None


def run(path: Path, only: str, *, again: bool) -> dict[str, Any]:
    """Run all cases that the file at ``path`` lacks, and write it after every hundred."""
    known = json.loads(path.read_text())["cases"] if path.is_file() and not again else {}
    results: dict[str, Any] = {}
    for case in cases():
        if not fnmatch.fnmatch(case.name, only):
            results |= {case.name: known[case.name]} if case.name in known else {}
        elif case.name in known:
            results[case.name] = known[case.name]
        elif not has_floats(case):
            results[case.name] = {"outcome": "no floats"}
        else:
            results[case.name] = judged(case)
        if len(results) % 100 == 0:
            write(path, results)
    return write(path, results)


def judged(case: Case) -> dict[str, Any]:
    """The outcomes of a case alone and with a witness, and the operators that compute in float32 inside."""
    outcomes = {"alone": outcome_of(case, witnessed=False), "export": outcome_of(case, witnessed=True)}
    return outcomes | {"in_float32": sorted(coarse_operators(case))}


def write(path: Path, results: dict[str, Any]) -> dict[str, Any]:
    versions = {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
    document = {"versions": versions, "counts": counts(results), "refused": reasons(results), "cases": results}
    unfinished = path.with_suffix(".part")
    rows = ",\n  ".join(f"{json.dumps(name)}: {json.dumps(result)}" for name, result in results.items())
    text = json.dumps({**document, "cases": {}}, indent=1).replace('"cases": {}', f'"cases": {{\n  {rows}\n }}')
    unfinished.write_text(text + "\n", encoding="utf-8")
    os.replace(unfinished, path)
    return document


def counts(results: dict[str, Any]) -> dict[str, Any]:
    """The number of cases, of those with floats, and of each outcome."""
    floats = [case for case in results.values() if "alone" in case]
    table = {way: dict(Counter(case[way]["outcome"] for case in floats)) for way in ("alone", "export")}
    coarse = sorted({operator for case in floats for operator in case["in_float32"]})
    return {"cases": len(results), "with floats": len(floats), **table, "in_float32": coarse}


def reasons(results: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Reasons for refusals without names and numbers, and how often each was given."""
    table = {}
    for way in ("alone", "export"):
        refused = [case[way]["reason"] for case in results.values() if "alone" in case and case[way]["outcome"] == "refused"]
        table[way] = dict(Counter(re.sub(r"'[^']*'|\S*\d\S*", "_", reason)[:110] for reason in refused).most_common())
    return table


def summary(document: dict[str, Any]) -> Iterator[str]:
    number = document["counts"]
    yield f"{number['cases']} cases, {number['with floats']} with floats"
    for way in ("alone", "export"):
        outcomes = number[way]
        yield f"{way:<8}" + "   ".join(f"{name} {outcomes.get(name, 0):>5}" for name in OUTCOMES)
    yield f"operators that compute in float32 inside: {', '.join(number['in_float32']) or 'none'}"
    for way in ("alone", "export"):
        yield f"\nrefused, {way}:"
        yield from (f"{count:>5}  {reason}" for reason, count in document["refused"][way].items())
        yield f"wrong, {way}:"
        for name, case in document["cases"].items():
            if case.get(way, {}).get("outcome") == "wrong":
                yield f"       {name}: {case[way]['reason']}"


def main() -> None:
    """Run the cases that the command line names, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="*", help="run cases whose names match the pattern")
    parser.add_argument("--again", action="store_true", help="run cases that the result file has")
    parser.add_argument("--summary", action="store_true", help="print the table of the result file")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    document = (
        json.loads(options.output.read_text()) if options.summary else run(options.output, options.only, again=options.again)
    )
    print("\n".join(summary(document)))


if __name__ == "__main__":
    main()
