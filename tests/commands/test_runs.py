"""``edgekit runs`` lists and compares trainings; ``edgekit train RUN`` repeats one."""

from __future__ import annotations

import json
import shutil
import subprocess
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

import msgspec
import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from edgekit.commands.runs import runs
from edgekit.commands.train import Wanted, recipe_of, train
from edgekit.data.pictures import divided
from edgekit.errors import Interrupted, MissingError, ModelError, RecipeError, UsageError
from edgekit.recipe import Int8Recipe, Recipe, load_recipe
from edgekit.reports.train import TrainReport
from edgekit.training import numerics
from edgekit.training.curve import draw_curve
from edgekit.training.fit import fit
from edgekit.training.provenance import GIT_SECONDS, changes, provenance, session
from edgekit.training.watching import TensorBoard
from tests.command_line import Command
from tests.networks import dataset
from tests.reports.test_layout import printed
from tests.reports.test_reports import TRAIN
from tests.test_without_torch import TRAINING_ONLY, without
from tests.training.test_loop import Stopping, recipe


@pytest.fixture(scope="module")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    data = dataset(96)
    fit(recipe(epochs=2), data, root / "a")
    fit(recipe(epochs=1, seed=3, flip="alternating"), data, root / "b")
    with pytest.raises(Interrupted):
        fit(recipe(), data, root / "stopped", progress=Stopping(advance=46))
    return root


@pytest.fixture
def root(_made: Path, tmp_path: Path) -> Path:
    """Three trainings: two that differ in three keys, and one that was stopped in its second epoch."""
    return Path(shutil.copytree(_made, tmp_path / "runs"))


def test_trainings_are_listed_with_their_figures_and_the_keys_in_which_they_differ(root: Path) -> None:
    report = runs(root=root)
    assert [(row.run, row.state, row.epochs) for row in report.runs] == [
        ("a", "finished", 2), ("b", "finished", 1), ("stopped", "epoch 2 of 3", 1),
    ]  # fmt: skip
    assert report.differing == ("train.epochs", "train.flip", "train.seed")
    first = report.runs[0]
    made = TrainReport.from_json((root / "a" / "train.json").read_bytes())
    assert (first.model, first.parameters, first.seconds) == ("lenet", 44878, made.seconds)
    assert first.test is not None
    assert first.test.low is not None
    assert first.test.high is not None
    assert first.test.low < first.test.value == made.test_accuracy < first.test.high
    assert [row.settings["train.flip"] for row in report.runs[:2]] == ["true", '"alternating"']


def test_the_command_lists_them_without_pytorch(root: Path, run: Command, environment: dict[str, str]) -> None:
    listed = without(TRAINING_ONLY, "runs", "--runs", str(root), environment=environment)
    assert listed.returncode == 0
    for text in ("trainings", "the recipes differ in", "train.seed", "epoch 2 of 3"):
        assert text in listed.stdout
    (root / "other").mkdir()
    rows = run("runs", str(root / "b"), str(root / "other"), "--json").document["runs"]
    assert [(row["run"], row["state"]) for row in rows] == [("b", "finished"), ("other", "holds no training")]


def test_where_no_folder_holds_a_training_there_is_no_empty_list(root: Path, run: Command, tmp_path: Path) -> None:
    remedy = "; give the folder of a training, or its name below --runs"
    for words, said in {
        ("nope",): f"nope is no folder, nor is there a training runs/nope{remedy}",
        (str(root / "nope"), str(tmp_path)): f"{root / 'nope'} is no folder{remedy}",
        ("--runs", "nope"): "there is no folder nope; edgekit train RECIPE makes a training there, and --runs names another",
        (str(tmp_path),): f"{tmp_path} holds no training; give folders that edgekit train wrote",
    }.items():
        result = run("runs", *words)
        assert (result.code, result.out, result.err) == (2, "", f"error: {said}\n")


def test_beside_a_training_a_folder_that_is_not_there_is_a_row(root: Path, run: Command, tmp_path: Path) -> None:
    """One training that was removed must not hide what was asked of the others."""
    result = run("runs", "nope", str(root / "b"), str(tmp_path), "--json")
    states = {row["run"]: row["state"] for row in result.document["runs"]}
    assert result.code == 0
    assert states == {"nope": "no such folder", "b": "finished", tmp_path.name: "holds no training"}


def test_a_finished_run_that_is_being_trained_again_says_so(root: Path) -> None:
    with pytest.raises(Interrupted):
        fit(recipe(seed=9), dataset(96), root / "a", progress=Stopping(advance=46))
    first, second, _ = runs(root=root).runs
    assert (first.state, first.note) == ("finished", "another training in its folder is in epoch 2 of 3")
    assert (second.state, second.note) == ("finished", "")
    (root / "b" / "metrics.jsonl").write_text((root / "a" / "metrics.jsonl").read_text())  # the end of b's is another's
    assert runs(root=root).runs[1].note == "another training in its folder is in epoch 1 of 1"


def test_a_training_that_failed_says_why_until_it_goes_on(root: Path, tmp_path: Path) -> None:
    plan = recipe(optimizer="sgd", learning_rate=1e30, schedule="constant", epochs=1)
    for name in ("new", "a"):
        with pytest.raises(RecipeError):
            fit(plan, dataset(96), root / name)
    rows = {row.run: row for row in runs(root=root).runs}
    assert (rows["new"].state, rows["a"].state) == ("failed", "finished")
    assert "lower train.learning_rate" in rows["new"].note
    assert rows["a"].note == f"another training in its folder failed: {rows['new'].note}"
    fit(recipe(epochs=1), dataset(96), root / "new")
    fit(recipe(epochs=2), dataset(96), root / "a")
    assert [(row.state, row.note) for row in runs([root / "new", root / "a"]).runs] == [("finished", "")] * 2


def test_a_training_for_int8_that_has_not_ended_says_where_it_is(root: Path) -> None:
    fit(recipe(epochs=1, int8=Int8Recipe(epochs=2)), dataset(96), root / "b")
    assert [row.state for row in runs([root / "b"]).runs] == ["int8 epoch 1 of 2"]
    (root / "b" / "failed.txt").write_text("no layer for 8 bits\n")
    assert [(row.state, row.note) for row in runs([root / "b"]).runs] == [("failed", "no layer for 8 bits")]


def test_a_checkpoint_of_an_earlier_edgekit_does_not_say_where_it_is(root: Path) -> None:
    content = torch.load(root / "stopped" / "checkpoint.pt", weights_only=True)
    torch.save(content, root / "stopped" / "checkpoint.pt")
    assert runs([root / "stopped"]).runs[0].state == "unfinished"


def test_a_bare_name_is_a_training_below_runs_unless_a_training_is_here(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root.parent)
    (root.parent / "b").mkdir()
    assert [row.state for row in runs(["b"], root=root).runs] == ["finished"]
    shutil.copytree(root / "stopped", root.parent / "a")
    assert [row.state for row in runs(["a"], root=root).runs] == ["epoch 2 of 3"]
    assert [row.state for row in runs([root.parent / "b", "a"], root=root).runs] == ["holds no training", "epoch 2 of 3"]


def test_both_accuracies_have_their_intervals_in_80_columns(root: Path) -> None:
    data = dataset(96)
    train, holdout = divided(data.train, 32)
    fit(recipe(epochs=1), msgspec.structs.replace(data, train=train, holdout=holdout), root / "held")
    report = runs(root=root)
    shown = printed(report.page(), 80)
    row = next(row for row in report.runs if row.run == "held")
    for accuracy in (row.held_out, row.test):
        assert accuracy is not None
        assert accuracy.low is not None
        assert f"{accuracy.value:.4f}  {accuracy.low:.3f} to {accuracy.high:.3f}" in shown
    assert "held out 95 %" not in printed(runs([root / "a"]).page(), 80)  # it holds none out


def test_a_long_name_is_shortened_before_figures_are_left_out(root: Path) -> None:
    name = "a-training-of-a-name-that-is-as-long-as-names-of-folders-become"
    (root / "a").rename(root / name)
    page = runs(root=root).page()
    assert "test 95 %" in printed(page, 80)
    wide = printed(page, 200)
    assert all(text in wide for text in (name, "parameters", "seconds", "model"))


def test_two_folders_of_one_name_are_told_apart(root: Path, tmp_path: Path) -> None:
    other = shutil.copytree(root / "a", tmp_path / "elsewhere" / "a")
    report = runs([root / "a", other], plot=tmp_path / "x.png")
    assert [row.run for row in report.runs] == [str(root / "a"), str(other)]


def test_damaged_and_other_folders_are_rows_that_say_so(root: Path) -> None:
    (root / "b" / "weights.safetensors").unlink()
    (root / "stopped" / "metrics.jsonl").write_text("no lines")
    (root / "empty").mkdir()
    shutil.copytree(root / "a", root / "c")
    (root / "a" / "train.json").write_text("{")
    (root / "c" / "metrics.jsonl").write_text('{"epoch": 1,')
    (root / "d").mkdir()
    (root / "d" / "checkpoint.pt").write_bytes(b"no archive")
    states = {row.run: (row.state, row.note) for row in runs([*sorted(root.iterdir())]).runs}
    assert {name for name, (state, note) in states.items() if state == "damaged" and note} == {"a", "b", "c", "d", "stopped"}
    assert "weights.safetensors is missing" in states["b"][1]
    assert states["empty"] == ("holds no training", "")


def test_where_there_are_no_trainings_it_says_so(tmp_path: Path, run: Command) -> None:
    assert "there are no trainings; edgekit train RECIPE makes one" in run("runs", "--runs", str(tmp_path)).out


@pytest.mark.parametrize("name", ["curves.png", "curves.svg"])
def test_curves_are_drawn_together(root: Path, name: str) -> None:
    report = runs(root=root, plot=root / name)
    assert report.plot == str(root / name)
    if name.endswith("png"):
        with Image.open(root / name) as picture:
            assert picture.format == "PNG"
    else:
        text = (root / name).read_text()
        assert text.count('<g id="line2d') > 6
        assert "</svg>" in text


def test_a_plot_that_cannot_be_drawn_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--plot x\.pdf is neither \.png nor \.svg"):
        runs(root=root, plot="x.pdf")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "metrics.jsonl").write_text("")
    with pytest.raises(UsageError, match="there is no training with an epoch to draw"):
        runs([tmp_path / "begun"], plot=tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()


def test_a_run_records_where_it_comes_from(root: Path) -> None:
    report = TrainReport.from_json((root / "b" / "train.json").read_bytes())
    origin = report.provenance
    began = datetime(2026, 1, 1, tzinfo=timezone.utc)
    assert origin is not None
    assert (origin.seed, origin.data_sha256) == (3, dataset(96).sha256())
    assert {"edgekit", "python", "torch", "numpy"} <= set(origin.versions)
    assert len(origin.initial_sha256) == 64
    assert origin.earlier == ()
    assert began < datetime.fromisoformat(origin.began) <= datetime.fromisoformat(origin.until)


def test_a_run_records_every_process_that_trained_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.training.provenance.versions_of", lambda packages: {"torch": "9.9"})
    monkeypatch.setattr("edgekit.training.provenance.commit_of", lambda folder: ("c" * 40, True))
    report = fit(recipe(), dataset(96), root / "stopped", begin="resume")
    origin = report.provenance
    assert origin is not None
    first, last = origin.sessions
    assert (last.versions["torch"], last.commit, last.changed) == ("9.9", "c" * 40, True)
    assert first.versions["torch"] == version("torch")
    assert first.began <= first.until <= last.began <= last.until
    again = fit(recipe(), dataset(96), root / "stopped", begin="resume")
    assert again.provenance == origin  # it took no step
    (told,) = (
        text for text in changes(report, TrainReport.from_json((root / "a" / "train.json").read_bytes())) if "torch (" in text
    )
    assert told == f"torch ({version('torch')} then 9.9, now {version('torch')})"


def test_a_run_that_is_repeated_is_compared_with_what_it_was(root: Path) -> None:
    wanted = recipe_of(root / "a")
    assert wanted.place == root / "a"
    again = fit(wanted.recipe, dataset(96), root / "again")
    assert wanted.compared(again).repetition == "the weights are the same bytes as those of the run that was repeated"
    assert wanted.before is not None
    assert wanted.before.provenance is not None
    older = msgspec.structs.replace(wanted.before.provenance, versions={"torch": "1.0"})
    before = msgspec.structs.replace(wanted.before, weights_sha256="0" * 64, provenance=older)
    note = Wanted(wanted.recipe, None, before).compared(again).repetition
    assert note.startswith("the weights are others than those of the run that was repeated; these differ: ")
    assert "torch (1.0, now " in note


def small_recipe(folder: Path, more: str = "") -> Path:
    """A recipe of 24 small pictures in two classes, in ``folder`` with them."""
    for name in ("a", "b"):
        (folder / "pictures" / name).mkdir(parents=True)
        for number in range(12):
            pixels = np.random.default_rng(number + 50 * (name == "b")).integers(0, 256, (8, 8), np.uint8)
            Image.fromarray(pixels).save(folder / "pictures" / name / f"{number}.png")
    text = 'name = "small"\n[data]\ndataset = "image-folder"\npath = "pictures"\nresize = 8\ncolor = "grey"\n'
    text += f'[model]\nname = "edgenet"\nargs = {{ widths = [16, 16, 16] }}\n[train]\nepochs = 1\nbatch_size = 8\n{more}'
    (folder / "small.toml").write_text(text)
    return folder / "small.toml"


def test_the_command_repeats_a_run_in_its_place_or_below_runs(
    tmp_path: Path, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_recipe(tmp_path)
    assert run("train", str(tmp_path / "small.toml"), "--runs", str(tmp_path / "runs")).code == 0
    before = (tmp_path / "runs" / "small" / "weights.safetensors").read_bytes()
    unasked = run("train", str(tmp_path / "runs" / "small"))
    assert (unasked.code, "holds a finished training; --restart repeats it in its place" in unasked.err) == (2, True)
    again = run("train", str(tmp_path / "runs" / "small"), "--restart", "--json")
    assert again.document["repetition"] == "the weights are the same bytes as those of the run that was repeated"
    assert json.loads((tmp_path / "runs" / "small" / "train.json").read_bytes()) == again.document
    assert (tmp_path / "runs" / "small" / "weights.safetensors").read_bytes() == before
    with pytest.raises(ModelError, match=r"is not a finished run: recipe\.json is missing"):
        recipe_of(tmp_path / "pictures")
    monkeypatch.chdir(tmp_path)  # --runs counts as given, though it is what it would be if it were not
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    assert run("train", "elsewhere/small", "--runs", "runs").code == 0
    assert (tmp_path / "runs" / "small" / "weights.safetensors").read_bytes() == before


def test_a_repetition_takes_the_dtype_that_auto_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An earlier edgekit, or another machine, has decided otherwise; the recipe of the run stays what it was."""
    place, path = tmp_path / "run", small_recipe(tmp_path, 'precision = "auto"\n')
    monkeypatch.setattr(numerics, "bfloat16_pays", lambda: True)
    before = train(path, place)
    monkeypatch.setattr(numerics, "bfloat16_pays", lambda: False)
    assert train(path, tmp_path / "anew").facts["precision"] == "float32"
    kept = (place / "recipe.json").read_bytes()
    again = train(place, begin="restart")
    assert again.repetition == "the weights are the same bytes as those of the run that was repeated"
    assert (again.weights_sha256, again.facts["precision"]) == (before.weights_sha256, "bfloat16")
    assert (place / "recipe.json").read_bytes() == kept


def test_a_repetition_of_a_recipe_that_names_a_dtype_takes_that(tmp_path: Path) -> None:
    place = tmp_path / "run"
    report = train(small_recipe(tmp_path), place)
    forged = msgspec.structs.replace(report, facts={**report.facts, "precision": "bfloat16"})
    (place / "train.json").write_bytes(forged.to_json())
    assert train(place, begin="restart").facts["precision"] == "float32"


def test_what_differs_between_two_trainings_is_told_by_its_name() -> None:
    origin = provenance(0, "a" * 64, "b" * 64, [session()])
    now = msgspec.structs.replace(TRAIN, provenance=origin)
    assert changes(now, now) == ()
    other = msgspec.structs.replace(origin, seed=1, commit="c" * 40, changed=True)
    told = changes(msgspec.structs.replace(now, provenance=other, facts={"precision": "bfloat16"}), now)
    assert told[0] == "seed (1, now 0)"
    assert any(text.startswith("commit (cccccccccccc with changes, now ") for text in told)
    assert "precision (bfloat16, now none)" in told
    assert changes(TRAIN, now) == ("what an earlier edgekit did not record",)


def test_outside_of_a_repository_and_without_git_no_commit_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert session(tmp_path).commit == ""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert session().commit == ""


def test_git_has_its_usual_time_whatever_less_the_user_grants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    granted = []

    def git(command: list[str], *, timeout: float, **_: object) -> subprocess.CompletedProcess[str]:
        granted.append(timeout)
        return subprocess.CompletedProcess(command, 1, "", "")

    monkeypatch.setattr("edgekit.training.provenance.subprocess.run", git)
    for seconds in ("1", "60", ""):
        monkeypatch.setenv("EDGEKIT_SECONDS", seconds)
        assert session(tmp_path).commit == ""
    assert granted == [GIT_SECONDS, 60, GIT_SECONDS]


class Written:
    """Stands for TensorBoard's writer: keeps what is written."""

    made: ClassVar[list[tuple[str, int | None]]] = []
    scalars: ClassVar[list[tuple[str, float, int]]] = []
    keys: ClassVar[dict[str, object]] = {}

    def __init__(self, folder: str, purge_step: int | None = None) -> None:
        self.made.append((folder, purge_step))

    def __enter__(self) -> Written:
        return self

    def __exit__(self, *problem: object) -> None:
        pass

    def flush(self) -> None:
        pass

    close = flush

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((name, value, step))

    def add_hparams(self, keys: dict[str, object], accuracies: dict[str, float], run_name: str) -> None:
        self.keys.update(keys, **accuracies)


def test_tensorboard_is_told_of_every_epoch_and_goes_on_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan: Recipe = recipe()

    for kept, empty in (("made", []), ("scalars", []), ("keys", {})):
        monkeypatch.setattr(Written, kept, empty)

    def watcher() -> TensorBoard:
        made = TensorBoard.__new__(TensorBoard)
        vars(made).update(_writer=None, _open=Written, _folder=tmp_path / "board", _recipe=plan)
        return made

    with pytest.raises(Interrupted):
        fit(plan, dataset(96), tmp_path / "run", progress=Stopping(advance=46), watchers=(watcher(),))
    last = watcher()
    report = fit(plan, dataset(96), tmp_path / "run", begin="resume", watchers=(last,))
    last.end(report)
    losses = [(step, value) for name, value, step in Written.scalars if name == "loss"]
    assert losses == [(epoch.epoch, epoch.loss) for epoch in report.epochs]
    assert [step for _, step in Written.made] == [1, 2]
    assert Written.keys["train.learning_rate"] == plan.train.learning_rate
    assert Written.keys["hparam/test_accuracy"] == report.test_accuracy


def test_the_training_for_int8_is_shown_wherever_the_training_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorBoard counts its epochs on, the curve is drawn anew, and the list and the plot of runs have it."""
    path = small_recipe(tmp_path, "[train.int8]\nepochs = 2\n")
    board, written = TensorBoard.__new__(TensorBoard), Written
    vars(board).update(_writer=None, _open=written, _folder=tmp_path / "board", _recipe=load_recipe(path))
    for kept, empty in (("made", []), ("scalars", []), ("keys", {})):
        monkeypatch.setattr(Written, kept, empty)
    monkeypatch.setattr("edgekit.training.watching.TensorBoard", lambda folder, recipe: board)
    titles: list[str] = []
    monkeypatch.setattr(Axes, "set_title", lambda axes, text: titles.append(text))
    report = train(path, tmp_path / "runs" / "small", tensorboard=tmp_path / "board")
    assert report.int8 is not None
    losses = [(name, step, value) for name, value, step in Written.scalars if name.endswith("loss")]
    assert losses == [("loss", 1, report.epochs[0].loss), *(("int8/loss", 1 + e.epoch, e.loss) for e in report.int8.epochs)]
    assert Written.keys["hparam/int8_accuracy"] == report.int8.trained
    assert titles[-1] == f"test accuracy {report.test_accuracy:.4f}, in int8 {report.int8.trained:.4f}"
    (row,) = runs(root=tmp_path / "runs", plot=tmp_path / "curves.svg").runs
    assert row.int8 is not None
    assert row.int8.value == report.int8.trained
    assert "int8" in printed(runs(root=tmp_path / "runs").page(), 80)
    assert "stroke-dasharray" in (tmp_path / "curves.svg").read_text().split("axes_2")[1].split("legend_1")[0]


def test_a_curve_of_one_epoch_is_points_around_a_whole_number(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(pyplot, "close", figures.append)
    draw_curve(TRAIN, root / "curve.png", "x")
    (figure,) = figures
    for axes in figure.axes:
        assert [tick for tick in axes.get_xticks() if 0.5 <= tick <= 1.5] == [1]
        assert axes.get_xlim() == (0.5, 1.5)
        assert all(line.get_marker() not in ("", "None", None) for line in axes.get_lines())


def test_tensorboard_without_its_package_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingError, match="--tensorboard needs the package tensorboard; pip install tensorboard"):
        TensorBoard(tmp_path, recipe())


def test_the_report_of_runs_is_json(root: Path) -> None:
    document = json.loads(runs(root=root).to_json())
    assert document["passed"] is True
    assert document["differing"] == ["train.epochs", "train.flip", "train.seed"]
