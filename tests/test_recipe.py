"""Recipes: every mistake is one sentence that names the key."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgekit.errors import RecipeError
from edgekit.files import check_name
from edgekit.models import MODELS
from edgekit.models.factory import build_module
from edgekit.recipe import Recipe, load_recipe

DATA = '[data]\ndataset = "fashion-mnist"\n'
FOLDER = '[data]\ndataset = "image-folder"\npath = "pictures"\nresize = 32\n'
MODEL = '[model]\nname = "lenet"\n'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mine.toml"


def loaded(path: Path, text: str) -> Recipe:
    path.write_text(text)
    return load_recipe(path)


def refused(path: Path, text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        loaded(path, text)
    message = str(caught.value)
    assert message.startswith(f"recipe {path}")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", MODELS)
def test_every_shipped_model_has_a_recipe_of_its_name(name: str, repository: Path) -> None:
    recipe = load_recipe(repository / "recipes" / f"{name}.toml")
    assert (recipe.name, recipe.model.name, recipe.data.dataset) == (name, name, "fashion-mnist")
    assert recipe.train.min_accuracy > 0.8
    assert recipe.export.fold_bn


def test_no_shipped_recipe_is_without_a_test(repository: Path) -> None:
    recipes = {file.stem: load_recipe(file) for file in (repository / "recipes").glob("*.toml")}
    assert {recipe.model.name for recipe in recipes.values()} == set(MODELS)
    assert all(recipe.name == name for name, recipe in recipes.items())
    assert {name for name in recipes if name not in MODELS} == {"edgenet-300k", "resnet18-gpu"}


@pytest.mark.parametrize("name", ["edgenet-300k", "resnet18-gpu"])
def test_a_recipe_of_another_size_builds_its_model(name: str, repository: Path) -> None:
    recipe = load_recipe(repository / "recipes" / f"{name}.toml")
    usual = build_module(recipe.model.name)
    model = build_module(recipe.model.name, recipe.model.args)
    assert repr(model) != repr(usual)
    assert model.eval()(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_densenets_recipe_gives_pictures_it_takes(repository: Path) -> None:
    assert load_recipe(repository / "recipes" / "densenet.toml").data.size == (32, 32)


def test_the_least_recipe_has_defaults(path: Path) -> None:
    recipe = loaded(path, f'name = "mine"\n{DATA}{MODEL}')
    assert recipe.train.epochs == 10
    assert recipe.data.path is None
    assert recipe.data.size is None
    assert recipe.verify.rtol < 1


def test_a_recipe_cannot_be_changed(path: Path) -> None:
    recipe = loaded(path, f'name = "mine"\n{DATA}{MODEL}')
    with pytest.raises(AttributeError):
        recipe.train.epochs = 3  # type: ignore[misc]  # it is frozen, which is what is tested


@pytest.mark.parametrize(
    ("text", "key", "place"),
    [
        (f'name = "a"\nepochs = 3\n{DATA}{MODEL}', "epochs", "the top level"),
        (f'name = "a"\n{DATA}size = 3\n{MODEL}', "size", "[data]"),
        (f'name = "a"\n{DATA}{MODEL}layers = 3\n', "layers", "[model]"),
        (f'name = "a"\n{DATA}{MODEL}[train]\nlearningrate = 1.0\n', "learningrate", "[train]"),
        (f'name = "a"\n{DATA}{MODEL}[export]\nfold = true\n', "fold", "[export]"),
        (f'name = "a"\n{DATA}{MODEL}[verify]\ntol = 1.0\n', "tol", "[verify]"),
        (f'name = "a"\n{DATA}{MODEL}[bench]\nbatches = [1]\n', "batches", "[bench]"),
        (f'name = "a"\n{DATA}{MODEL}[deploy]\nx = 1\n', "deploy", "the top level"),
    ],
)
def test_an_unknown_key_is_named_with_its_table(text: str, key: str, place: str, path: Path) -> None:
    assert f"unknown key {key!r} in {place};" in refused(path, text)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (f"name = 3\n{DATA}{MODEL}", "name"),
        (f'name = "a"\n[data]\ndataset = "mnist"\n{MODEL}', "data.dataset"),
        (f'name = "a"\n{DATA}resize = "28"\n{MODEL}', "data.resize"),
        (f'name = "a"\n{DATA}resize = true\n{MODEL}', "data.resize"),
        (f'name = "a"\n{DATA}color = "blue"\n{MODEL}', "data.color"),
        (f'name = "a"\n{FOLDER}test_fraction = 1.0\n{MODEL}', "data.test_fraction"),
        (f'name = "a"\n{DATA}mean = [0.5]\nstd = [0.0]\n{MODEL}', "data.std"),
        (f'name = "a"\n{DATA}{MODEL}[train]\nepochs = "3"\n', "train.epochs"),
        (f'name = "a"\n{DATA}{MODEL}[train]\nepochs = 0\n', "train.epochs"),
        (f'name = "a"\n{DATA}{MODEL}[train]\nbatch_size = 1\n', "train.batch_size"),
        (f'name = "a"\n{DATA}{MODEL}[train]\nlearning_rate = 0\n', "train.learning_rate"),
        (f'name = "a"\n{DATA}{MODEL}[train]\nlearning_rate = nan\n', "train.learning_rate"),
        (f'name = "a"\n{DATA}{MODEL}[train]\noptimizer = "lion"\n', "train.optimizer"),
        (f'name = "a"\n{DATA}{MODEL}[train]\nprecision = "float16"\n', "train.precision"),
        (f'name = "a"\n{DATA}{MODEL}[train]\nseed = 18446744073709551616\n', "train.seed"),
        (f'name = "a"\n{DATA}{MODEL}[train]\nmin_accuracy = 90\n', "train.min_accuracy"),
        (f'name = "a"\n{DATA}{MODEL}[export]\nopset = 9\n', "export.opset"),
        (f'name = "a"\n{DATA}{MODEL}[export]\ngolden = 0\n', "export.golden"),
        (f'name = "a"\n{DATA}{MODEL}[verify]\nrtol = 1.0\n', "verify.rtol"),
        (f'name = "a"\n{DATA}{MODEL}[verify]\nrtol = nan\n', "verify.rtol"),
        (f'name = "a"\n{DATA}{MODEL}[verify]\natol = -1.0\n', "verify.atol"),
        (f'name = "a"\n{DATA}{MODEL}[verify]\ntop1 = 1.5\n', "verify.top1"),
        (f'name = "a"\n{DATA}{MODEL}[bench]\nbatch = []\n', "bench.batch"),
        (f'name = "a"\n{DATA}{MODEL}[bench]\nbatch = [0]\n', "bench.batch"),
        (f'name = "a"\n{DATA}{MODEL}[bench]\nseconds = 0\n', "bench.seconds"),
    ],
)
def test_a_wrong_value_names_its_key(text: str, key: str, path: Path) -> None:
    assert f"at key '{key}" in refused(path, text)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (f'name = "a"\n{DATA}mean = [nan]\nstd = [1.0]\n{MODEL}', "data.mean"),
        (f'name = "a"\n{DATA}mean = [0.5]\nstd = [inf]\n{MODEL}', "data.std"),
        (f'name = "a"\n{DATA}{MODEL}[train]\nlearning_rate = inf\n', "train.learning_rate"),
        (f'name = "a"\n{DATA}{MODEL}[verify]\natol = inf\n', "verify.atol"),
        (f'name = "a"\n{DATA}{MODEL}[bench]\nbudget_ms = inf\n', "bench.budget_ms"),
    ],
)
def test_numbers_must_be_finite(text: str, key: str, path: Path) -> None:
    assert f"{key} must be finite" in refused(path, text)


@pytest.mark.parametrize(("key", "value"), [("test_fraction", "0.3"), ("skip_bad", "true")])
def test_a_key_that_does_nothing_for_the_data_set_is_refused(key: str, value: str, path: Path) -> None:
    reason = f"data.{key} would change nothing of fashion-mnist; leave out what does nothing"
    assert reason in refused(path, f'name = "a"\n{DATA}{key} = {value}\n{MODEL}')
    loaded(path, f'name = "a"\n{FOLDER}{key} = {value}\n{MODEL}')
    loaded(path, f'name = "a"\n{DATA}test_fraction = 0.2\nwhite = 4095\npath = "here"\n{MODEL}')


@pytest.mark.parametrize(
    ("idle", "used", "reason"),
    [
        ("[train]\nwarmup = 0.2\n", 'schedule = "cosine"\n', "train.warmup would change nothing of a training without the sch"),
        ('[train]\nschedule = "constant"\nwarmup = 0.2\n', '[train.int8]\nschedule = "linear"\n', "train.warmup would change"),
        ("[train]\nlearning_rate_rest = 0.1\n", 'optimizer = "muon"\n', "train.learning_rate_rest would change nothing of a "),
        ("adapt_channels = true\n", 'weights = "w.pt"\n', "model.adapt_channels would change nothing of a model without "),
        ('[[train.stages]]\nmodules = "0"\nthaw = 0\nrate = 2.0\n', None, "train.stages.rate would change nothing of a stage "),
        ('[[train.stages]]\nmodules = "0"\nthaw = 11\nrate = 2.0\n', None, "train.stages.rate would change nothing of a stage "),
        ('[[variants]]\nto = "float16"\nsamples = 8\nbudget = "snr=30dB"\n', None, "variants.samples and variants.budget would "),
    ],
)
def test_a_key_that_does_nothing_beside_the_others_is_refused(idle: str, used: str | None, reason: str, path: Path) -> None:
    assert reason in refused(path, f'name = "a"\n{DATA}{MODEL}{idle}')
    works = (
        idle + used if used else idle.replace("thaw = 0", "thaw = 9").replace("thaw = 11", "thaw = 10").replace("float16", "int8")
    )
    loaded(path, f'name = "a"\n{DATA}{MODEL}{works}')


@pytest.mark.parametrize("resize", ["0", "-1", "4097", "[]", "[28, 0]", "[28, 28, 28]", "[5000]"])
def test_an_impossible_size_is_refused(resize: str, path: Path) -> None:
    assert "data.resize takes one or two sizes" in refused(path, f'name = "a"\n{DATA}resize = {resize}\n{MODEL}')


@pytest.mark.parametrize(("resize", "size"), [("32", (32, 32)), ("[32]", (32, 32)), ("[20, 30]", (20, 30))])
def test_a_size_is_height_and_width(resize: str, size: tuple[int, int], path: Path) -> None:
    assert loaded(path, f'name = "a"\n{DATA}resize = {resize}\n{MODEL}').data.size == size


@pytest.mark.parametrize("given", ["mean = [0.5]", "std = [0.5]"])
def test_mean_and_std_go_together(given: str, path: Path) -> None:
    assert "data.mean and data.std go together" in refused(path, f'name = "a"\n{DATA}{given}\n{MODEL}')


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (f"{DATA}mean = [0.5, 0.5, 0.5]\nstd = [0.5]\n", "data.mean needs 1 value(s) for grey pictures"),
        (f"{DATA}mean = [0.5]\nstd = [0.5, 0.5]\n", "data.std needs 1 value(s) for grey pictures"),
        (f'{DATA}color = "rgb"\nmean = [0.5]\nstd = [0.5]\n', "data.mean needs 3 value(s) for rgb pictures"),
        (f"{FOLDER}mean = [0.5]\nstd = [0.5]\n", "data.mean needs 3 value(s) for rgb pictures"),
    ],
)
def test_mean_and_std_have_a_value_per_channel(data: str, message: str, path: Path) -> None:
    assert message in refused(path, f'name = "a"\n{data}{MODEL}')


@pytest.mark.parametrize("data", ['path = "x"\n', "resize = 3\n"])
def test_a_picture_folder_needs_its_path_and_size(data: str, path: Path) -> None:
    assert "needs the keys data.path and data.resize" in refused(
        path, f'name = "a"\n[data]\ndataset = "image-folder"\n{data}{MODEL}'
    )


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a\\\\b", ".hidden", "-x", "a b", "x" * 101, "a\\n"])
def test_a_name_that_is_no_folder_name_is_refused(name: str, path: Path) -> None:
    assert "names a folder" in refused(path, f'name = "{name}"\n{DATA}{MODEL}')


@pytest.mark.parametrize("name", ["lenet", "lenet-scratch", "v1.2_b", "_x", "3d"])
def test_a_plain_name_is_fine(name: str) -> None:
    assert check_name(name)


def test_a_relative_path_is_relative_to_the_recipe(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert loaded(path, f'name = "a"\n{FOLDER}{MODEL}').data.path == str(tmp_path / "pictures")
    monkeypatch.chdir(tmp_path)
    assert load_recipe(Path("mine.toml")).data.path == str(tmp_path / "pictures")


def test_absolute_and_home_paths_are_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    for given, meant in (("/data/pictures", "/data/pictures"), ("~/pictures", "/home/someone/pictures")):
        assert loaded(path, f'name = "a"\n{FOLDER}{MODEL}'.replace('"pictures"', f'"{given}"')).data.path == meant


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"recipe .*none\.toml does not exist"):
        load_recipe(tmp_path / "none.toml")


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="is not a regular file"):
        load_recipe(tmp_path)


@pytest.mark.parametrize("content", [b"[data\n", b"name = \n", b'name = "a"\nname = "b"\n', b'\xff\xfe = "a"\n', b"\x00"])
def test_text_that_is_not_toml_is_a_clear_error(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"mine\.toml"):
        load_recipe(path)


def test_a_missing_table_is_named(path: Path) -> None:
    assert "`model`" in refused(path, f'name = "a"\n{DATA}')
    assert "`dataset`" in refused(path, f'name = "a"\n[data]\n{MODEL}')
    assert refused(path, "")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_recipe_with_a_byte_order_mark_is_read(path: Path, encoding: str) -> None:
    path.write_bytes(('name = "mine"\n' + DATA + MODEL).encode(encoding))
    assert load_recipe(path).name == "mine"


def test_a_recipe_in_another_encoding_is_refused_with_its_line(path: Path) -> None:
    path.write_bytes(('name = "mine"\n# caf\u00e9\n' + DATA + MODEL).encode("latin-1"))
    with pytest.raises(RecipeError, match="is not UTF-8: byte 0xe9 in line 2"):
        load_recipe(path)


def test_a_home_folder_that_nobody_knows_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(self: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", unknown)
    assert "has a ~, and no home folder is known" in refused(
        path, 'name = "mine"\n' + FOLDER.replace("pictures", "~/pictures") + MODEL
    )


def test_pictures_below_a_folder_that_is_not_utf8_are_refused_before_training(tmp_path: Path) -> None:
    folder = tmp_path / "caf\udce9"
    folder.mkdir()
    assert "a path that is not UTF-8" in refused(folder / "mine.toml", 'name = "mine"\n' + FOLDER + MODEL)


def test_weights_are_found_beside_the_recipe_with_their_key(path: Path) -> None:
    recipe = loaded(path, f'name = "mine"\n{DATA}{MODEL}weights = "checkpoint.pth:ema"\n')
    assert recipe.model.weights == f"{path.parent}/checkpoint.pth:ema"
    assert recipe.model.without_place() == loaded(path, f'name = "mine"\n{DATA}{MODEL}').model


def test_variants_are_a_list_of_tables_with_places_relative_to_the_recipe(path: Path) -> None:
    assert loaded(path, f'name = "x"\n{DATA}{MODEL}').variants == ()
    tables = '[[variants]]\nto = "int8"\ncalibrate = "some.npz"\n[[variants]]\nto = "float16"\nkeep = ["fc"]\n'
    first, second = loaded(path, f'name = "x"\n{DATA}{MODEL}{tables}').variants
    assert (first.to, first.calibrate, first.samples) == ("int8", str(path.parent / "some.npz"), None)
    assert (second.to, second.calibrate, second.keep) == ("float16", None, ("fc",))
    (random,) = loaded(path, f'name = "x"\n{DATA}{MODEL}[[variants]]\nto = "int8"\ncalibrate = "random"\n').variants
    assert random.calibrate == "random"


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ('to = "int8"\nsample = 3', "sample"),
        ('to = "int4"', "int4"),
        ("samples = 3", "to"),
        ('to = "int8"\nsamples = 0', "samples"),
        ('to = "int8"\n[[variants]]\nto = "int8"', "two [[variants]] are of one precision; give each once"),
    ],
)
def test_a_mistake_in_a_variant_is_named(path: Path, table: str, words: str) -> None:
    assert words in refused(path, f'name = "x"\n{DATA}{MODEL}[[variants]]\n{table}\n')


def test_a_file_with_preprocessing_takes_no_wishes(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(f'name = "a"\n{DATA}{MODEL}[[variants]]\nto = "with-preprocessing"\n')
    assert [variant.to for variant in load_recipe(path).variants] == ["with-preprocessing"]
    path.write_text(f'name = "a"\n{DATA}{MODEL}[[variants]]\nto = "with-preprocessing"\nkeep = ["fc"]\n')
    with pytest.raises(RecipeError, match=r"variants\.keep would .* a file with preprocessing"):
        load_recipe(path)
