"""The model card is complete, and its example runs with nothing but numpy and onnxruntime."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from edgekit.accuracy import share_interval
from edgekit.bundle.card import ONNXRUNTIME, example, model_card, picture_example, program
from edgekit.bundle.described import WORTH, pictures_of, speed_in_words
from edgekit.bundle.folder import Bundle, open_bundle
from edgekit.bundle.manifest import Allowance, Calibration, FileEntry, Manifest, Speed, Variant
from edgekit.commands.quantize import quantize
from edgekit.preprocess import Preprocess
from edgekit.reports.export import FoldReport, Kept
from edgekit.reports.quantize import KeptNode
from edgekit.tensors import TensorSpec
from edgekit.tolerance import Tolerance
from tests.bundle.editing import without_variants
from tests.converted import convert, copied

RANDOM = Calibration("random numbers", 64, "0" * 64, "minmax", calibrated=False)
BLOCKED = ("torch", "torchvision", "onnx", "onnxscript", "onnx_ir", "edgekit", "msgspec", "PIL", "safetensors")
PRELUDE = f"import sys\nfor name in {BLOCKED!r}: sys.modules[name] = None\n"


@pytest.fixture
def lenet(repository: Path) -> Manifest:
    return open_bundle(repository / "exported" / "lenet").manifest


@pytest.fixture
def manifest(bundle: Path) -> Manifest:
    return open_bundle(bundle).manifest


def program_of(card: str) -> str:
    program: str
    program, *_ = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    return program


def run(program: str, folder: Path, environment: dict[str, str], prelude: str = PRELUDE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning", "-c", prelude + program],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_example_in_the_card_runs_as_it_stands_and_prints_a_label(bundle: Path, environment: dict[str, str]) -> None:
    program = program_of((bundle / "README.md").read_text(encoding="utf-8"))
    done = run(program, bundle, environment)
    assert done.returncode == 0, done.stderr
    opened = open_bundle(bundle)
    best = int(opened.golden().float64["output"][0].argmax())
    assert done.stdout == f"{opened.manifest.labels[best]}\n"


def test_the_example_fails_if_the_outputs_differ_from_the_recorded_ones(bundle: Path, environment: dict[str, str]) -> None:
    with np.load(bundle / "golden.npz") as content:
        members = dict(content)
    np.savez(bundle / "golden.npz", **{**members, "float64.output": members["float64.output"] * 1.01})
    done = run(program_of((bundle / "README.md").read_text(encoding="utf-8")), bundle, environment)
    assert done.returncode != 0
    assert "AssertionError" in done.stderr


def test_the_example_has_about_ten_lines(manifest: Manifest) -> None:
    lines = [line for line in example(manifest).splitlines() if line.strip()]
    assert len(lines) <= 10
    assert max(map(len, lines)) <= 120


PIXELS = np.random.default_rng(5).integers(0, 256, (37, 53, 4), np.uint8)
TURNED = Image.Exif()
TURNED[0x0112] = 6
PICTURES: dict[str, Callable[[Path], None]] = {
    "grey": lambda path: Image.fromarray(PIXELS[..., 0]).save(path),
    "colour": lambda path: Image.fromarray(PIXELS[..., :3]).save(path),
    "transparent": lambda path: Image.fromarray(PIXELS).save(path),
    "palette": lambda path: Image.fromarray(PIXELS[..., :3]).quantize(16).save(path),
    "turned": lambda path: Image.fromarray(PIXELS[..., :3]).save(path, exif=TURNED),
}


@pytest.mark.parametrize("name", PICTURES)
def test_the_cards_preprocessing_gives_the_pixels_that_predict_sees(lenet: Manifest, name: str, tmp_path: Path) -> None:
    PICTURES[name](tmp_path / "picture.png")
    for color, mean in (("grey", (0.286,)), ("rgb", (0.485, 0.456, 0.406))):
        preprocess = Preprocess(color, 28, 24, mean, mean)  # type: ignore[arg-type]
        program = picture_example(msgspec.structs.replace(lenet, preprocess=preprocess)).split("\nlabels =")[0]
        functions: dict[str, Any] = {}
        exec(program, functions)
        wanted = preprocess.normalise(preprocess.open(tmp_path / "picture.png")[None])
        np.testing.assert_array_equal(functions["preprocess"](tmp_path / "picture.png"), wanted)


def test_the_cards_program_for_a_picture_prints_its_label(repository: Path, lenet: Manifest, environment: dict[str, str]) -> None:
    blocked = f"import sys\nfor name in {tuple(name for name in BLOCKED if name != 'PIL')!r}: sys.modules[name] = None\n"
    done = run(picture_example(lenet), repository / "exported" / "lenet", environment, blocked)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{lenet.labels[lenet.golden.pictures[0].label]}\n"


def test_only_a_card_of_a_network_that_labels_pictures_has_a_program_for_them(lenet: Manifest) -> None:
    assert model_card(lenet).count("```python") == 2
    assert model_card(msgspec.structs.replace(lenet, labels=())).count("```python") == 1


def test_the_card_names_the_onnx_runtime_that_edgekit_needs(repository: Path, lenet: Manifest) -> None:
    assert f'cpu = ["onnxruntime>={ONNXRUNTIME}"' in (repository / "pyproject.toml").read_text(encoding="utf-8")
    assert f"'onnxruntime>={ONNXRUNTIME}'`; 1." in model_card(lenet)


def test_the_card_names_every_file_and_the_bar_that_verify_has(lenet: Manifest) -> None:
    card = model_card(lenet)
    assert all(f"`{name}`" in card for name in (*lenet.files, "manifest.json"))
    assert "every channel within 4 times its rounding noise" in card
    assert "never more than 2e-05 of the scale max|r|" in card
    without = model_card(msgspec.structs.replace(lenet, evidence=None))
    assert "rounding noise" not in without
    assert "`float32` (`model.onnx`): within 2e-05 of the scale max|r|, and every sample" in without


def test_without_labels_the_example_prints_the_shape_of_the_output(
    bundle: Path, manifest: Manifest, environment: dict[str, str]
) -> None:
    done = run(example(msgspec.structs.replace(manifest, labels=())), bundle, environment)
    assert (done.returncode, done.stdout) == (0, "(1, 10)\n"), done.stderr


def test_the_card_in_the_bundle_is_the_card_of_its_manifest(bundle: Path, manifest: Manifest) -> None:
    assert (bundle / "README.md").read_text(encoding="utf-8") == model_card(manifest)


def test_the_card_names_every_tensor_and_every_number_of_the_preprocessing_and_tolerance(manifest: Manifest) -> None:
    changed = msgspec.structs.replace(
        manifest,
        inputs=(TensorSpec("image", "float32", ("batch", 1, 28, 28)), TensorSpec("age", "int64", ("batch",))),
        outputs=(TensorSpec("scores", "float32", ("batch", 10)), TensorSpec("mask", "bool", ("batch", 3, 7))),
        variants=(msgspec.structs.replace(manifest.variant(), allowance=Allowance(Tolerance(atol=3e-7, rtol=4e-5, top1=0.97))),),
        test_accuracy=0.91234,
        opset=21,
        notes=("a note of its own",),
    )
    card = model_card(changed)
    assert "| input | `image` | float32 | batch x 1 x 28 x 28 |" in card
    assert "| input | `age` | int64 | batch |" in card
    assert "| output | `scores` | float32 | batch x 10 |" in card
    assert "| output | `mask` | bool | batch x 3 x 7 |" in card
    assert "within 3e-07 + 4e-05 x max|r|" in card
    assert "at least 97% of the samples" in card
    assert "mean = [0.286], std = [0.353]" in card
    assert "28x28 (height x width" in card
    assert "**0.9123**" in card
    assert "opset 21" in card
    assert "a note of its own" in card
    assert manifest.source.weights_sha256 in card
    assert all(label in card for label in manifest.labels)
    assert all(f"{name} {version}" in card for name, version in manifest.tools.items())
    assert '"image": golden["input.image"][:1], "age": golden["input.age"][:1]' in card


def test_the_card_shows_every_variant_with_its_allowance_and_its_error(manifest: Manifest) -> None:
    first = manifest.variant()
    allowance = Allowance(Tolerance(1e-5, 3e-3, 0.98))
    half = Variant("float16", "half.onnx", "float16", allowance, 4.2e-4)
    card = model_card(msgspec.structs.replace(manifest, variants=(first, half)))
    assert "- `float32` (`model.onnx`): every channel within 4 times" in card
    assert "- `float16` (`half.onnx`): within 0.003 of the scale max|r|, and every sample" in card
    assert "Measured at export, in a runtime without optimisations: off by 4.2e-04 of the scale" in card
    wide = msgspec.structs.replace(half, allowance=Allowance(Tolerance(1e-5, 3e-2, 0.98)))
    asked = model_card(msgspec.structs.replace(manifest, variants=(first, wide)))
    assert "within 1e-05 + 0.03 x max|r|, and at least 98% of the samples" in asked
    assert "only with `--allow tolerance`" in asked
    assert "| `half.onnx` | the network in float16" in card
    assert 'InferenceSession("model.onnx"' in card
    assert 'InferenceSession("half.onnx"' in model_card(msgspec.structs.replace(manifest, variants=(half, first)))


def test_the_card_of_a_converted_bundle_has_a_table_to_choose_from(repository: Path, tmp_path: Path) -> None:
    root = copied(repository, tmp_path)
    assert "## Variants" not in (root / "README.md").read_text(encoding="utf-8")
    bundle = convert(root, "int8", ranges="int8.npz")
    card = " ".join((root / "README.md").read_text(encoding="utf-8").split())
    size = bundle.manifest.files["int8.onnx"].size
    first, share = bundle.manifest.variants[0], bundle.manifest.test_accuracy
    assert share is not None
    low, high = share_interval(share, 10_000)
    shares = f"{share:.2%} ({low:.2%} to {high:.2%})"
    assert f"| `float32` | 0.18 MB | {shares} | {first.error:.1e} | - | - | - | everywhere |" in card
    assert f"| `int8` | {size / 1e6:.2f} MB | - |" in card
    assert "| 5 / 0 | yes | GPUs with TensorRT; CPUs with VNNI or AMX where layers are large |" in card
    assert "- the speed of int8 was not measured: the bundle records no timing; edgekit bench measures it." in card
    assert "stay in float" not in card
    assert "| `int8.npz` |" in card
    assert re.search(r"- `int8` .*a signal-to-noise ratio of at least \d+\.\d dB, .*within 3 steps", card)
    assert "Measured when it was made" in card
    conversion = bundle.manifest.variants[1].conversion
    assert conversion is not None
    random = msgspec.structs.replace(conversion, calibration=RANDOM)
    variant = msgspec.structs.replace(bundle.manifest.variants[1], conversion=random, accuracy=0.9)
    card = model_card(msgspec.structs.replace(bundle.manifest, variants=(bundle.manifest.variants[0], variant)))
    assert "| 90.00% |" in card  # of how many pictures is not known
    assert "| NO |" in card
    assert "its accuracy means nothing" in card


def test_the_card_lists_the_layers_that_stay_in_float_and_cuts_a_long_list_with_a_count(repository: Path, tmp_path: Path) -> None:
    kept = tuple(KeptNode(f"node_{place}", "Conv", f"blocks.{place}" if place else "", "a | reason") for place in range(23))
    bundle = convert(copied(repository, tmp_path), "int8", kept=kept)
    card = (bundle.root / "README.md").read_text(encoding="utf-8")
    assert "\n\nIn `int8` 23 of 28 layers stay in float:\n\n| module | node | operator | because |\n|---|---|---|---|\n" in card
    assert "|---|---|---|---|\n|  | `node_0` | Conv | a \\| reason |\n| `blocks.1` | `node_1` |" in card
    assert "| `blocks.19` | `node_19` | Conv | a \\| reason |\n\n3 more are in `manifest.json`.\n" in card
    assert "node_20" not in card
    whole = model_card(with_conversion(bundle, kept=kept[:20]))
    assert "`node_19`" in whole
    assert "more are in" not in whole


def with_conversion(bundle: Bundle, **changes: Any) -> Manifest:
    """The manifest of a converted bundle with other facts of its last variant's conversion."""
    *others, variant = bundle.manifest.variants
    assert variant.conversion is not None
    changed = msgspec.structs.replace(variant, conversion=msgspec.structs.replace(variant.conversion, **changes))
    return msgspec.structs.replace(bundle.manifest, variants=(*others, changed))


def test_what_a_manifest_says_of_a_speed_and_of_kept_layers_stays_text(repository: Path, tmp_path: Path) -> None:
    bundle = convert(copied(repository, tmp_path), "int8")
    kept = (KeptNode(HOSTILE, HOSTILE, HOSTILE, HOSTILE),)
    for speed in (Speed(0.5, "", 1, HOSTILE, {"cpu": HOSTILE, "instruction sets": HOSTILE}), Speed(None, HOSTILE)):
        card = model_card(with_conversion(bundle, kept=kept, speed=speed))
        assert_text_alone(card)
        assert "stay in float" in card


def test_a_speed_is_told_in_one_line_with_as_many_digits_as_tell_it_from_what_is_worth_it() -> None:
    forged = speed_in_words("int8", Speed(None, "x\npass: signed by alice"), "float32")
    assert forged == "the speed of int8 was not measured: x pass: signed by alice"
    told = speed_in_words("int8", Speed(WORTH - 1e-4, "", 1, "onnxruntime\n1.32", {"cpu": "A\nCPU"}), "float32")
    assert "int8 is not worth it for this network where it was made: 1.0499 times as fast" in told
    assert "\n" not in told


def test_an_error_that_was_not_recorded_is_not_on_the_card(manifest: Manifest) -> None:
    assert "Measured at export" in model_card(manifest)
    variant = msgspec.structs.replace(manifest.variant(), error=None)
    assert "Measured at export" not in model_card(msgspec.structs.replace(manifest, variants=(variant,)))


def test_no_dtype_is_claimed_for_the_original(manifest: Manifest) -> None:
    assert "The reference is PyTorch float64, unfolded (recorded). In its own dtype the original model is off by" in model_card(
        manifest
    )
    assert "PyTorch's own float32" not in model_card(manifest)


def test_the_card_names_the_reference_in_the_manifests_words_for_any_source_name(manifest: Manifest) -> None:
    golden = msgspec.structs.replace(manifest.golden, reference="a measurement, by hand", original_error=None)
    for name in ("lenet", "net.onnx", "NET.ONNX"):
        source = msgspec.structs.replace(manifest.source, model=name)
        card = model_card(msgspec.structs.replace(manifest, golden=golden, source=source))
        assert "\n\nThe reference is a measurement, by hand.\n\n" in card
        assert "the original model is off by" not in card
        assert "PyTorch float64" not in card


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "weights.safetensors", "manifest.json"])
def test_the_card_says_what_each_file_is(manifest: Manifest, name: str) -> None:
    assert f"| `{name}` |" in model_card(manifest)


def test_the_card_of_a_bundle_without_weights_does_not_mention_them(manifest: Manifest) -> None:
    source = msgspec.structs.replace(manifest.source, weights_file=None)
    files = {name: entry for name, entry in manifest.files.items() if name != "weights.safetensors"}
    card = model_card(msgspec.structs.replace(manifest, source=source, files=files))
    assert "weights.safetensors" not in card


def test_the_card_says_how_many_norms_were_folded_and_why_others_were_not(manifest: Manifest) -> None:
    assert "4 of 4 normalisations folded" in model_card(manifest)
    fold = FoldReport(manifest.fold.folded[:1], (Kept("blocks.0", "BatchNorm2d", "because of that"),), 0.0)
    card = model_card(msgspec.structs.replace(manifest, fold=fold))
    assert "1 of 2 normalisations folded" in card
    assert "- `blocks.0` (BatchNorm2d): because of that" in card


def test_the_card_says_when_the_preprocessing_is_not_known(manifest: Manifest) -> None:
    card = model_card(msgspec.structs.replace(manifest, preprocess=None))
    assert "Not recorded" in card
    assert "The golden inputs are" in card
    assert "mean =" not in card


def test_the_card_is_one_page_and_does_not_depend_on_the_checksums(manifest: Manifest) -> None:
    card = model_card(manifest)
    assert len(card.splitlines()) < 110
    assert card.endswith("\n")
    other = {name: FileEntry("0" * 64, 1) for name in manifest.files}
    assert model_card(msgspec.structs.replace(manifest, files=other)) == card


HOSTILE = (
    "</td><script>alert(1)</script> ![x](http://evil/x.png) \\[here](x) https://evil www.evil.com `code` | a "
    "\x1b[31m\u202e\u061c\u200f\u2028\nnext"
)


def test_nothing_in_somebodys_strings_becomes_markup_or_moves_the_cursor(bundle: Path) -> None:
    manifest = open_bundle(bundle).manifest
    labels = (HOSTILE, *manifest.labels[1:])
    source = msgspec.structs.replace(manifest.source, model=HOSTILE)
    reference = msgspec.structs.replace(manifest.golden, reference=HOSTILE)
    tensors = tuple(msgspec.structs.replace(spec, name=HOSTILE) for spec in manifest.inputs)
    hostile = msgspec.structs.replace(
        manifest, name=HOSTILE, labels=labels, source=source, golden=reference, inputs=tensors, notes=(*manifest.notes, HOSTILE)
    )
    card = model_card(hostile)
    assert_text_alone(card)
    assert card.count("\n") == model_card(manifest).count("\n") + 1  # one note more
    compile(example(hostile), "card", "exec")


def assert_text_alone(card: str) -> None:
    """Nothing of HOSTILE is markup in the card."""
    outside = "".join(re.split(r"```.*?```|`[^`\n]*`", card, flags=re.DOTALL))
    assert "<" not in outside
    assert "![" not in outside.replace("!\\[", "")
    assert not set("\x1b\u202e\u061c\u200f\u2028") & set(card)
    prose = re.sub(r"`[^`]*`|```.*?```", "", card, flags=re.DOTALL)
    assert "://evil" not in prose
    assert "www.evil" not in prose
    assert not re.search(r"(?<!\\)(?:\\\\)*\[here", prose)  # the bracket is escaped, and not the backslash before it alone


def test_ordinary_cards_are_as_they_were(repository: Path) -> None:
    for name in ("lenet", "lenet-scratch", "densenet"):
        opened = open_bundle(repository / "exported" / name)
        written = (opened.root / "README.md").read_text(encoding="utf-8")
        assert without_variants(written) == without_variants(model_card(opened.manifest, pictures_of(opened)))
        assert ("## Variants" in written) == (without_variants(written) != written) == (name == "densenet")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("raw") / "lenet"
    quantize(Path(__file__).parents[2] / "exported" / "lenet", "with-preprocessing", output=root)
    return root


def test_the_program_for_raw_pictures_labels_them_with_no_preprocessing_of_its_own(
    raw: Path, environment: dict[str, str]
) -> None:
    card = (raw / "README.md").read_text(encoding="utf-8")
    program = re.findall(r"```python\n(.*?)```", card, re.DOTALL)[1]
    prelude = PRELUDE.replace("'PIL', ", "")
    labels = []
    for picture in open_bundle(raw).manifest.golden.pictures:
        done = run(program.replace("picture-0.png", picture.file), raw, environment, prelude)
        labels.append((done.stdout.strip(), done.stderr))
    assert [label for label, _ in labels] == ["Ankle boot", "Dress", "Sneaker", "Sandal"], labels
    assert "resize" not in program
    assert "mean" not in program


@pytest.mark.parametrize(("kind", "name"), [("cpp", "label.cpp"), ("html", "label.html")])
def test_the_other_programs_name_the_bundles_file_and_tensors(raw: Path, kind: str, name: str) -> None:
    card = (raw / "README.md").read_text(encoding="utf-8")
    (text,) = re.findall(rf"```{kind}\n(.*?)```", card, re.DOTALL)
    for part in ('"with-preprocessing.onnx"', '"picture"', '"output"', '"manifest.json"', "batch = 1;"):
        assert part in text
    assert "$" not in text
    manifest = open_bundle(raw).manifest
    odd = msgspec.structs.replace(manifest.outputs[0], name='a"</script>')
    written = program(name, msgspec.structs.replace(manifest, outputs=(odd,)), manifest.variant("with-preprocessing"))
    assert '"a\\"<\\u002fscript>"' in written


def test_the_card_lists_what_the_variant_takes(raw: Path) -> None:
    card = (raw / "README.md").read_text(encoding="utf-8")
    assert "| input of `with-preprocessing` | `picture` | uint8 | batch x height x width x 3 |" in card
    assert "| `with-preprocessing.npz` | 32 pictures with the float64 outputs of with-preprocessing.onnx |" in card
