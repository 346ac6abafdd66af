"""Write the tables of ``docs/recipes.md``: every key of a recipe, its type, bounds and default, from the structs.

python docs/recipe_keys.py           rewrites the part between the markers
python docs/recipe_keys.py --check   exits with 1 if that part is not up to date
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from arguments import asked_to_check
from msgspec import inspect as types

from edgekit.recipe import Recipe

PAGE = Path(__file__).parent / "recipes.md"
MARKERS = re.compile(r"(<!-- keys -->\n).*?(<!-- /keys -->)", re.DOTALL)
MEANINGS = {
    "name": "names the folders under `runs/` and `exported/`: letters, digits, `.`, `-` and `_`",
    "data.dataset": "the source of pictures",
    "data.path": "the folder of an `image-folder`, or of Fashion-MNIST's four files; relative to the recipe",
    "data.resize": "the side of a square in pixels, or `[height, width]`; required for an `image-folder`",
    "data.color": "`grey` for `fashion-mnist` and `rgb` for an `image-folder` if left out",
    "data.mean": "one number per channel, for pixels from 0 to 1; measured on the training pictures if left out; needs `std`",
    "data.std": "one number per channel; needs `mean`",
    "data.test_fraction": "the share set aside for the test, where an `image-folder` has no `train/` and `test/`",
    "data.white": "the brightest value of grey pictures with more than 8 bits a pixel, like 4095 for 12 bits in 16; without it, "
    "what their type can hold",
    "data.skip_bad": "go on without pictures that cannot be decoded; without it all of them are named and nothing is trained",
    "data.holdout": "training pictures that are set aside, those with the smallest hashes: each epoch reports the accuracy on "
    "them, so that choices are made by them, and the test set is read once, in the end; without it epochs report the accuracy on "
    "the test set",
    "model.name": "a shipped model (`edgekit models`) or an import path `package.module:factory`",
    "model.args": "the factory's arguments, as a table `[model.args]`",
    "model.weights": "a checkpoint to start from, relative to the recipe; `FILE:KEY` is one of several in it",
    "model.adapt_channels": "adapt the checkpoint's first layer to another number of input channels",
    "train.epochs": "the number of passes over the training pictures",
    "train.batch_size": "pictures per step, of all processes together",
    "train.optimizer": "AdamW, SGD with Nesterov momentum 0.9, or Muon (timm's), which takes the weights of convolutions and "
    "linear layers that mix channels, but the last one's; AdamW moves the rest: grouped and depthwise convolutions, embeddings, "
    "batch norms, biases",
    "train.learning_rate": "the highest learning rate of the schedule",
    "train.learning_rate_rest": "the same of AdamW beside `muon`; a quarter of `learning_rate` if left out",
    "train.weight_decay": "how strongly weights are pulled to zero; batch norms and biases are not",
    "train.schedule": "one cycle up and down, up and then down in a line or along a cosine, or the same rate throughout",
    "train.warmup": "the share of all steps in which the rate of `linear` and `cosine` rises",
    "train.label_smoothing": "the share of a label's weight that is spread over all classes",
    "train.flip": 'mirror half of the training pictures in each epoch: a random half, or, `"alternating"`, every picture in '
    "every other epoch",
    "train.pad": "move each training picture by at most so many pixels down or up and right or left; the edge is mirrored",
    "train.erase": "the share of the training pictures that lose a random rectangle",
    "train.average": "export the moving average of the weights after each step, of this decay, like 0.998; batch norm's "
    "statistics are then measured anew",
    "train.clip_norm": "the largest norm of all gradients together; longer ones are scaled down to it",
    "train.compile": "compile the model with `torch.compile`, at the first step; needs a C++ compiler",
    "train.checkpoint_every": "steps after which a checkpoint is written; it is written after each epoch as well",
    "train.stages.modules": "the path of a module: means all parameters in it; of several stages the longest path counts",
    "train.stages.rate": "its share of the learning rate",
    "train.stages.thaw": "the first epoch in which it is trained; 0: never. Until then its batch norms and dropout infer",
    "train.int8.epochs": "the number of passes over the training pictures; 1 to 3 are enough as a rule",
    "train.int8.batch_size": "pictures per step; as in `[train]` if left out",
    "train.int8.optimizer": "AdamW, or SGD with Nesterov momentum 0.9",
    "train.int8.learning_rate": "the highest learning rate of the schedule; a tenth to a hundredth of the training's",
    "train.int8.weight_decay": "how strongly weights are pulled to zero; biases are not",
    "train.int8.schedule": "as in `[train]`",
    "train.precision": "the dtype of forward and backward passes; weights stay float32. `auto`: `bfloat16` on GPUs that have it "
    "and on CPUs that are faster in it ([which](#when-auto-is-bfloat16)), and for the rest of the training wherever it goes on",
    "train.channels_last": "lay pictures out as N x H x W x C in memory; faster for larger networks",
    "train.seed": "the seed of the weights, of the order of pictures, and of flips",
    "train.min_accuracy": "the least accuracy on the test set; below it the command fails with exit code 1",
    "train.min_balanced_accuracy": "the same, for the mean of the accuracies of the classes",
    "export.fold_bn": "fold batch norm into the layers around it",
    "export.opset": "the ONNX opset of the file",
    "export.golden": "the number of test pictures recorded with their reference outputs",
    "export.license": "the bundle's licence, an SPDX expression such as `Apache-2.0`",
    "export.author": "who answers for the bundle",
    "variants.to": "its precision, or `with-preprocessing` for a file that takes pictures; each may be given once",
    "variants.calibrate": "a recipe, a folder of training pictures or an `.npz` file of inputs, relative to the recipe, or "
    "`random`; the recipe's own training pictures if left out; for `int8` only",
    "variants.samples": "how many samples are calibrated on; 256 if left out; for `int8` only",
    "variants.keep": "nodes, or modules with all that is in them, that stay in float32",
    "variants.budget": "what `int8` may lose, like `accuracy=-0.3pt` or `snr=30dB`: layers go back to float32 until it holds",
    "verify.atol": "counts only in a bar of your own; above 1e-5 makes it one",
    "verify.rtol": "the most of the scale that the noise bar may reach: less makes it tighter, more makes a bar of your own",
    "verify.top1": "the least share of samples whose largest value is at the same place as the reference's; below 1 makes a bar "
    "of your own",
    "bench.batch": "batch sizes",
    "bench.threads": "threads of each backend; all cores if left out",
    "bench.seconds": "recorded time for each backend, batch and boundary",
    "bench.budget_ms": "the largest end-to-end median of the first batch size in ms; above it the command fails with exit code 1",
}

ABOUT = {
    "train.stages": "A part of the network that is trained apart, for [fine-tuning](fine-tuning.md); the table may stand "
    "several times.",
    "train.int8": "[Training for int8](training-int8.md), which follows the training; without the table there is none. All other "
    "settings are those of `[train]`.",
    "variants": "A further file of the bundle, as [`edgekit quantize`](commands/quantize.md) writes it; the table may stand "
    "several times.",
    "verify": "What the bundle asks of everyone who verifies it. Left out, or with the defaults written out, each output is\n"
    "held to the noise that the export measured ([what verify proves](what-verify-proves.md)), and never to more than `rtol`\n"
    "of the scale. A bundle cannot loosen that by itself: with a wider bar of your own an output passes where max\\|y - r\\|\n"
    "\\<= atol + rtol max\\|r\\| and top-1 agrees, `edgekit run` passes and says so, and every `edgekit verify` of the bundle\n"
    "fails without `--allow tolerance`.",
}
"""What stands above a table's keys, where the first line of its struct does not say it."""


def keys() -> dict[str, types.Field]:
    """Dotted name -> field, for every key of a recipe."""
    return dict(_below(Recipe, ""))


def tables() -> str:
    """The text between the markers."""
    sections: dict[str, list[str]] = {}
    for name, field in keys().items():
        table, _, key = name.rpartition(".")
        sections.setdefault(table, []).append(f"| `{key}` | {_kind(field.type)} | {_default(field)} | {MEANINGS[name]} |")
    parts = []
    for table, rows in sections.items():
        title = f"## `{_heading(table)}`" if table else "## At the top"
        about = _about(table)
        parts += [
            title,
            "",
            *([about, ""] if about else []),
            "| key | type | default | meaning |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    return "\n".join(parts)


def _below(struct: type[msgspec.Struct], prefix: str) -> Iterator[tuple[str, types.Field]]:
    for field in _fields(struct):
        table = _table(field)
        if table is not None:
            yield from _below(table.cls, f"{prefix}{field.encode_name}.")
        else:
            yield f"{prefix}{field.encode_name}", field


def _table(field: types.Field) -> types.StructType | None:
    """The struct of a table, also of one that may be left out or stand several times; None for a key that is none."""
    kind = field.type.item_type if isinstance(field.type, types.VarTupleType) else field.type
    kinds = kind.types if isinstance(kind, types.UnionType) else (kind,)  # a table that may be left out
    return next((each for each in kinds if isinstance(each, types.StructType)), None)


def _heading(table: str) -> str:
    """``[train]``, or ``[[variants]]`` for a table of which there may be several."""
    struct: type[msgspec.Struct] = Recipe
    several = False
    for part in table.split("."):
        (field,) = (field for field in _fields(struct) if field.encode_name == part)
        kind, several = _table(field), isinstance(field.type, types.VarTupleType)
        assert kind is not None
        struct = kind.cls
    return f"[[{table}]]" if several else f"[{table}]"


def _fields(struct: type[msgspec.Struct]) -> tuple[types.Field, ...]:
    described = types.type_info(struct)
    assert isinstance(described, types.StructType)
    return described.fields


def _about(table: str) -> str:
    if not table or table in ABOUT:
        return ABOUT.get(table, "")
    (struct,) = (_table(field) for field in _fields(Recipe) if field.encode_name == table)
    assert struct is not None
    return inspect.cleandoc(struct.cls.__doc__ or "").splitlines()[0].replace("``", "`").replace("<", r"\<").replace(" * ", " ")


def _kind(kind: types.Type) -> str:
    """A type in words: ``number, above 0``."""
    if isinstance(kind, types.UnionType):
        return " or ".join(_kind(part) for part in kind.types if not isinstance(part, types.NoneType))
    if isinstance(kind, types.LiteralType):
        return " or ".join(f'`"{value}"`' for value in kind.values)
    if isinstance(kind, types.VarTupleType):
        return "list of " + _kind(kind.item_type).replace("number", "numbers", 1)
    if isinstance(kind, (types.IntType, types.FloatType)):
        return _bounded("whole number" if isinstance(kind, types.IntType) else "number", kind)
    names: dict[type[types.Type], str] = {types.BoolType: "true or false", types.StrType: "text", types.DictType: "table"}
    return names[type(kind)]


def _bounded(name: str, kind: Any) -> str:
    bounds = (("from", kind.ge), ("above", kind.gt), ("to", kind.le), ("below", kind.lt))
    return " ".join([name, *(f"{word} {limit}" for word, limit in bounds if limit is not None)])


def _default(field: types.Field) -> str:
    if field.required:
        return "**needed**"
    if field.default in (None, msgspec.NODEFAULT):
        return ""
    text = msgspec.json.encode(field.default).decode().replace(",", ", ")
    return f"`{text}`"


def main() -> None:
    """Write the tables, or check them against the structs."""
    check = asked_to_check(__doc__)
    text = PAGE.read_text(encoding="utf-8")
    updated = MARKERS.sub(lambda match: match.group(1) + tables() + match.group(2), text)
    if check:
        sys.exit(0 if updated == text else "docs/recipes.md is not up to date with the structs; run python docs/recipe_keys.py")
    PAGE.write_text(updated, encoding="utf-8")


if __name__ == "__main__":
    main()
