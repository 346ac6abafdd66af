"""Golden inputs and outputs as raw tensors, with the lines that run them in trtexec and a program that compares.

    batch-0/inputs/...      one file an input: little-endian, C order, for ``trtexec --loadInputs``
    batch-0/outputs/...     the float64 reference of each output
    golden.json             names, dtypes, shapes, files, and the bars that an output is held to
    compare.py              holds what ``trtexec --exportOutput`` wrote against them; needs numpy alone
    README.md               the lines

A bundle with a fixed batch has a folder for each batch; copies of the last sample fill the last one up.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

import msgspec

from edgekit.bundle.allowance import bounded_allowance, held_by_snr
from edgekit.bundle.files import ModelFiles
from edgekit.bundle.folder import Bundle
from edgekit.bundle.manifest import Manifest, Variant
from edgekit.errors import printable
from edgekit.files import replacing_folder
from edgekit.reports.ship import Shipped
from edgekit.ship.places import check_ours, folder_name, raw_bytes, tensor_file
from edgekit.tensors import batches_of, fixed_batch, shape_text
from edgekit.tolerance import TIE

INDEX, COMPARE, PAGE = "golden.json", "compare.py", "README.md"
MARK = b'{\n  "edgekit": '
AT_ONCE = 1024
"""The most samples of a batch where the bundle takes any: as many as ``edgekit verify`` runs at once."""


def write_raw(bundle: Bundle, folder: Path) -> Shipped:
    """Write the folder, whole or not at all; raises OutputError for one that holds something else."""
    contents = dict(_contents(bundle))
    check_ours(folder, contents, INDEX, MARK)
    with replacing_folder(folder) as temporary:
        for name, content in contents.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).write_bytes(content)
    return Shipped("raw tensors", str(folder), tuple(sorted(contents)), f"the lines in {folder / PAGE}")


def _contents(bundle: Bundle) -> Iterator[tuple[str, bytes]]:
    """Path in the folder -> its bytes, of every file."""
    manifest, golden = bundle.manifest, bundle.golden()
    size = fixed_batch(manifest.inputs) or min(manifest.golden.samples, AT_ONCE)
    tensors = {f"inputs/{tensor_file(*named)}": golden.inputs[named[1]] for named in enumerate(golden.inputs)}
    tensors |= {f"outputs/{tensor_file(*named)}": golden.float64[named[1]] for named in enumerate(golden.float64)}
    batches = 0
    for batch, _ in batches_of(tensors, size):
        yield from ((f"batch-{batches}/{name}", raw_bytes(array)) for name, array in batch.items())
        batches += 1
    yield INDEX, msgspec.json.format(msgspec.json.encode(_index(bundle, size, batches)), indent=2) + b"\n"
    yield COMPARE, resources(__package__).joinpath("compare_raw.py").read_bytes()
    yield PAGE, _page(bundle, size, batches).encode()


def _index(bundle: Bundle, size: int, batches: int) -> dict[str, Any]:
    manifest = bundle.manifest
    sizes = [part.samples for part in manifest.golden.parts] or [manifest.golden.samples]
    return {
        "edgekit": manifest.tools.get("edgekit", ""),
        "bundle": manifest.name,
        "manifest_sha256": bundle.sha256,
        "samples": manifest.golden.samples,
        "batch": size,
        "batches": batches,
        "parts": sizes,
        "inputs": [
            {"name": spec.name, "dtype": spec.dtype, "shape": spec.of_samples(size), "file": tensor_file(index, spec.name)}
            for index, spec in enumerate(manifest.inputs)
        ],
        "outputs": [
            {"name": spec.name, "dtype": "float64", "shape": spec.of_samples(size), "file": tensor_file(index, spec.name)}
            for index, spec in enumerate(manifest.outputs)
        ],
        "variants": {variant.name: _bar(bundle, variant.name, sizes) for variant in _taking_these(manifest)},
    }


def _taking_these(manifest: Manifest) -> list[Variant]:
    """The variants that take the golden inputs; one with inputs of its own, such as pictures, has no lines."""
    return [variant for variant in manifest.variants if not variant.inputs]


def _bar(bundle: Bundle, name: str, sizes: Sequence[int]) -> dict[str, Any]:
    """What a variant is held to, as far as a bundle may choose it: the widest bar that ``edgekit verify`` has.

    ``held`` samples are within ``rtol`` of the scale of their part, and the first part has ``snr_db``. Largest values that are
    nearer than ``tie`` each, of scale, are a tie.
    """
    variant = bundle.variant(name)
    allowance, whole = bounded_allowance(variant), held_by_snr(variant)
    rtol = allowance.tolerance.rtol
    return {
        "file": variant.file,
        "rtol": rtol,
        "top1": allowance.tolerance.top1,
        "tie": max(rtol if whole is None else min(rtol, whole.tie), TIE / 2),
        "snr_db": allowance.snr_db,
        "held": sum(sizes) if whole is None or allowance.steps is None else sizes[0],
    }


def _page(bundle: Bundle, size: int, batches: int) -> str:
    manifest = bundle.manifest
    samples = f"{manifest.golden.samples} golden samples, in {batches} batch{'es' if batches > 1 else ''} of {size}"
    lines = [line for variant in _taking_these(manifest) for line in (*_lines(bundle.files(variant.name), size, batches), "")]
    return _PAGE.format(
        name=folder_name(manifest.name), sha256=bundle.sha256, samples=samples, lines="\n".join(lines).rstrip(), batches=batches
    )


_PAGE = """\
# Golden tensors of {name}

{samples}: inputs as the network takes them, and the float64 outputs of the reference. They are of the bundle
whose `manifest.json` has the sha256 `{sha256}`. Every file is the elements alone,
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


def _lines(files: ModelFiles, size: int, batches: int) -> Iterator[str]:
    """Build an engine of the variant, run every batch through it, and compare."""
    name, batch = files.variant, "0" if batches == 1 else "$batch"
    shapes = ",".join(f"{_name(spec.name)}:{shape_text(spec.of_samples(size))}" for spec in files.inputs)
    of_shapes = f" --shapes={shlex.quote(shapes)}" if fixed_batch(files.inputs) is None else ""
    inputs = [f"{_name(spec.name)}:batch-{batch}/inputs/{tensor_file(n, spec.name)}" for n, spec in enumerate(files.inputs)]
    typed = "" if files.precision in ("float32", "float64") else " --stronglyTyped"
    run = (
        f"trtexec --loadEngine={name}.plan{of_shapes} --loadInputs={_word(','.join(inputs))} "
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
    return f'"{escaped}"'.replace(":batch-\\$batch/", ":batch-$batch/")
