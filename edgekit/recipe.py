"""Recipes: what to train on what, and how to export, verify and time it. TOML through frozen structs.

An unknown key, a wrong type or an impossible value is an error that names the key and the file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

import msgspec
from msgspec import Meta

from edgekit.decoding import CHANNELS, Color
from edgekit.errors import RecipeError, printable
from edgekit.files import check_name, read_text
from edgekit.preprocess import MAX_SIDE, in_units, of_bytes
from edgekit.spdx import spdx
from edgekit.spelling import did_you_mean, literals
from edgekit.tolerance import Tolerance

Positive = Annotated[int, Meta(ge=1)]
PositiveFloat = Annotated[float, Meta(gt=0)]
Fraction = Annotated[float, Meta(ge=0, lt=1)]


class DatasetRules(NamedTuple):
    """The usual ``color`` of one kind of data set, and the keys that its recipe ``needs``."""

    color: Color
    needs: tuple[str, ...] = ()


DATASETS = {
    "fashion-mnist": DatasetRules("grey"),
    "image-folder": DatasetRules("rgb", ("path", "resize")),
}


class DataRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which pictures. ``path`` is relative to the recipe; ``mean``/``std`` are measured on the training set if left out.

    ``white`` is the brightest value of grey pictures with more than 8 bits a pixel. ``skip_bad`` goes on without pictures that
    cannot be decoded. ``holdout`` training pictures are set aside: epochs report the accuracy on
    them, and the test set is read once.
    """

    dataset: Literal["fashion-mnist", "image-folder"]
    path: str | None = None
    resize: int | tuple[int, ...] | None = None  # bounds are checked below: msgspec crashes on constraints in this union
    color: Color | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[PositiveFloat, ...] | None = None
    test_fraction: Annotated[float, Meta(gt=0, lt=1)] = 0.2
    white: PositiveFloat | None = None
    skip_bad: bool = False
    holdout: Annotated[int, Meta(ge=0)] = 0

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) asked for, or None for the dataset's own."""
        if self.resize is None:
            return None
        sizes = (self.resize,) if isinstance(self.resize, int) else self.resize
        return sizes[0], sizes[-1]

    @property
    def pixel_color(self) -> Color:
        """The color asked for, or the data set's usual one."""
        return self.color or DATASETS[self.dataset].color

    def without_place(self) -> DataRecipe:
        """Without the place of the pictures on this machine."""
        return msgspec.structs.replace(self, path=None)


class ModelRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A built-in name (``edgekit models``) or an import path ``package.module:factory`` with its arguments.

    ``weights`` is a checkpoint to start from, relative to the recipe; ``FILE:KEY`` is one of several in it. ``adapt_channels``:
    adapt its first layer to another number of input channels.
    """

    name: str
    args: dict[str, Any] = {}
    weights: str | None = None
    adapt_channels: bool = False

    def without_place(self) -> ModelRecipe:
        """Without the place of the weights on this machine."""
        return msgspec.structs.replace(self, weights=None)


class StageRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a network that is trained apart, for fine-tuning.

    ``modules`` is the path of a module, and means all that is in it; the longest path counts. ``rate`` is its share of the
    learning rate, ``thaw`` the first epoch in which it is trained; 0: never.
    """

    modules: Annotated[str, Meta(min_length=1)]
    rate: PositiveFloat = 1.0
    thaw: Annotated[int, Meta(ge=0)] = 1


class Int8Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Training for int8, which follows: the folded network goes on with the rounding of its int8 file, 1 to 3 epochs as a rule.

    What is not set here is as in ``[train]``, without stages, moving average of weights, compiler and bfloat16.
    """

    epochs: Positive = 2
    batch_size: Annotated[int, Meta(ge=2)] | None = None
    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: PositiveFloat = 1e-4
    weight_decay: Annotated[float, Meta(ge=0)] = 0.0
    schedule: Literal["one-cycle", "linear", "cosine", "constant"] = "linear"


class TrainRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to train. ``min_accuracy`` and ``min_balanced_accuracy`` are bars: below one on the test set, the exit code is 1."""

    epochs: Positive = 10
    batch_size: Annotated[int, Meta(ge=2)] = 256
    optimizer: Literal["adam", "sgd", "muon"] = "adam"
    learning_rate: PositiveFloat = 1e-3
    learning_rate_rest: PositiveFloat | None = None
    weight_decay: Annotated[float, Meta(ge=0)] = 0.0
    schedule: Literal["one-cycle", "linear", "cosine", "constant"] = "one-cycle"
    warmup: Fraction = 0.1
    label_smoothing: Fraction = 0.0
    flip: bool | Literal["alternating"] = False
    pad: Annotated[int, Meta(ge=0)] = 0
    erase: Fraction = 0.0
    average: Fraction = 0.0
    clip_norm: PositiveFloat | None = None
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    channels_last: bool = False
    compile: bool = False
    stages: tuple[StageRecipe, ...] = ()
    int8: Int8Recipe | None = None
    seed: Annotated[int, Meta(ge=0, lt=2**32)] = 0
    checkpoint_every: Annotated[int, Meta(ge=0)] = 0
    min_accuracy: Annotated[float, Meta(ge=0, le=1)] = 0.0
    min_balanced_accuracy: Annotated[float, Meta(ge=0, le=1)] = 0.0

    @property
    def bars(self) -> tuple[float, float]:
        """What accuracy and balanced accuracy are held against: checks, which change no weight."""
        return self.min_accuracy, self.min_balanced_accuracy

    @property
    def rises(self) -> bool:
        """Whether a schedule, its own or that of the training for int8, begins with a rising rate."""
        return any(each.schedule in ("linear", "cosine") for each in (self, self.int8) if each is not None)

    def without_bars(self) -> TrainRecipe:
        """The settings that weights depend on."""
        return msgspec.structs.replace(self, min_accuracy=0.0, min_balanced_accuracy=0.0, checkpoint_every=0)

    def of_int8(self, settings: Int8Recipe) -> TrainRecipe:
        """The settings of the training for int8 that follows."""
        return msgspec.structs.replace(
            self,
            int8=None,
            epochs=settings.epochs,
            batch_size=settings.batch_size or self.batch_size,
            optimizer=settings.optimizer,
            learning_rate=settings.learning_rate,
            learning_rate_rest=None,
            weight_decay=settings.weight_decay,
            schedule=settings.schedule,
            average=0.0,
            precision="float32",
            compile=False,
            stages=(),
        )


class ExportRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to export. ``golden`` is the number of test pictures recorded with their reference outputs.

    ``license``, an SPDX expression like ``Apache-2.0``, and ``author`` stand in the bundle.
    """

    fold_bn: bool = True
    opset: Annotated[int, Meta(ge=18, le=26)] = 20
    golden: Positive = 64
    license: str = ""
    author: str = ""


RANDOM = "random"
"""Calibrate on random numbers, which says nothing of pictures."""


class VariantRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A further file of the bundle: ``to`` is its precision, or ``with-preprocessing`` for one that takes pictures.

    ``calibrate``: a folder of pictures or an .npz file, relative to the recipe, or ``random``; the recipe's training pictures if
    left out. ``samples``: how many; 256 if left out. ``keep``: nodes, or modules, that stay in float32. ``budget``: what may be
    lost.
    """

    to: Literal["int8", "float16", "with-preprocessing"]
    calibrate: str | None = None
    samples: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    keep: tuple[str, ...] = ()
    budget: str | None = None


class BenchRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to time.

    ``seconds`` is per backend, batch and boundary; ``budget_ms`` bounds the end-to-end median of the first batch.
    """

    batch: Annotated[tuple[Positive, ...], Meta(min_length=1)] = (1, 8, 32)
    threads: Annotated[int, Meta(ge=1, le=1024)] | None = None
    seconds: PositiveFloat = 1.0
    budget_ms: PositiveFloat | None = None


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model from data to bundle; ``name`` names its folders under ``runs/`` and ``exported/``."""

    name: str
    data: DataRecipe
    model: ModelRecipe
    train: TrainRecipe = TrainRecipe()
    export: ExportRecipe = ExportRecipe()
    variants: tuple[VariantRecipe, ...] = ()
    verify: Tolerance = Tolerance()
    bench: BenchRecipe = BenchRecipe()


def flat(recipe: Recipe) -> dict[str, Any]:
    """The keys of a recipe's data, model and training, by dotted names like ``train.epochs``, with their values as plain data."""
    document = msgspec.to_builtins(recipe)
    return {f"{table}.{key}": value for table in ("data", "model", "train") for key, value in document[table].items()}


def load_recipe(path: Path) -> Recipe:
    """Read a recipe; raises RecipeError naming the file and the key."""
    content = read_text(path, "recipe", RecipeError)
    try:
        recipe = msgspec.toml.decode(content, type=Recipe)
    except (msgspec.DecodeError, ValueError) as problem:
        raise RecipeError(f"recipe {path}: {_explain(problem)}") from None
    _check(recipe, path)
    if recipe.data.path is not None:
        pictures = _absolute(recipe.data.path, path, "data.path")
        recipe = msgspec.structs.replace(recipe, data=msgspec.structs.replace(recipe.data, path=pictures))
    if recipe.model.weights is not None:
        weights = _absolute(recipe.model.weights, path, "model.weights")
        recipe = msgspec.structs.replace(recipe, model=msgspec.structs.replace(recipe.model, weights=weights))
    variants = tuple(_with_place(variant, path) for variant in recipe.variants)
    return msgspec.structs.replace(recipe, variants=variants)


def _with_place(variant: VariantRecipe, path: Path) -> VariantRecipe:
    if variant.calibrate in (None, RANDOM):
        return variant
    return msgspec.structs.replace(variant, calibrate=_absolute(str(variant.calibrate), path, "variants.calibrate"))


def _absolute(place: str, path: Path, key: str) -> str:
    try:
        absolute = (path.parent / Path(place).expanduser()).absolute()
    except RuntimeError:
        raise RecipeError(
            f"recipe {path}: {key} {place!r} has a ~, and no home folder is known", "write the whole path"
        ) from None
    if printable(str(absolute)) != str(absolute):
        raise RecipeError(f"recipe {path}: {key} is {absolute}, a path that is not UTF-8", "rename the folder")
    return str(absolute)


def _is_finite(value: Any) -> bool:
    if isinstance(value, msgspec.Struct):
        return all(map(_is_finite, msgspec.structs.astuple(value)))
    if isinstance(value, tuple):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _check_train(settings: TrainRecipe, path: Path) -> None:
    if len({stage.modules for stage in settings.stages}) < len(settings.stages):
        raise RecipeError(f"recipe {path}: two [[train.stages]] name the same modules; give each once")


def _check_variants(recipe: Recipe, path: Path) -> None:
    precisions = [variant.to for variant in recipe.variants]
    if len(set(precisions)) < len(precisions):
        raise RecipeError(f"recipe {path}: two [[variants]] are of one precision; give each once")


class Idle(NamedTuple):
    """Keys of a table that change nothing ``where`` a recipe with that table says so, and ``what`` they do not change."""

    table: str
    keys: tuple[str, ...]
    where: Callable[[Recipe, Any], bool]
    what: str


IDLE = (
    Idle("data", ("test_fraction", "skip_bad"), lambda _, data: data.dataset == "fashion-mnist", "fashion-mnist"),
    Idle("model", ("adapt_channels",), lambda _, model: model.weights is None, "a model without model.weights"),
    Idle("train", ("learning_rate_rest",), lambda _, train: train.optimizer != "muon", "a training without the optimizer muon"),
    Idle("train", ("warmup",), lambda _, train: not train.rises, "a training without the schedule linear or cosine"),
    Idle("train.stages", ("rate",), lambda recipe, stage: not 0 < stage.thaw <= recipe.train.epochs, "a stage that never thaws"),
    Idle("variants", ("calibrate", "samples", "budget"), lambda _, variant: variant.to == "float16", "a float16 file"),
    Idle(
        "variants",
        ("calibrate", "samples", "keep", "budget"),
        lambda _, variant: variant.to == "with-preprocessing",
        "a file with preprocessing",
    ),
    Idle(
        "variants",
        ("calibrate", "samples", "keep", "budget"),
        lambda recipe, variant: variant.to == "int8" and recipe.train.int8 is not None,
        "an int8 file whose ranges [train.int8] learns",
    ),
)
"""Every key that a recipe may hold and that may do nothing there."""


def _check_idle(recipe: Recipe, path: Path) -> None:
    """Raise RecipeError where a key is given that does nothing; its default, written out, does no harm."""
    tables: dict[str, tuple[msgspec.Struct, ...]] = {
        "data": (recipe.data,),
        "model": (recipe.model,),
        "train": (recipe.train,),
        "train.stages": recipe.train.stages,
        "variants": recipe.variants,
    }
    for idle in IDLE:
        for table in tables[idle.table]:
            usual = {field.name: field.default for field in msgspec.structs.fields(table)}
            given = [f"{idle.table}.{key}" for key in idle.keys if getattr(table, key) != usual[key]]
            if given and idle.where(recipe, table):
                keys = " and ".join(given)
                raise RecipeError(f"recipe {path}: {keys} would change nothing of {idle.what}", "leave out what does nothing")


def _check(recipe: Recipe, path: Path) -> None:
    data = recipe.data
    for table, settings in (("data", data), ("train", recipe.train), ("verify", recipe.verify), ("bench", recipe.bench)):
        for key, value in msgspec.structs.asdict(settings).items():
            if not _is_finite(value):
                raise RecipeError(f"recipe {path}: {table}.{key} must be finite; correct it")
    _check_train(recipe.train, path)
    _check_variants(recipe, path)
    try:
        spdx(recipe.export.license)
    except ValueError as problem:
        raise RecipeError(f"recipe {path}: export.license {problem}") from None
    if not check_name(recipe.name):
        raise RecipeError(f"recipe {path}: name {recipe.name!r} names a folder; use letters, digits, '.', '-' and '_'")
    sizes = (data.resize,) if isinstance(data.resize, int) else data.resize
    if sizes is not None and (len(sizes) not in (1, 2) or not all(1 <= size <= MAX_SIDE for size in sizes)):
        raise RecipeError(f"recipe {path}: data.resize takes one or two sizes (height, width) from 1 to {MAX_SIDE}")
    needs = DATASETS[data.dataset].needs
    if any(getattr(data, key) is None for key in needs):
        keys = " and ".join(f"data.{key}" for key in needs)
        raise RecipeError(f"recipe {path}: an {data.dataset} dataset needs the keys {keys}; add them")
    _check_idle(recipe, path)
    if (data.mean is None) != (data.std is None):
        raise RecipeError(f"recipe {path}: data.mean and data.std go together; give both or neither")
    color = data.pixel_color
    for key, values in (("mean", data.mean), ("std", data.std)):
        if values is not None and len(values) != CHANNELS[color]:
            raise RecipeError(f"recipe {path}: data.{key} needs {CHANNELS[color]} value(s) for {color} pictures")
    if data.mean is not None and data.std is not None and (of_255 := of_bytes(data.mean, data.std)):
        keys = " and ".join(f"data.{name}" for name in of_255)
        mean, std = in_units(data.mean, "mean" in of_255), in_units(data.std, "std" in of_255)
        raise RecipeError(
            f"recipe {path}: {keys} {'are' if len(of_255) > 1 else 'is'} for pixels in 0..255, and pixels are in 0..1 here",
            f"divide by 255: mean = [{mean}], std = [{std}]",
        )


def _explain(problem: Exception) -> str:
    text = str(problem)
    place = re.search(r" - at `\$\.?(.*)`$", text)
    reason, key = (text[: place.start()], place[1]) if place else (text, "")
    unknown = re.search(r"unknown field `(.*)`", reason)
    if unknown:
        table = f"[{key}]" if key else "the top level"
        near = did_you_mean(unknown[1], _keys(_type_at(key)))
        return f"unknown key {unknown[1]!r} in {table}; remove it or correct its spelling{near}"
    value = re.search(r"Invalid enum value '(.*)'", reason)
    if value:
        words = literals(_type_at(key))
        return f"{value[1]!r} is not allowed at key {key!r}; use one of {', '.join(words)}{did_you_mean(value[1], words)}"
    return f"{reason} at key {key or 'top level'!r}; correct it" if place else f"{reason}; correct it"


def _type_at(place: str) -> Any:
    """The type of the key ``place``, like ``train.optimizer``; None where it is in no table of its own."""
    kind: Any = Recipe
    for part in filter(None, place.split(".")):
        types = {field.name: field.type for field in msgspec.structs.fields(kind)} if _keys(kind) else {}
        kind = _table_of(types.get(part))
    return kind


def _keys(kind: Any) -> tuple[str, ...]:
    """The keys of a table; none of another type."""
    return getattr(kind, "__struct_fields__", ())


def _table_of(kind: Any) -> Any:
    """The struct of a table that may be left out; any other type as it is."""
    return next((part for part in get_args(kind) if _keys(part)), kind)
