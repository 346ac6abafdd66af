"""Training on two processes, started by torchrun: it is the training of one, and it ends as one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load_file
from torch import Tensor, nn

from edgekit.errors import ModelError, UsageError
from edgekit.machine.launcher import Launch, launched
from edgekit.models.batchnorm import BatchNorm
from edgekit.training.batches import Batches, predictions
from edgekit.training.fit import fit
from edgekit.training.folder import Begin, run_report
from edgekit.training.sync_norm import SynchronisedNorms
from edgekit.training.untrained import build_model
from tests.networks import dataset, randomise_norms
from tests.training import two_processes
from tests.training.test_loop import without_seconds

LIMIT = 600
"""Seconds after which a process that hangs is a failure."""
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
LIMITS_WITHIN = 0.005
"""Between ranges of one process and of two: a value between two codes falls to either side, and others follow."""
EQUAL_WITHIN = 1e-4
"""Between weights of one process and of two; without synchronised batch norm they differ by more than a thousand times that."""


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes have done all of ``two_processes.CASES``: torchrun takes seconds to start."""
    folder = tmp_path_factory.mktemp("together")
    command = [*TORCHRUN, two_processes.HERE, str(folder)]
    done = subprocess.run(command, env=elsewhere(), capture_output=True, text=True, check=False, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return folder


def elsewhere() -> dict[str, str]:
    """The environment of a process that finds this edgekit and these tests from any folder."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "200"}


def difference(run: Path, other: Path) -> float:
    """The largest between two weights of the same name."""
    weights, others = (load_file(folder / "weights.safetensors") for folder in (run, other))
    return max(float(np.abs(weights[name].astype(np.float64) - others[name]).max()) for name in weights)


@pytest.mark.parametrize("name", two_processes.EQUAL)
def test_two_processes_train_as_one_does(name: str, together: Path, tmp_path: Path) -> None:
    report = fit(two_processes.EQUAL[name], dataset(two_processes.SAMPLES), tmp_path / "run", device="cpu")
    assert difference(tmp_path / "run", together / name) < EQUAL_WITHIN
    for line, other in zip(without_seconds(tmp_path / "run"), without_seconds(together / name), strict=True):
        assert line["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert {**line, "loss": 0} == {**other, "loss": 0}  # accuracies are of each picture once
    assert report.facts["processes"] == "1"


def test_without_synchronised_batch_norm_it_is_another_training(together: Path) -> None:
    assert difference(together / "plain", together / "without") > 1000 * EQUAL_WITHIN


def test_a_compiled_model_is_trained_as_it_is_without_the_compiler(together: Path) -> None:
    """With every batch norm synchronised, also one that infers until it thaws."""
    assert all(int((together / f"pieces{rank}").read_text()) > 3 for rank in (0, 1))
    assert difference(together / "stages", together / "compiled") < EQUAL_WITHIN
    losses = [[line["loss"] for line in without_seconds(together / name)] for name in ("stages", "compiled")]
    assert losses[0] == pytest.approx(losses[1])


def limits(run: Path) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.asarray([row["limit"] for row in json.loads((run / "int8.json").read_bytes())["tensors"]])


def test_two_processes_train_for_int8_as_one_does(together: Path, tmp_path: Path) -> None:
    """Ranges are of the whole batch; with those of the first one's share they are smaller."""
    two_processes.for_int8(two_processes.INT8, dataset(two_processes.SAMPLES), tmp_path / "run")
    alone = limits(tmp_path / "run")
    apart, of_share = (np.abs(limits(together / name) / alone - 1).max() for name in ("int8", "int8-apart"))
    assert apart < LIMITS_WITHIN
    assert of_share > 4 * LIMITS_WITHIN
    reports = [run_report(folder).int8 for folder in (tmp_path / "run", together / "int8")]
    one, two = (report for report in reports if report is not None)
    assert [epoch.loss for epoch in two.epochs] == pytest.approx([epoch.loss for epoch in one.epochs], rel=0.01)
    assert not (together / "of-the-second").exists()


def test_a_signal_to_one_process_stops_both_and_they_resume_to_the_same_bytes(together: Path) -> None:
    whole, stopped = together / "whole", together / "stopped"
    sentences = {(stopped / f"error{rank}").read_text() for rank in (0, 1)}
    assert len(sentences) == 1
    assert sentences.pop().startswith("Interrupted: training stopped in epoch 2 of 2 after 6 of 20 steps")
    assert (stopped / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()
    assert without_seconds(stopped) == without_seconds(whole)


def test_all_processes_compute_in_the_dtype_of_the_first(together: Path) -> None:
    assert [(together / f"precision{rank}").read_text() for rank in (0, 1)] == ["float32", "float32"]


def test_each_process_draws_random_numbers_of_its_own(together: Path) -> None:
    content = torch.load(together / "whole" / "checkpoint.pt", weights_only=True)
    seeds = [torch.Generator().set_state(states["cpu"]).initial_seed() for states in content["generators"]]
    assert seeds[0] != seeds[1]


def test_an_unfinished_training_goes_on_with_the_same_number_of_processes_only(together: Path, tmp_path: Path) -> None:
    """A finished one is taken as it is, so that ``edgekit run`` goes on from what torchrun has trained."""
    plan, data = two_processes.DROPS, dataset(two_processes.SAMPLES)
    path = tmp_path / "checkpoint.pt"
    content = torch.load(together / "whole" / "checkpoint.pt", weights_only=True)
    torch.save(content, path)
    assert fit(plan, data, tmp_path, device="cpu", begin="update").facts["processes"] == "2"
    assert (tmp_path / "weights.safetensors").read_bytes() == (together / "whole" / "weights.safetensors").read_bytes()
    torch.save({**content, "epoch": 1, "history": content["history"][:1]}, path)
    ways: tuple[Begin, ...] = ("resume", "update")
    for begin in ways:
        with pytest.raises(UsageError, match=r"made with other number of processes \(2, now 1\); --restart begins anew"):
            fit(plan, data, tmp_path, device="cpu", begin=begin)


def test_every_picture_is_labelled_once_and_both_processes_have_all_labels(together: Path) -> None:
    data = dataset(two_processes.SAMPLES)
    parts = [np.load(together / f"labels{rank}.npz") for rank in (0, 1)]
    assert np.concatenate([part["own"] for part in parts]).tolist() == list(range(len(data.test)))
    model = build_model(two_processes.EQUAL["plain"], two_processes.data_shape(data)).module
    labels = predictions(model, Batches(data.test, data.preprocess, torch.device("cpu"))).tolist()
    assert [part["labels"].tolist() for part in parts] == [labels, labels]


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ("diverged", "RecipeError: the loss became nan in epoch 1"),  # in the second process alone
        ("other", "UsageError: process 2 of 2 has other pictures or classes than the first; give every machine the same"),
        ("tiny", "RecipeError: a batch of 1 pictures has none for some of the 2 processes; raise train.batch_size"),
    ],
)
def test_what_one_process_refuses_all_refuse_alike(case: str, sentence: str, together: Path) -> None:
    sentences = [(together / case / f"error{rank}").read_text() for rank in (0, 1)]
    assert sentences[0] == sentences[1]
    assert sentences[0].startswith(sentence)
    assert not (together / case / "checkpoint.pt").exists()


class Sums:
    """The sum over threads that each hold a share, as processes do by an all-reduce."""

    def __init__(self, count: int) -> None:
        self.parts: list[Tensor] = [torch.zeros(0)] * count
        self.barrier = threading.Barrier(count, timeout=LIMIT)

    def of(self, number: int) -> Callable[[Tensor], Tensor]:
        def total(tensor: Tensor) -> Tensor:
            self.parts[number] = tensor
            self.barrier.wait()
            summed = torch.stack(self.parts).sum(0)
            self.barrier.wait()
            return summed

        return total


NORMS: dict[int, tuple[Callable[..., nn.Module], ...]] = {
    2: (nn.BatchNorm1d, BatchNorm),
    3: (nn.BatchNorm1d,),
    4: (nn.BatchNorm2d, BatchNorm),
    5: (nn.BatchNorm3d,),
}


@given(
    axes=st.sampled_from(sorted(NORMS)),
    shares=st.lists(st.integers(1, 4), min_size=2, max_size=3),
    affine=st.booleans(),
    momentum=st.sampled_from((0.1, None)),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=40)
def test_shares_are_normalised_as_their_whole_batch(
    axes: int, shares: list[int], affine: bool, momentum: float | None, seed: int
) -> None:
    """In float64: outputs, gradients of the input and of both parameters, and running statistics."""
    torch.manual_seed(seed)
    x = torch.randn(sum(shares), 3, *range(2, axes), dtype=torch.float64) * 2 + 5
    slope = torch.randn_like(x)
    for kind in NORMS[axes]:
        options: dict[str, Any] = {} if kind is BatchNorm else {"affine": affine, "momentum": momentum}
        norms = [randomise_norms(kind(3, **options), seed).double() for _ in range(len(shares) + 1)]
        whole = applied(norms[0], x, slope)
        parts = on_threads(norms[1:], torch.split(x, shares), torch.split(slope, shares))
        for reference, joined in zip(whole[:2], zip(*parts, strict=True), strict=False):
            torch.testing.assert_close(torch.cat(joined[: len(shares)]), reference, rtol=1e-9, atol=1e-9)
        for name, parameter in norms[0].named_parameters():
            summed = sum(dict(norm.named_parameters())[name].grad for norm in norms[1:])  # type: ignore[misc]
            torch.testing.assert_close(summed, parameter.grad, rtol=1e-9, atol=1e-9)
        for norm in norms[1:]:
            for name, buffer in norms[0].named_buffers():
                torch.testing.assert_close(norm.get_buffer(name), buffer, rtol=1e-9, atol=1e-9)


def applied(norm: nn.Module, x: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """Output and gradient of the input."""
    x = x.clone().requires_grad_()
    y = norm(x)
    y.backward(slope)
    assert x.grad is not None
    return y.detach(), x.grad


def on_threads(norms: list[Any], parts: tuple[Tensor, ...], slopes: tuple[Tensor, ...]) -> list[tuple[Tensor, Tensor]]:
    sums, outcomes = Sums(len(parts)), [(torch.zeros(0), torch.zeros(0))] * len(parts)

    def work(number: int) -> None:
        with SynchronisedNorms(sums.of(number), pytest.fail):
            outcomes[number] = applied(norms[number], parts[number], slopes[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(parts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    return outcomes


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(3), BatchNorm(3)], ids=["pytorch", "edgekit"])
def test_a_batch_of_a_single_value_has_no_variance(norm: nn.Module) -> None:
    with SynchronisedNorms(lambda tensor: tensor, pytest.fail), pytest.raises(ModelError, match="more than one value"):
        norm(torch.ones(1, 3))


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(3), BatchNorm(3)], ids=["pytorch", "edgekit"])
def test_frozen_batch_norm_infers(norm: nn.Module) -> None:
    x, frozen = torch.randn(4, 3), randomise_norms(norm).eval()
    expected = frozen(x)
    with SynchronisedNorms(lambda tensor: tensor, pytest.fail):
        assert torch.equal(frozen(x), expected)
        assert not torch.allclose(frozen.train()(x), expected)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, Launch(1, 4, 1)),
        ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, None),
        ({"RANK": "0", "WORLD_SIZE": "4"}, None),
    ],
    ids=["of four", "alone", "not torchrun's"],
)
def test_the_launcher_says_which_process_this_is(
    environment: dict[str, str], expected: Launch | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**environment, "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert launched() == expected
    monkeypatch.setenv("LOCAL_RANK", "first")
    with pytest.raises(UsageError, match="are no whole numbers; let torchrun set them"):
        launched()


RECIPE = """
name = "long"
data = {dataset = "image-folder", path = "photos", resize = 28, color = "grey"}
model = {name = "lenet"}
train = {epochs = 100000, batch_size = 4, checkpoint_every = 2}
"""


@pytest.fixture
def long(tmp_path: Path) -> Path:
    """A recipe whose training never ends."""
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for kind in ("a", "b"):
            folder = tmp_path / "photos" / part / kind
            folder.mkdir(parents=True)
            for number in range(6):
                Image.fromarray(rng.integers(0, 255, (28, 28)).astype(np.uint8)).save(folder / f"{number}.png")
    (tmp_path / "long.toml").write_text(RECIPE)
    return tmp_path


@contextmanager
def started(folder: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """``torchrun ... edgekit WORDS`` in ``folder``; nothing of it is left in the end."""
    command = [*TORCHRUN, "edgekit", *words]
    with subprocess.Popen(
        command, cwd=folder, env=elsewhere(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as launcher:
        watch = threading.Timer(LIMIT, launcher.kill)
        watch.start()
        try:
            yield launcher
        finally:
            watch.cancel()
            for process in [*workers(launcher), psutil.Process(launcher.pid)] if launcher.poll() is None else []:
                process.kill()


def workers(launcher: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(launcher.pid).children() if launcher.poll() is None else []


def read_until(launcher: subprocess.Popen[str], text: str) -> list[str]:
    """The lines up to the one that holds ``text``."""
    assert launcher.stdout is not None
    lines = []
    for line in launcher.stdout:
        lines.append(line)
        if text in line:
            return lines
    pytest.fail("".join(lines))


def sentences(launcher: subprocess.Popen[str]) -> list[str]:
    """What edgekit says from here on to the end, of all that is written."""
    assert launcher.stdout is not None
    return [line.strip() for line in launcher.stdout.read().splitlines() if line.startswith("error: ")]


def test_a_dying_worker_and_ctrl_c_end_all_with_one_sentence_and_a_checkpoint(long: Path) -> None:
    checkpoint = long / "runs" / "long" / "checkpoint.pt"
    with started(long, "train", "long.toml") as launcher:
        read_until(launcher, "epoch 3/")  # which is said before it is saved
        processes = workers(launcher)
        second = next(process for process in processes if process.environ()["RANK"] == "1")
        second.kill()
        assert sentences(launcher) == [
            "error: a process of this training has ended, or cannot be reached; "
            "start all again with --resume, which goes on from the last checkpoint"
        ]
        assert launcher.wait(LIMIT) == 1
        assert not any(process.is_running() for process in processes)
    left = torch.load(checkpoint, weights_only=True)
    assert left["epoch"] >= 2
    with started(long, "train", "long.toml", "--resume") as launcher:
        lines = read_until(launcher, "/100000  loss")
        assert any(f"going on with the training that stopped in epoch {left['epoch'] + 1}" in line for line in lines)
        assert sum("going on" in line for line in lines) == 1
        launcher.send_signal(signal.SIGINT)
        (sentence,) = sentences(launcher)
        assert "error: training stopped in epoch" in sentence
        assert "runs/long/checkpoint.pt keeps it, --resume continues" in sentence
        assert launcher.wait(LIMIT) == 1
    assert torch.load(checkpoint, weights_only=True)["epoch"] > left["epoch"]


def test_an_error_of_all_is_told_once_and_run_says_what_to_do_instead(long: Path) -> None:
    with started(long, "run", "long.toml") as launcher:
        (sentence,) = sentences(launcher)
        assert sentence.startswith("error: edgekit run works in one process, and torchrun has started several; train with it")
        assert launcher.wait(LIMIT) == 1


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_train_as_one_does(long: Path) -> None:
    """By NCCL and PyTorch's own synchronised batch norm."""
    text = (long / "long.toml").read_text().replace("epochs = 100000", 'epochs = 2, optimizer = "sgd", learning_rate = 0.01')
    (long / "long.toml").write_text(text)
    words = ["train", "long.toml", "--device", "cuda", "--runs"]
    with started(long, *words, "two") as launcher:
        assert launcher.wait(LIMIT) == 0, launcher.stdout and launcher.stdout.read()
    one = [sys.executable, "-m", "edgekit", *words, "one"]
    subprocess.run(one, cwd=long, env={**elsewhere(), "CUDA_VISIBLE_DEVICES": "0"}, check=True, timeout=LIMIT)
    assert difference(long / "one" / "long", long / "two" / "long") < 100 * EQUAL_WITHIN
