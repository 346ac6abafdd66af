"""Golden inputs and outputs as raw tensors, with the lines that run them in trtexec and a program that compares.

    golden/batch-0/inputs/...    one file an input: little-endian, C order, for ``trtexec --loadInputs``
    golden/batch-0/outputs/...   the float64 reference of each output
    golden.json                  names, dtypes, shapes, files, and the bars that an output is held to
    compare.py                   holds what ``trtexec --exportOutput`` wrote against them; needs numpy alone
    README.md                    the lines

A bundle with a fixed batch has a folder for each batch; copies of the last sample fill the last one up. A variant with inputs of
its own has golden samples of its own, in a folder of the name of their file.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files as resources
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from edgekit.bundle.allowance import bounded_allowance, held_by_snr
from edgekit.bundle.files import ModelFiles
from edgekit.bundle.folder import Bundle
from edgekit.bundle.golden import GoldenArrays
from edgekit.errors import printable
from edgekit.reports.ship import Shipped
from edgekit.ship.places import folder_name, raw_bytes, tensor_file, write_ours
from edgekit.tensors import Array, batches_of, fixed_batch, shape_text
from edgekit.tolerance import TIE

INDEX, COMPARE, PAGE = "golden.json", "compare.py", "README.md"
MARK = b'{\n  "edgekit": '
AT_ONCE = 1024
"""The most samples of a batch where the bundle takes any: as many as ``edgekit verify`` runs at once."""


def write_raw(bundle: Bundle, folder: Path) -> Shipped:
    """Write the folder, whole or not at all; raises OutputError for one that holds something else."""
    contents = dict(_contents(bundle))
    write_ours(folder, contents, INDEX, MARK)
    return Shipped("raw tensors", str(folder), tuple(sorted(contents)), f"the lines in {folder / PAGE}")


class _Samples(NamedTuple):
    """The golden samples of a variant: those of the network, unless it has inputs of its own.

    ``folder`` holds them in batches of ``size``; ``parts`` are the numbers of samples of their kinds.
    """

    folder: str
    arrays: GoldenArrays
    size: int
    parts: Sequence[int]

    @property
    def samples(self) -> int:
        return sum(self.parts)

    @property
    def batches(self) -> int:
        return -(-self.samples // self.size)

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Path -> the bytes, of every tensor of every batch."""
        tensors = {f"inputs/{tensor_file(*named)}": self.arrays.inputs[named[1]] for named in enumerate(self.arrays.inputs)}
        tensors |= {f"outputs/{tensor_file(*named)}": self.arrays.float64[named[1]] for named in enumerate(self.arrays.float64)}
        for number, (batch, _) in enumerate(batches_of(tensors, self.size)):
            yield from ((f"{self.folder}/batch-{number}/{name}", raw_bytes(array)) for name, array in batch.items())

    def described(self, arrays: Mapping[str, Array], dtype: str = "") -> list[dict[str, Any]]:
        """Name, dtype, shape of a batch, and file of each tensor."""
        return [
            {
                "name": name,
                "dtype": dtype or str(array.dtype),
                "shape": (self.size, *array.shape[1:]),
                "file": tensor_file(index, name),
            }
            for index, (name, array) in enumerate(arrays.items())
        ]


def _samples_of(bundle: Bundle, variant: str) -> _Samples:
    golden = bundle.manifest.golden_of(variant)
    size = fixed_batch(bundle.files(variant).inputs) or min(golden.samples, AT_ONCE)
    parts = [part.samples for part in golden.parts] or [golden.samples]
    return _Samples(Path(golden.file).stem, bundle.golden(variant), size, parts)


def _contents(bundle: Bundle) -> Iterator[tuple[str, bytes]]:
    """Path in the folder -> its bytes, of every file."""
    samples = {variant.name: _samples_of(bundle, variant.name) for variant in bundle.manifest.variants}
    for each in {every.folder: every for every in samples.values()}.values():
        yield from each.files()
    yield INDEX, msgspec.json.format(msgspec.json.encode(_index(bundle, samples)), indent=2) + b"\n"
    yield COMPARE, resources(__package__).joinpath("compare_raw.py").read_bytes()
    yield PAGE, _page(bundle, samples).encode()


def _index(bundle: Bundle, samples: Mapping[str, _Samples]) -> dict[str, Any]:
    return {
        "edgekit": bundle.manifest.tools.get("edgekit", ""),
        "bundle": bundle.manifest.name,
        "manifest_sha256": bundle.sha256,
        "variants": {name: _entry(bundle, name, of) for name, of in samples.items()},
    }


def _entry(bundle: Bundle, name: str, of: _Samples) -> dict[str, Any]:
    """A variant's samples, and what it is held to, as far as a bundle may choose it: the widest bar that ``edgekit verify`` has.

    ``held`` samples are within ``rtol`` of the scale of their part, and the first part has ``snr_db``. Largest values that are
    nearer than ``tie`` each, of scale, are a tie.
    """
    variant = bundle.variant(name)
    allowance, whole = bounded_allowance(variant), held_by_snr(variant)
    rtol = allowance.tolerance.rtol
    return {
        "file": variant.file,
        "folder": of.folder,
        "samples": of.samples,
        "batch": of.size,
        "batches": of.batches,
        "parts": of.parts,
        "inputs": of.described(of.arrays.inputs),
        "outputs": of.described(of.arrays.float64, "float64"),
        "rtol": rtol,
        "top1": allowance.tolerance.top1,
        "tie": max(rtol if whole is None else min(rtol, whole.tie), TIE / 2),
        "snr_db": allowance.snr_db,
        "held": of.samples if whole is None or allowance.steps is None else of.parts[0],
    }


def _page(bundle: Bundle, samples: Mapping[str, _Samples]) -> str:
    counts = {of.folder: f"- `{of.folder}`: {of.samples} samples in batches of {of.size}" for of in samples.values()}
    lines = [line for name, of in samples.items() for line in (*_lines(bundle.files(name), of), "")]
    return _PAGE.format(
        name=folder_name(bundle.manifest.name),
        sha256=bundle.sha256,
        samples="\n".join(counts.values()),
        lines="\n".join(lines).rstrip(),
    )


_PAGE = """\
# Golden tensors of {name}

Inputs as the files take them, and the float64 outputs of the reference:

{samples}

They are of the bundle whose `manifest.json` has the sha256 `{sha256}`. Every file is the elements alone,
little-endian in C order; `golden.json` has names, dtypes and shapes.

In this folder, with TensorRT's `trtexec` and the bundle beside it:

```sh
BUNDLE=/path/to/the/bundle
{lines}
```

`compare.py` needs Python with numpy. It prints the largest error of every output as a share of max|reference|, and the share of
samples with the same largest value. It exits with 1 where an output is outside of its bar. trtexec writes six digits of a number,
and that is allowed for. The bar is the widest that `edgekit verify` has for the file; where edgekit can run, `edgekit verify
--backend tensorrt` holds it to the rounding noise that was measured at export.

`--stronglyTyped` needs TensorRT 10. With TensorRT 8.6, `--fp16` takes its place for float16, and `--int8 --fp16` for int8.
`--noTF32` keeps products in float32. TensorRT reads an int64 input as int64 from release 10 on, and as int32 before.
"""


def _lines(files: ModelFiles, of: _Samples) -> Iterator[str]:
    """Build an engine of the variant, run every batch through it, and compare."""
    name, batch, batches = files.variant, "0" if of.batches == 1 else "$batch", of.batches
    inputs = of.described(of.arrays.inputs)
    shapes = ",".join(f"{_name(each['name'])}:{shape_text(each['shape'])}" for each in inputs)
    of_shapes = f" --shapes={shlex.quote(shapes)}" if any(spec.free for spec in files.inputs) else ""
    loaded = ",".join(f"{_name(each['name'])}:{of.folder}/batch-{batch}/inputs/{each['file']}" for each in inputs)
    typed = "" if files.precision in ("float32", "float64") else " --stronglyTyped"
    run = (
        f"trtexec --loadEngine={name}.plan{of_shapes} --loadInputs={_word(loaded)} "
        f"--exportOutput={name}-{batch}.json --iterations=1 --warmUp=0 --duration=0"
    )
    yield f'trtexec --onnx="$BUNDLE/{files.onnx.name}" --noTF32{typed}{of_shapes} --saveEngine={name}.plan --skipInference'
    yield run if batches == 1 else f"for batch in $(seq 0 {batches - 1}); do {run}; done"
    yield f"python3 {COMPARE} {name} {' '.join(f'{name}-{number}.json' for number in range(batches))}"


def _name(text: str) -> str:
    """The name of a tensor in a list of trtexec's, which takes one with colons or commas between single quotes."""
    return f"'{printable(text)}'" if set(text) & {":", ","} else printable(text)


def _word(text: str) -> str:
    """A word for a shell that puts a number in place of ``$batch`` in ``batch-$batch/``, and takes all else as it is."""
    escaped = "".join(f"\\{letter}" if letter in '\\"`$' else letter for letter in text)
    return f'"{escaped}"'.replace("/batch-\\$batch/", "/batch-$batch/")
