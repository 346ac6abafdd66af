"""The model card: one page that tells a deployment team how to check, time and call the model."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from edgekit.bundle.allowance import asks_too_much, held_by_snr, held_to_noise
from edgekit.bundle.described import CHANGED, variant_rows
from edgekit.bundle.front_matter import front_matter
from edgekit.bundle.manifest import BOM, CARD, MANIFEST, Manifest, Variant
from edgekit.bundle.provenance import Provenance
from edgekit.preprocess import Preprocess
from edgekit.reports.inspect import VARIANT_COLUMNS, VariantRow
from edgekit.reports.markdown import code, plain_text
from edgekit.tensors import fixed_batch, shape_text
from edgekit.tolerance import MEASURED_FACTOR, UNMEASURED_FACTOR, widest_rtol

ONNXRUNTIME = "1.22"
"""The oldest ONNX Runtime that edgekit is tested with, as in pyproject.toml."""


def model_card(manifest: Manifest, pictures: int | None = None) -> str:
    """The card of a bundle, as Markdown; ``pictures``: the number of test pictures that accuracies are of, None if not known."""
    sections = [
        front_matter(manifest, "image-classification" if takes_pictures(manifest) else "") if manifest.provenance else "",
        f"# {plain_text(manifest.name)}\n\n{_summary(manifest)}",
        _files(manifest),
        _variants(manifest, pictures),
        _check(manifest),
        _tensors(manifest),
        _preprocessing(manifest),
        _calling(manifest),
        _folding(manifest),
        _provenance(manifest),
    ]
    return "\n\n".join(section.strip() for section in sections if section) + "\n"


def _calling(manifest: Manifest) -> str:
    """The programs that call the network, and what they need."""
    measured = (manifest.evidence.runtimes if manifest.evidence else {}).get("ort-cpu", {}).get("onnxruntime")
    release = f"; {plain_text(measured)} was measured at export" if measured else ""
    parts = [
        f"## Call it\n\nIn this folder, with nothing but `pip install numpy 'onnxruntime>={ONNXRUNTIME}'`{release}. A golden "
        f"input, and the right answer:\n\n```python\n{example(manifest)}```"
    ]
    raw = picture_variant(manifest)
    if raw is not None and takes_pictures(manifest):
        parts.append(_with_preprocessing(manifest, raw))
    elif takes_pictures(manifest):
        parts.append(
            "A picture, with `pip install pillow` beside them. Pictures of more than 8 bits a channel are for `edgekit predict`, "
            f"which scales them by what their type can hold:\n\n```python\n{picture_example(manifest)}```"
        )
    return "\n\n".join(parts)


def takes_pictures(manifest: Manifest) -> bool:
    """Whether one picture is all that the network takes, and a class is what it gives."""
    single = len(manifest.inputs) == 1 and len(manifest.outputs[0].shape) == 2
    return manifest.preprocess is not None and bool(manifest.labels) and single


def picture_example(manifest: Manifest) -> str:
    """A runnable program: numpy, Pillow and onnxruntime, a picture in, a label out; the same pixels as ``Preprocess.open``."""
    assert manifest.preprocess is not None
    preprocess, image = manifest.preprocess, manifest.inputs[0]
    size = fixed_batch(manifest.inputs) or 1
    mode = "L" if preprocess.color == "grey" else "RGB"
    shape = f"({preprocess.height}, {preprocess.width}, {len(preprocess.mean)})"
    sample = f"preprocess({_quoted(_picture(manifest))})"
    batch = sample if size == 1 else f"np.repeat({sample}, {size}, axis=0)"
    return textwrap.dedent(
        f"""\
        import json
        import numpy as np
        import onnxruntime as ort
        from PIL import Image, ImageOps


        def preprocess(path):
            picture = ImageOps.exif_transpose(Image.open(path)).convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "black"), picture).convert("{mode}")
            picture = picture.resize(({preprocess.width}, {preprocess.height}), Image.Resampling.BILINEAR)
            pixels = np.asarray(picture, np.float32).reshape{shape} / np.float32(255)
            mean, std = np.float32({list(preprocess.mean)}), np.float32({list(preprocess.std)})
            return ((pixels - mean) / std).transpose(2, 0, 1)[None].astype("{image.dtype}")


        labels = json.load(open("{MANIFEST}", encoding="utf-8"))["labels"]
        session = ort.InferenceSession({_quoted(manifest.variant().file)}, providers=["CPUExecutionProvider"])
        feed = {{{_quoted(image.name)}: {batch}}}
        print(labels[int(session.run([{_quoted(manifest.outputs[0].name)}], feed)[0][0].argmax())])
        """
    )


def picture_variant(manifest: Manifest) -> Variant | None:
    """The variant that takes pictures as they are decoded, where the bundle has one."""
    return next((variant for variant in manifest.variants if variant.inputs), None)


def _with_preprocessing(manifest: Manifest, variant: Variant) -> str:
    """The programs that give a picture to the variant that preprocesses it itself."""
    programs = {
        "In Python, with `pip install pillow` beside them": ("python", raw_picture_example(manifest, variant)),
        "In C++": ("cpp", program("label.cpp", manifest, variant)),
        "In JavaScript, as a page": ("html", program("label.html", manifest, variant)),
    }
    head = (
        f"A picture of any size: {code(variant.file)} resizes and normalises it itself, as Pillow does. It takes uint8 batch x "
        "height x width x 3 (RGB), decoded, upright and flattened onto black."
    )
    return "\n\n".join([head, *(f"{where}:\n\n```{kind}\n{text}```" for where, (kind, text) in programs.items())])


def raw_picture_example(manifest: Manifest, variant: Variant) -> str:
    """A runnable program: numpy, Pillow and onnxruntime, a picture in, a label out, and no preprocessing of its own."""
    assert variant.inputs
    size = fixed_batch(variant.inputs) or 1
    sample = "np.asarray(picture)[None]"
    batch = sample if size == 1 else f"np.repeat({sample}, {size}, axis=0)"
    return textwrap.dedent(
        f"""\
        import json
        import numpy as np
        import onnxruntime as ort
        from PIL import Image, ImageOps

        labels = json.load(open("{MANIFEST}", encoding="utf-8"))["labels"]
        session = ort.InferenceSession({_quoted(variant.file)}, providers=["CPUExecutionProvider"])
        picture = ImageOps.exif_transpose(Image.open({_quoted(_picture(manifest))})).convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "black"), picture).convert("RGB")
        feed = {{{_quoted(variant.inputs[0].name)}: {batch}}}
        print(labels[int(session.run([{_quoted(manifest.outputs[0].name)}], feed)[0][0].argmax())])
        """
    )


def program(name: str, manifest: Manifest, variant: Variant) -> str:
    """A program of ``edgekit/bundle/programs`` for the bundle: its file, its tensors and its batch in place of the capitals."""
    assert variant.inputs
    text = (Path(__file__).parent / "programs" / name).read_text(encoding="utf-8")
    texts = {"$MODEL": variant.file, "$INPUT": variant.inputs[0].name, "$OUTPUT": manifest.outputs[0].name}
    for place, value in {**texts, "$PICTURE": _picture(manifest)}.items():
        text = text.replace(f'"{place}"', _quoted(value).replace("</", "<\\u002f"))
    return text.replace('"$BATCH"', str(fixed_batch(variant.inputs) or 1))


def _picture(manifest: Manifest) -> str:
    return manifest.golden.pictures[0].file if manifest.golden.pictures else "photo.jpg"


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
    facts = [f"{code(source.model)}, exported by edgekit as ONNX opset {manifest.opset}."]
    if manifest.test_accuracy is not None:
        facts.append(f"Test accuracy of the exported file: **{manifest.test_accuracy:.4f}**.")
    return " ".join(facts)


def _network(manifest: Manifest) -> str:
    """The network of which the golden outputs are."""
    trained_for = manifest.variants[0].made_by.get("trained_for")
    return f"the folded network after its training for {plain_text(str(trained_for))}" if trained_for else "the original model"


def _files(manifest: Manifest) -> str:
    about = {
        variant.file: f"the network in {variant.precision}{_of_pictures(variant)}: one self-contained ONNX file"
        for variant in manifest.variants
    }
    for variant in manifest.variants:
        if variant.conversion is not None:
            about[variant.conversion.outputs] = f"what {variant.file} itself computes of the golden inputs"
        if variant.conversion is not None and variant.conversion.ranges is not None:
            about[variant.conversion.ranges] = f"the ranges of values that the steps of {variant.file} come from"
        if variant.golden:
            about[variant.golden.file] = f"{variant.golden.samples} pictures with the float64 outputs of {variant.file}"
    golden = manifest.golden
    about[golden.file] = f"{golden.samples} inputs with the outputs of {_network(manifest)}, in float64 and in its own dtype"
    if manifest.evidence is not None:
        predictions = ", and what the original says of the test set" if manifest.evidence.data else ""
        about[manifest.evidence.file] = (
            f"the rounding noise of every output and marks of every node, from the export{predictions}"
        )
    if manifest.source.weights_file:
        about[manifest.source.weights_file] = "the original PyTorch weights, before folding; only PyTorch needs them"
    about[MANIFEST] = "all of this page as data, with the size and sha256 of every file"
    if manifest.provenance:  # since there is one, there is a bill of materials
        about[BOM] = "the bill of materials: files, data and tools, as CycloneDX 1.6"
    about[CARD] = "this page"
    rows = [f"| {code(name)} | {text} |" for name, text in about.items()]
    if golden.pictures:
        names = ", ".join(code(picture.file) for picture in golden.pictures)
        rows.insert(
            list(about).index(golden.file) + 1, f"| {names} | the first golden inputs as pictures, before the preprocessing |"
        )
    return "\n".join(["## Files", "", "| file | what it is |", "|---|---|", *rows])


def _of_pictures(variant: Variant) -> str:
    return " behind its preprocessing" if variant.inputs else ""


def _variants(manifest: Manifest, pictures: int | None) -> str:
    """A table of the files to choose from, where there are several."""
    if len(manifest.variants) < 2:
        return ""
    described = variant_rows(manifest, pictures)
    rows = [f"| {' | '.join((code(row.name), *map(plain_text, row.cells()[1:])))} |" for row in described]
    notes = (
        "Errors are against the float64 reference, over all golden inputs. `edgekit verify .` checks every variant, and "
        "`--variant NAME` chooses one. An int8 file computes other numbers on a CPU without VNNI: measure its accuracy on "
        "the target with `edgekit evaluate . --variant int8`."
    )
    if any(row.calibrated is False for row in described):
        notes += " A file that is not calibrated has the ranges of random numbers, and its accuracy means nothing."
    speeds = [f"- {plain_text(row.speed)}." for row in described if row.speed]
    head = ["## Variants", "", f"| {' | '.join(VARIANT_COLUMNS)} |", "|" + "---|" * len(VARIANT_COLUMNS)]
    return "\n".join([*head, *rows, "", notes, *(("", *speeds) if speeds else ()), *_in_float(described)])


MOST_IN_FLOAT = 20
"""Layers of a variant that the card lists, of those that stayed in float."""


def _in_float(described: Sequence[VariantRow]) -> Iterator[str]:
    """A table of the layers of each variant that stayed in float, and why."""
    for row in described:
        if not row.in_float:
            continue
        layers = len(row.in_float) + (row.converted or 0)
        yield from ("", f"In {code(row.name)} {len(row.in_float)} of {layers} layers stay in float:", "")
        yield from ("| module | node | operator | because |", "|---|---|---|---|")
        for kept in row.in_float[:MOST_IN_FLOAT]:
            names = (code(name) if name else "" for name in (kept.module, kept.node))
            yield f"| {' | '.join((*names, plain_text(kept.operator), plain_text(kept.reason)))} |"
        if len(row.in_float) > MOST_IN_FLOAT:
            yield from ("", f"{len(row.in_float) - MOST_IN_FLOAT} more are in `{MANIFEST}`.")


def _check(manifest: Manifest) -> str:
    error = manifest.golden.original_error
    own = f" In its own dtype the original model is off by {error:.1e} of the scale." if error is not None else ""
    return (
        "## Check it, time it\n\n"
        "With edgekit installed from its repository (`pip install '/path/to/edgekit[cpu]'` or `[gpu]`; the package of that "
        "name on PyPI is another project). PyTorch is not needed.\n\n```\n"
        "edgekit verify .              # every backend here against the recorded float64 outputs; exit code 1 on failure\n"
        "edgekit bench .               # latency of every backend here, interleaved\n```\n\n"
        "`edgekit verify` passes a file when every output y is this near to its reference r:\n\n"
        + "\n".join(_allowance(manifest, variant) for variant in manifest.variants)
        + f"\n\nThe reference is {plain_text(manifest.golden.reference)}.{own}"
    )


def _allowance(manifest: Manifest, variant: Variant) -> str:
    measured = ""
    if variant.error is not None:
        when = "at export" if variant.conversion is None else "when it was made"
        measured = f" Measured {when}, in a runtime without optimisations: off by {variant.error:.1e} of the scale."
    return f"- {code(variant.name)} ({code(variant.file)}): {_bar(manifest, variant)}.{measured}"


def _bar(manifest: Manifest, variant: Variant) -> str:
    """The bar of ``edgekit.parity.bars`` in words."""
    tolerance = variant.allowance.tolerance
    if asks_too_much(variant):
        return (
            f"within {tolerance.atol:g} + {tolerance.rtol:g} x max|r|, and at least {tolerance.top1:.0%} of the samples agree in "
            "their largest value; this bar is wider than a bundle may choose, so that `edgekit verify` takes it only with "
            "`--allow tolerance`"
        )
    if held_by_snr(variant) is not None:
        return _converted_bar(manifest, variant)
    most = f"{min(tolerance.rtol, widest_rtol(variant.precision)):g} of the scale max|r|"
    top1 = "and every sample has its largest value where r has it"
    if manifest.evidence is None or not held_to_noise(manifest, variant):
        return f"within {most}, {top1}"
    return (
        f"every channel within {MEASURED_FACTOR} times its rounding noise, measured at export ({UNMEASURED_FACTOR} times "
        f"on a runtime or a kind of machine that was not measured), never more than {most}, {top1}"
    )


def _converted_bar(manifest: Manifest, variant: Variant) -> str:
    """The bar of ``edgekit.parity.converted`` in words."""
    held, first = variant.allowance, manifest.golden.parts[0].kind if manifest.golden.parts else "samples"
    others = ""
    if held.steps is not None:
        others = f"; there within {held.steps:g} steps (1/127 of the scale) of the outputs recorded with the file"
    return (
        f"on the {plain_text(first)} a signal-to-noise ratio of at least {held.snr_db:.1f} dB, every output within "
        f"{held.tolerance.rtol:.2g} of the scale max|r|, and the same largest value in at least {held.tolerance.top1:.1%} of the "
        f"samples{others}"
    )


def _tensors(manifest: Manifest) -> str:
    rows = [f"| input | {code(spec.name)} | {spec.dtype} | {shape_text(spec.shape)} |" for spec in manifest.inputs]
    for variant in manifest.variants:
        for spec in variant.inputs or ():
            rows.append(f"| input of {code(variant.name)} | {code(spec.name)} | {spec.dtype} | {shape_text(spec.shape)} |")
    rows += [f"| output | {code(spec.name)} | {spec.dtype} | {shape_text(spec.shape)} |" for spec in manifest.outputs]
    labels = ""
    if manifest.labels:
        labels = "\n\nLabels, in the order of the output: " + ", ".join(map(plain_text, manifest.labels)) + "."
    return "\n".join(["## Tensors", "", "| | name | dtype | shape |", "|---|---|---|---|", *rows]) + labels


def _preprocessing(manifest: Manifest) -> str:
    preprocess: Preprocess | None = manifest.preprocess
    if preprocess is None:
        return (
            "## Preprocessing\n\nNot recorded at export. The golden inputs are "
            f"{'made up' if manifest.golden.kind == 'random' else 'test pictures as the network takes them'}."
        )
    raw = picture_variant(manifest)
    below = ", and so does the second program below" if takes_pictures(manifest) else ""
    below = f", and {code(raw.file)} does the resizing and what follows" if raw is not None else below
    deep = "" if preprocess.white is msgspec.UNSET else f" (white of more than 8 bits is {preprocess.white:g})"
    return (
        "## Preprocessing\n\n"
        f"Decode the picture upright, flatten transparency onto black, convert it to {preprocess.color}{deep}, resize it to "
        f"{preprocess.height}x{preprocess.width} (height x width, Pillow's antialiased {preprocess.interpolation}), then\n\n"
        f"    x = (pixel / 255 - mean) / std        mean = {list(preprocess.mean)}, std = {list(preprocess.std)}\n\n"
        f"as float32 in {preprocess.layout}. `edgekit predict . PICTURE` does this{below}."
    )


def _folding(manifest: Manifest) -> str:
    fold = manifest.fold
    lines = [f"## Batch norm\n\n{len(fold.folded)} of {fold.before} normalisations folded into the layers around them."]
    if fold.kept:
        lines.append("\nKept:\n")
        lines += [f"- {code(norm.norm)} ({plain_text(norm.kind)}): {plain_text(norm.reason)}" for norm in fold.kept]
    return "\n".join(lines)


def _provenance(manifest: Manifest) -> str:
    tools = ", ".join(plain_text(f"{name} {version}") for name, version in manifest.tools.items())
    notes = "".join(f"\n- {plain_text(note)}" for note in manifest.notes)
    who = "".join(f"{sentence}. " for sentence in _origin(manifest.origin))
    return f"## Provenance\n\n{who}Weights sha256 `{manifest.source.weights_sha256}`. Made with {tools}.{notes}"


def _origin(origin: Provenance) -> Iterator[str]:
    """What is known of who made the bundle, when, of which code and which data."""
    if origin.author:
        yield f"By {plain_text(origin.author)}"
    if origin.license:
        yield f"Licence: {plain_text(origin.license)}"
    if origin.created:
        yield f"Created {plain_text(origin.created)}"
    if origin.commit:
        yield f"Exported at commit {code(origin.commit)}{CHANGED if origin.changed else ''}"
    if origin.data is not None:
        fingerprint = f" ({code(origin.data.sha256)})" if origin.data.sha256 else ""
        yield f"Trained on {plain_text(origin.data.name)}{fingerprint}"
    if origin.training is not None and origin.training.commit:
        changed = CHANGED if origin.training.changed else ""
        yield f"Trained in {origin.training.epochs} epochs at commit {code(origin.training.commit)}{changed}"


def _quoted(text: str) -> str:
    """A name as a Python literal that does not leave its line."""
    return json.dumps(text)
