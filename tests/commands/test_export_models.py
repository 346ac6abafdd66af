"""What people bring to ``edgekit export``: checkpoints, wrapped modules, and models that a file cannot repeat."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from edgekit.bundle.folder import open_bundle
from tests.command_line import Command, process

NETS = '''
import time
import torch
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    """A convolution, a batch norm and a classifier."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)

    def features(self, x):
        return F.relu(self.norm(self.conv(x)))

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))


class Shrinking(Net):
    def forward(self, x):
        return self.head(F.interpolate(self.features(x), scale_factor=0.6, mode="nearest").mean((2, 3)))


class Exact(Net):
    def forward(self, x):
        return F.interpolate(self.features(x), scale_factor=0.7, mode="bilinear")


class Half(Net):
    def forward(self, x):
        return F.conv2d(x.bfloat16(), self.conv.weight.bfloat16()).float()


class Rounded(Net):
    def forward(self, x):
        return super().forward(x).bfloat16().float()


class Branching(Net):
    def forward(self, x):
        return super().forward(x) if x.mean() > 0 else super().forward(-x)


class Svd(Net):
    def forward(self, x):
        return torch.linalg.svd(self.features(x) + torch.eye(17), full_matrices=False)[1]


class Dropping(Net):
    def forward(self, x):
        return F.dropout(super().forward(x))


class Masked(Net):
    def forward(self, x):
        return super().forward(x).masked_fill(torch.arange(4) > 2, float("-inf"))


class Logarithm(Net):
    def forward(self, x):
        return (super().forward(x) - 100).log()


class Spectrum(Net):
    def forward(self, x):
        return torch.fft.fft2(x)


class WithWeight(Net):
    def forward(self, x):
        return super().forward(x), self.head.weight


class Shifted(Net):
    """A Net with numbers of its own that no file of weights holds."""

    def __init__(self):
        super().__init__()
        self.register_buffer("shift", torch.randn(1, 4), persistent=False)

    def forward(self, x):
        return super().forward(x) + self.shift


def compiled():
    return torch.compile(Net().eval())


def wide():
    return Net().double()


def short():
    return Net().bfloat16()


def pair():
    return Net().double(), torch.ones(2, 3, 19, 19).double()
'''


SHAPE = ("--input-shape", "1x3x19x19")


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    """A folder with the user's models."""
    (tmp_path / "nets_to_export.py").write_text(NETS)
    return tmp_path


@pytest.fixture
def beside(run: Command, nets: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """``edgekit`` in this process, in the folder of the user's models."""
    monkeypatch.chdir(nets)
    return run


def exported(folder: Path, name: str, environment: dict[str, str], *args: str) -> tuple[int, str]:
    """The exit code and stderr of an export in a process of its own."""
    words = ("export", f"nets_to_export:{name}", *SHAPE, "--output", "out", *args)
    done = process(*words, environment=environment, folder=folder)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        (
            "Shrinking",
            "Resize node_upsample_nearest2d (aten.upsample_nearest2d.vec) computes something else in ONNX Runtime than",
        ),
        ("Half", "computes in bfloat16, which ONNX's opset 20 does not have for it; take --opset 22, whose Conv has it, or"),
        ("Spectrum", "output 'output' is complex, which no backend takes"),
        ("WithWeight", "output 'output1' is 4x8 for 80 samples: its first axis is not the batch"),
        ("Dropping", "forward() draws random numbers in inference mode: aten.dropout"),
    ],
)
def test_a_model_that_no_file_repeats_is_one_sentence_with_the_operator(
    name: str, fault: str, nets: Path, beside: Command
) -> None:
    result = beside("export", f"nets_to_export:{name}", *SHAPE, "--output", "out")
    check_one_sentence(nets, fault, result.code, result.err)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("Svd", "torch.onnx.export refused the model at opset 20: it has no ONNX for aten."),
        ("Branching", "cannot be traced with a free batch axis"),
    ],
)
def test_what_pytorch_prints_of_a_model_that_it_refuses_is_left_out(
    name: str, fault: str, nets: Path, environment: dict[str, str]
) -> None:
    """In a process of its own, whose stderr PyTorch's loggers have."""
    check_one_sentence(nets, fault, *exported(nets, name, environment))


def check_one_sentence(nets: Path, fault: str, code: int, err: str) -> None:
    assert code == 2
    assert fault in err
    lines = [line for line in err.splitlines() if not line.startswith("exporting")]
    assert len(lines) == 1, err  # no listing of PyTorch's
    assert not any(word in err for word in ("--no-fold-bn", "please report", "are trained"))
    assert not (nets / "out").exists()


def test_debug_shows_what_pytorch_prints(nets: Path, environment: dict[str, str]) -> None:
    code, err = exported(nets, "Branching", environment, "--debug")
    assert code == 2
    assert "Traceback" in err
    assert "def forward(self" in err


def test_a_scale_that_float32_rounds_down_costs_no_pixel(nets: Path, beside: Command) -> None:
    done = beside("export", "nets_to_export:Exact", "--input-shape", "1x3x12x12", "--output", "out")
    assert done.code == 0, done.err
    assert open_bundle(nets / "out").manifest.outputs[0].shape == ("batch", 8, 7, 7)


def test_a_bundle_whose_original_rounds_to_16_bits_inside_passes_only_if_its_wide_bar_is_accepted(
    nets: Path, beside: Command
) -> None:
    done = beside("export", "nets_to_export:Rounded", *SHAPE, "--output", "out")
    assert done.code == 0, done.err
    assert any("the model amplifies rounding" in text for text in open_bundle(nets / "out").manifest.notes)
    words = ("verify", "out", "--backend", "ort-cpu")
    refused = beside(*words)
    assert refused.code == 1
    assert "asks for a wider bar" in refused.out
    assert beside(*words, "--allow", "tolerance").code == 0


def test_what_was_done_to_model_and_weights_is_in_report_and_manifest(
    run: Command, nets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(nets)
    run("export", "nets_to_export:Net", "--input-shape", "1x3x19x19", "--output", "plain")
    weights = load_file(nets / "plain" / "weights.safetensors")
    halves = {f"module.{key}": value.half() if value.is_floating_point() else value for key, value in weights.items()}
    torch.save({"ema": halves}, "c.pth")
    result = run("export", "nets_to_export:compiled", *SHAPE, "--weights", "c.pth:ema", "--output", "out", "--json")
    assert result.code == 0, result.err
    notes = result.document["notes"]
    steps = ("without its wrapper torch.compile", "the weights are 'ema' of c.pth", "'module.' was cut", "float16 became float32")
    assert all(any(step in line for line in notes) for step in steps), notes
    assert tuple(notes) == open_bundle(nets / "out").manifest.notes
    assert run("inspect", "nets_to_export:Net", "--input-shape", "1x3x19x19", "--weights", "c.pth:ema").code == 0


@pytest.mark.parametrize("name", ["wide", "short", "pair", "Shifted"])
def test_source_gives_verify_the_model_that_was_exported(
    name: str, run: Command, nets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(nets)
    shape = () if name == "pair" else SHAPE
    assert run("export", f"nets_to_export:{name}", *shape, "--output", "out").code == 0
    result = run("verify", "out", "--source", f"nets_to_export:{name}", "--backend", "torch")
    assert result.code == 0, result.err


def test_masked_outputs_are_exported_verified_and_labelled_and_nan_is_refused(
    run: Command, nets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(nets)
    (nets / "labels.txt").write_text("a\nb\nc\nd\n")
    words = ("--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5", "--labels", "labels.txt")
    assert run("export", "nets_to_export:Masked", *SHAPE, *words, "--output", "masked").code == 0
    assert run("verify", "masked", "--source", "nets_to_export:Masked").code == 0
    Image.effect_noise((19, 19), 90).convert("RGB").save("p.png")
    result = run("predict", "masked", "p.png", "--top", "4", "--json")
    assert result.code == 0, result.err
    assert result.document["predictions"][0]["guesses"][-1] == {"label": "d", "probability": 0.0}
    refused = run("export", "nets_to_export:Logarithm", *SHAPE, "--output", "nan")
    assert (refused.code, "output 'output' of the model is NaN on its golden inputs" in refused.err) == (2, True), refused.err
