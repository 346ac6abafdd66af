"""Sources of PyTorch models: a recipe, a run, a shipped model's name, an import path."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from torch import nn

from edgekit.errors import ModelError, RecipeError, UsageError
from edgekit.models import MODELS
from edgekit.models.weights import weights_bytes
from edgekit.recipe import DataRecipe, ModelRecipe, Recipe, TrainRecipe, load_recipe
from edgekit.reports.train import StatisticsReport, TrainReport
from edgekit.sources.module import load_source, parse_shapes
from edgekit.tensors import TensorSpec
from edgekit.training.fit import fit
from tests.networks import dataset, network

FACTORIES = """
import torch
from torch import nn

def plain():
    return nn.Linear(4, 2)

def with_example():
    return nn.Linear(4, 2), torch.ones(7, 4)

def with_two_examples():
    return nn.Bilinear(4, 3, 2), (torch.ones(7, 4), torch.ones(7, 3, dtype=torch.float64))

def with_strings():
    return nn.Linear(4, 2), "1x4"

def with_mapping():
    return nn.Linear(4, 2), {"x": "1x4"}

def with_scalar():
    return nn.Linear(4, 2), torch.tensor(1.0)

class ByKeyword(nn.Linear):
    def forward(self, *, x):
        return super().forward(x)

def by_keyword():
    return ByKeyword(4, 2)

def two():
    return nn.Bilinear(4, 3, 2)

def number():
    return 3

def raising():
    raise KeyError("no such depth")
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module with factories in the current folder."""
    (tmp_path / "factories_of_a_user.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    return "factories_of_a_user"


RECIPE = Recipe(
    "tiny",
    DataRecipe("fashion-mnist"),
    ModelRecipe("lenet"),
    TrainRecipe(epochs=1, batch_size=32),
)
TOML = """name = "tiny"
[data]
dataset = "fashion-mnist"
[model]
name = "lenet"
[train]
epochs = 1
batch_size = 32
"""


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder with one finished run, ``tiny``."""
    fit(RECIPE, dataset(32), tmp_path / "runs" / "tiny")
    return tmp_path / "runs"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TOML)
    return path


@pytest.mark.parametrize(
    ("texts", "specs"),
    [
        (["1x3x224x224"], [("input", (3, 224, 224))]),
        (["8x4"], [("input", (4,))]),
        (["1X3X5"], [("input", (3, 5))]),
        (["5"], [("input", ())]),
        (["image=1x3x8x8"], [("image", (3, 8, 8))]),
        (["1x3", "1x4"], [("input0", (3,)), ("input1", (4,))]),
        (["a=1x3", "1x4"], [("a", (3,)), ("input1", (4,))]),
        ([], []),
    ],
)
def test_shapes_become_inputs_with_a_free_batch(texts: list[str], specs: list[tuple[str, tuple[int, ...]]]) -> None:
    assert parse_shapes(texts) == tuple(TensorSpec(name, "float32", ("batch", *shape)) for name, shape in specs)


@pytest.mark.parametrize(
    "text", ["", "x", "1x", "x3", "1x-3", "1x0x3", "1,3,4", "1x3.5", "axb", "=1x3", "a b=1x3", "../a=1x3", "1x²", "1x٣", "1x1_0"]
)
def test_a_text_that_is_no_shape_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_shapes([text])
    assert f"--input-shape {text!r} is not a shape; write it like 1x3x224x224" in str(caught.value)


def test_two_inputs_of_one_name_are_refused() -> None:
    with pytest.raises(UsageError, match="names an input twice"):
        parse_shapes(["a=1x3", "a=1x4"])


@pytest.mark.parametrize("name", MODELS)
def test_a_shipped_name_knows_its_input(name: str) -> None:
    source = load_source(name)
    assert (source.name, source.factory) == (name, name)
    assert source.inputs == (TensorSpec("input", "float32", ("batch", *MODELS[name].input_shape)),)
    assert (source.recipe, source.report, source.preprocess) == (None, None, None)


def test_a_shipped_name_takes_weights_and_a_shape(tmp_path: Path) -> None:
    trained = network("resnet18", seed=5)
    (tmp_path / "w.safetensors").write_bytes(weights_bytes(trained))
    source = load_source("resnet18", input_shapes=["1x1x64x64"], weights=tmp_path / "w.safetensors")
    assert source.inputs[0].shape == ("batch", 1, 64, 64)
    assert weights_bytes(source.module) == weights_bytes(trained)


def test_an_import_path_takes_a_shape_and_is_named_after_its_factory(factories: str) -> None:
    source = load_source(f"{factories}:plain", input_shapes=["x=1x4"])
    assert isinstance(source.module, nn.Linear)
    assert source.name == "plain"
    assert source.inputs == (TensorSpec("x", "float32", ("batch", 4)),)


def test_an_import_path_without_a_shape_asks_for_one(factories: str) -> None:
    with pytest.raises(UsageError, match="plain needs the shape of its input, for example --input-shape"):
        load_source(f"{factories}:plain")


def test_a_factory_may_give_its_example_inputs(factories: str) -> None:
    source = load_source(f"{factories}:with_example")
    assert isinstance(source.module, nn.Linear)
    assert source.inputs == (TensorSpec("input", "float32", ("batch", 4)),)
    assert load_source(f"{factories}:with_two_examples").inputs == (
        TensorSpec("input0", "float32", ("batch", 4)),
        TensorSpec("input1", "float64", ("batch", 3)),
    )
    source = load_source(f"{factories}:with_example", input_shapes=["y=1x4"])
    assert source.inputs == (TensorSpec("y", "float32", ("batch", 4)),)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("with_strings", "example inputs that are not tensors"),
        ("with_mapping", "example inputs that are not tensors"),
        ("with_scalar", "example inputs that are not tensors with a batch axis"),
        ("number", "returned a int, not a torch.nn.Module"),
        ("raising", "could not be built: KeyError"),
        ("absent", "has no function or class 'absent'"),
    ],
)
def test_a_factory_that_gives_something_else_is_a_model_error(factories: str, factory: str, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        load_source(f"{factories}:{factory}")
    assert message in str(caught.value)


@pytest.mark.parametrize("source", ["lennet", "runs/none", "model.onnx", ""])
def test_a_word_that_is_no_source_is_refused_with_the_kinds_of_source(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if source:
        with pytest.raises(
            UsageError,
            match=r"neither a recipe .*, an ONNX file .*, a run directory, a model \(lenet, .*\) nor an import",
        ):
            load_source(source)
    else:  # the current folder, which is no run
        with pytest.raises(ModelError, match="not a finished run"):
            load_source(source)


def test_a_missing_recipe_is_a_recipe_error(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="does not exist"):
        load_source(str(tmp_path / "none.toml"))


def test_a_run_gives_its_trained_model_with_labels_and_preprocessing(runs: Path) -> None:
    source = load_source(str(runs / "tiny"))
    assert weights_bytes(source.module) == (runs / "tiny" / "weights.safetensors").read_bytes()
    assert source.recipe == RECIPE
    assert source.name == "tiny"
    assert source.labels == dataset().classes
    assert source.preprocess == dataset().preprocess
    assert source.report is not None
    assert source.inputs == (TensorSpec("input", "float32", ("batch", 1, 28, 28)),)


def test_a_trained_recipe_gives_its_run_with_the_recipes_own_export_settings(runs: Path, recipe: Path) -> None:
    recipe.write_text(TOML + "[export]\ngolden = 7\n")
    source = load_source(str(recipe), runs=runs)
    assert weights_bytes(source.module) == (runs / "tiny" / "weights.safetensors").read_bytes()
    assert source.recipe is not None
    assert source.recipe.export.golden == 7


def test_a_recipe_that_has_not_been_trained_says_so(tmp_path: Path, recipe: Path) -> None:
    with pytest.raises(ModelError, match=r"has not been trained: .*; edgekit train"):
        load_source(str(recipe), runs=tmp_path / "runs")


def test_settings_that_no_weight_depends_on_may_change(runs: Path, recipe: Path) -> None:
    for text in (TOML + "min_accuracy = 0.1\n", TOML.replace('mnist"\n', 'mnist"\npath = "moved"\ncolor = "grey"\n')):
        recipe.write_text(text)
        assert load_source(str(recipe), runs=runs).recipe == load_recipe(recipe)


@pytest.mark.parametrize(
    ("before", "now", "changed"),
    [
        ("a/start.pt", "b/start.pt", ""),
        ("start.pt", "other.pt", "model.weights"),
        ("start.pt:model", "start.pt:ema", "model.weights"),
        ("start.pt", None, "model.weights"),
    ],
)
def test_weights_to_start_from_count_by_their_name(runs: Path, recipe: Path, before: str, now: str | None, changed: str) -> None:
    trained = msgspec.json.decode((runs / "tiny" / "recipe.json").read_bytes())
    trained["model"]["weights"] = f"/somewhere/{before}"
    (runs / "tiny" / "recipe.json").write_bytes(msgspec.json.encode(trained))
    weights = f'\nweights = "{now}"' if now else ""
    recipe.write_text(TOML.replace('name = "lenet"', f'name = "lenet"{weights}'))
    if not changed:
        assert load_source(str(recipe), runs=runs).report is not None
        return
    with pytest.raises(ModelError, match=rf"trained with other settings than .*tiny\.toml: {changed}; train again"):
        load_source(str(recipe), runs=runs)


def test_notes_of_the_training_go_with_the_model(runs: Path) -> None:
    report = TrainReport.from_json((runs / "tiny" / "train.json").read_bytes())
    assert report.data is not None
    data = msgspec.structs.replace(report.data, notes=("odd pictures",), majority=1.0)
    statistics = StatisticsReport(0.9, 0.5, 0.8)
    changed = msgspec.structs.replace(report, notes=("odd weights",), data=data, statistics=statistics)
    (runs / "tiny" / "train.json").write_bytes(changed.to_json())
    notes = load_source(str(runs / "tiny")).notes
    assert notes[:2] == ("odd weights", "odd pictures")
    assert "measured anew over the training pictures" in notes[2]
    assert notes[3] == "always naming the most frequent class is right as often as this network"


def test_a_run_of_other_settings_is_not_taken_for_the_recipes(runs: Path, recipe: Path) -> None:
    recipe.write_text(TOML + "seed = 9\n")
    with pytest.raises(ModelError, match="trained with other settings"):
        load_source(str(recipe), runs=runs)


def test_an_untrained_recipe_will_do_where_weights_do_not_matter(tmp_path: Path, recipe: Path) -> None:
    recipe.write_text(TOML.replace("lenet", "resnet18").replace('mnist"\n', 'mnist"\nresize = [40, 30]\ncolor = "rgb"\n'))
    source = load_source(str(recipe), runs=tmp_path / "runs", trained=False)
    assert source.inputs == (TensorSpec("input", "float32", ("batch", 3, 40, 30)),)
    assert source.module.eval()(torch.zeros(1, 3, 40, 30)).shape == (1, 10)


def test_an_untrained_recipe_of_an_unknown_shape_says_what_to_do(tmp_path: Path, recipe: Path, factories: str) -> None:
    recipe.write_text(TOML.replace('"lenet"', f'"{factories}:plain"'))
    with pytest.raises(ModelError, match="needs a finished run or --input-shape"):
        load_source(str(recipe), runs=tmp_path / "runs", trained=False)


def test_shape_and_weights_do_not_go_with_a_recipe_or_a_run(runs: Path, recipe: Path, tmp_path: Path) -> None:
    for source in (str(recipe), str(runs / "tiny")):
        with pytest.raises(UsageError, match="go with an import path"):
            load_source(source, input_shapes=["1x1x28x28"])
        with pytest.raises(UsageError, match="go with an import path"):
            load_source(source, weights=tmp_path / "w.pt")


@pytest.mark.parametrize("name", ["recipe.json", "train.json", "weights.safetensors"])
def test_an_unfinished_or_damaged_run_names_the_file(name: str, runs: Path) -> None:
    file = runs / "tiny" / name
    for content in (b"", b"\xff\xfe\x00", b'{"a": 1}'):
        file.write_bytes(content)
        with pytest.raises(ModelError, match=name.replace(".", r"\.")):
            load_source(str(runs / "tiny"))
    file.unlink()
    with pytest.raises(ModelError, match=f"not a finished run: {name} is missing"):
        load_source(str(runs / "tiny"))


def test_weights_of_another_model_do_not_pass_for_the_runs(runs: Path) -> None:
    file = runs / "tiny" / "recipe.json"
    other = msgspec.structs.replace(RECIPE, model=ModelRecipe("resnet18"))
    file.write_bytes(msgspec.json.encode(other))
    with pytest.raises(ModelError, match="do not fit the model"):
        load_source(str(runs / "tiny"))


def test_an_import_path_in_a_run_is_built_with_the_recipes_arguments_only(factories: str, tmp_path: Path) -> None:
    (tmp_path / "run_net_of_a_user.py").write_text(
        "from torch import nn\n"
        "def net(width): return nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.ReLU(), nn.Linear(width, 10))\n"
    )
    recipe = msgspec.structs.replace(RECIPE, model=ModelRecipe("run_net_of_a_user:net", {"width": 8}))
    fit(recipe, dataset(32), tmp_path / "run")
    source = load_source(str(tmp_path / "run"))
    assert source.args == {"width": 8}
    assert isinstance(source.module, nn.Sequential)
    assert source.module[1].out_features == 8


@pytest.mark.parametrize(
    ("name", "shapes", "fault"),
    [
        ("by_keyword", ("1x4",), r"forward\(\) takes x by keyword only"),
        ("two", ("1x4",), r"forward\(\) takes the inputs input1, input2, and 1 were given"),
        ("plain", ("1x4", "1x4"), r"forward\(\) takes the inputs input, and 2 were given"),
    ],
)
def test_inputs_that_forward_does_not_take_are_named(name: str, shapes: tuple[str, ...], fault: str, factories: str) -> None:
    with pytest.raises((ModelError, UsageError), match=fault):
        load_source(f"{factories}:{name}", input_shapes=shapes)
