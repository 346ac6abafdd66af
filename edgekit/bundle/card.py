"""The model card: one page that tells a deployment team how to check, time and call the model."""

from __future__ import annotations

import html
import json
import textwrap

import msgspec

from edgekit.bundle.manifest import MANIFEST, Manifest, Variant
from edgekit.preprocess import Preprocess
from edgekit.reports.page import visible
from edgekit.tensors import fixed_batch, shape_text


def model_card(manifest: Manifest) -> str:
    """The card of a bundle, as Markdown."""
    sections = [
        f"# {_plain(manifest.name)}\n\n{_summary(manifest)}",
        _files(manifest),
        _check(manifest),
        _tensors(manifest),
        _preprocessing(manifest),
        f"## Call it\n\nIn this folder, with nothing but `pip install numpy onnxruntime`:\n\n```python\n{example(manifest)}```",
        _folding(manifest),
        _provenance(manifest),
    ]
    return "\n\n".join(section.strip() for section in sections if section) + "\n"


def example(manifest: Manifest) -> str:
    """A runnable program of ten lines: numpy and onnxruntime, one golden sample in, a label out."""
    size = fixed_batch(manifest.inputs) or 1
    feeds = ", ".join(f"{_quoted(spec.name)}: golden[{_quoted(f'input.{spec.name}')}][:{size}]" for spec in manifest.inputs)
    output = manifest.outputs[0].name
    last = 'print(manifest["labels"][int(output[0].argmax())])' if manifest.labels else "print(output.shape)"
    return textwrap.dedent(
        f"""\
        import json
        import numpy as np
        import onnxruntime as ort

        manifest = json.load(open("{MANIFEST}", encoding="utf-8"))
        golden = np.load({_quoted(manifest.golden.file)})  # inputs as the network takes them, with the right answers
        session = ort.InferenceSession({_quoted(manifest.variant().file)}, providers=["CPUExecutionProvider"])
        (output,) = session.run([{_quoted(output)}], {{{feeds}}})
        assert np.allclose(output, golden[{_quoted(f"float64.{output}")}][:{size}], rtol=1e-4, atol=1e-4)
        {last}
        """
    )


def _summary(manifest: Manifest) -> str:
    source = manifest.source
    facts = [f"{_code(source.model)}, exported by edgekit as ONNX opset {manifest.opset}."]
    if manifest.test_accuracy is not None:
        facts.append(f"Test accuracy of the exported file: **{manifest.test_accuracy:.4f}**.")
    return " ".join(facts)


def _files(manifest: Manifest) -> str:
    about = {variant.file: f"the network in {variant.precision}: one self-contained ONNX file" for variant in manifest.variants}
    golden = manifest.golden
    about[golden.file] = f"{golden.samples} inputs with the outputs of the original model, in float64 and in its own dtype"
    if manifest.source.weights_file:
        about[manifest.source.weights_file] = "the original PyTorch weights, before folding; only PyTorch needs them"
    about[MANIFEST] = "all of this page as data, with the size and sha256 of every file"
    rows = [f"| {_code(name)} | {text} |" for name, text in about.items()]
    return "\n".join(["## Files", "", "| file | what it is |", "|---|---|", *rows])


def _check(manifest: Manifest) -> str:
    error = manifest.golden.original_error
    own = f" In its own dtype the original model is off by {error:.1e} of the scale." if error is not None else ""
    return (
        "## Check it, time it\n\n"
        "With edgekit installed from its repository (`pip install '/path/to/edgekit[cpu]'` or `[gpu]`; the package of that "
        "name on PyPI is another project). PyTorch is not needed.\n\n```\n"
        "edgekit verify .              # every backend here against the recorded float64 outputs; exit code 1 on failure\n"
        "edgekit bench .               # latency of every backend here, interleaved\n```\n\n"
        "A variant passes when every output y is this near to its reference r:\n\n"
        + "\n".join(map(_allowance, manifest.variants))
        + f"\n\nThe reference is {_plain(manifest.golden.reference)}.{own}"
    )


def _allowance(variant: Variant) -> str:
    tolerance = variant.allowance.tolerance
    measured = f"; measured at export: off by {variant.error:.1e} of the scale" if variant.error is not None else ""
    return (
        f"- {_code(variant.name)} ({_code(variant.file)}): within {tolerance.atol:g} + {tolerance.rtol:g} x max|r|, and at least "
        f"{tolerance.top1:.0%} of the samples agree in their largest value{measured}."
    )


def _tensors(manifest: Manifest) -> str:
    rows = [f"| input | {_code(spec.name)} | {spec.dtype} | {shape_text(spec.shape)} |" for spec in manifest.inputs]
    rows += [f"| output | {_code(spec.name)} | {spec.dtype} | {shape_text(spec.shape)} |" for spec in manifest.outputs]
    labels = ""
    if manifest.labels:
        labels = "\n\nLabels, in the order of the output: " + ", ".join(map(_plain, manifest.labels)) + "."
    return "\n".join(["## Tensors", "", "| | name | dtype | shape |", "|---|---|---|---|", *rows]) + labels


def _preprocessing(manifest: Manifest) -> str:
    preprocess: Preprocess | None = manifest.preprocess
    if preprocess is None:
        return (
            "## Preprocessing\n\nNot recorded at export. The golden inputs are "
            f"{'random numbers' if manifest.golden.kind == 'random' else 'test pictures as the network takes them'}."
        )
    deep = "" if preprocess.white is msgspec.UNSET else f" (white of more than 8 bits is {preprocess.white:g})"
    return (
        "## Preprocessing\n\n"
        f"Decode the picture upright, flatten transparency onto black, convert it to {preprocess.color}{deep}, resize it to "
        f"{preprocess.height}x{preprocess.width} (height x width, Pillow's antialiased {preprocess.interpolation}), then\n\n"
        f"    x = (pixel / 255 - mean) / std        mean = {list(preprocess.mean)}, std = {list(preprocess.std)}\n\n"
        f"as float32 in {preprocess.layout}. `edgekit predict . PICTURE` does this."
    )


def _folding(manifest: Manifest) -> str:
    fold = manifest.fold
    lines = [f"## Batch norm\n\n{len(fold.folded)} of {fold.before} normalisations folded into the layers around them."]
    if fold.kept:
        lines.append("\nKept:\n")
        lines += [f"- {_code(norm.norm)} ({_plain(norm.kind)}): {_plain(norm.reason)}" for norm in fold.kept]
    return "\n".join(lines)


def _provenance(manifest: Manifest) -> str:
    tools = ", ".join(_plain(f"{name} {version}") for name, version in manifest.tools.items())
    notes = "".join(f"\n- {_plain(note)}" for note in manifest.notes)
    return f"## Provenance\n\nWeights sha256 `{manifest.source.weights_sha256}`. Made with {tools}.{notes}"


_MARKS = (("[", "\\["), ("|", "\\|"), ("://", "&#58;//"), ("www.", "www&#46;"))
"""Marks of Markdown, and of the links that it makes by itself, with what shows them as they are."""


def _plain(text: str) -> str:
    """Somebody's text as prose: no HTML, no link or picture, nothing that a terminal would obey, all in one line."""
    escaped = html.escape(visible(text).replace("\n", " "), quote=False).replace("\\", "\\\\")
    for mark, shown in _MARKS:
        escaped = escaped.replace(mark, shown)
    return escaped


def _code(text: str) -> str:
    """Somebody's text between backticks, which it cannot leave."""
    return "`" + visible(text).replace("\n", " ").replace("`", "'").replace("|", "\\|") + "`"


def _quoted(text: str) -> str:
    """A name as a Python literal that does not leave its line."""
    return json.dumps(text)
