"""Models in other dtypes, or with several inputs and outputs, are exported and verify."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgekit.bundle.folder import open_bundle
from edgekit.commands.export import export as export_bundle
from edgekit.commands.verify import verify
from edgekit.errors import ModelError, UsageError
from edgekit.graphs.trace import named_outputs
from edgekit.sources import ExportOptions
from edgekit.sources.module import load_source, parse_shapes
from tests.networks import randomise_norms
from tests.ways import ways


def net(dtype: torch.dtype) -> nn.Sequential:
    torch.manual_seed(0)
    return randomise_norms(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5))).to(
        dtype
    )


def half() -> nn.Module:
    return net(torch.float16)


def brain() -> nn.Module:
    return net(torch.bfloat16)


def double() -> nn.Module:
    return net(torch.float64)


def damaged_half() -> Any:
    model: Any = net(torch.float16)
    with torch.no_grad():
        model[4].weight.mul_(1.1)
    return model


class Pair(nn.Module):
    """A model with two inputs, nested outputs, and a batch norm in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)

    def forward(self, image: Tensor, scale: Tensor) -> dict[str, object]:
        features = self.norm(self.conv(image)) * scale[:, :, None, None]
        return {"features": features, "aux": (features.mean((2, 3)), scale)}


def pair() -> tuple[nn.Module, dict[str, Tensor]]:
    model = Pair().eval()
    model.norm.train()
    return model, {"scale": torch.rand(2, 1), "image": torch.rand(2, 1, 6, 6)}


class Doubled(Pair):
    def forward(self, image: Tensor, scale: Tensor) -> dict[str, Tensor]:  # type: ignore[override]  # a dict's values are invariant
        return {"features": self.norm(self.conv(image)) * scale[:, :, None, None], "scaled": scale * 2}


def doubled() -> tuple[nn.Module, dict[str, Tensor]]:
    return Doubled(), pair()[1]


def of_the_batch() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))


@pytest.mark.parametrize(("factory", "dtype"), [("half", "float16"), ("brain", "float32"), ("double", "float32")])
def test_other_dtypes_are_exported_and_verify(tmp_path: Path, factory: str, dtype: str) -> None:
    report = export_bundle(
        f"tests.commands.test_export_dtypes:{factory}", tmp_path / "bundle", ExportOptions(input_shapes=("1x3x6x6",))
    )
    manifest = open_bundle(tmp_path / "bundle").manifest
    assert [item.norm for item in report.fold.folded] == ["1"]
    assert {spec.dtype for spec in (*manifest.inputs, *manifest.outputs)} == {dtype}
    assert manifest.variant().precision == dtype
    assert any("was exported as float32" in note for note in report.notes) == (dtype == "float32")
    assert verify(tmp_path / "bundle", ways("ort-cpu")).passed


def test_a_float16_tolerance_can_fail(tmp_path: Path) -> None:
    export_bundle("tests.commands.test_export_dtypes:half", tmp_path / "bundle", ExportOptions(input_shapes=("1x3x6x6",)))
    export_bundle(
        "tests.commands.test_export_dtypes:damaged_half", tmp_path / "damaged", ExportOptions(input_shapes=("1x3x6x6",))
    )
    tolerance = open_bundle(tmp_path / "bundle").variant().allowance.tolerance
    assert 1e-3 <= tolerance.rtol <= 2e-2
    right, wrong = (open_bundle(tmp_path / name).golden().float64["output"] for name in ("bundle", "damaged"))
    assert abs(wrong - right).max() > tolerance.atol + tolerance.rtol * abs(right).max()


def test_inputs_by_name_follow_the_signature_and_outputs_keep_their_names(tmp_path: Path) -> None:
    report = export_bundle("tests.commands.test_export_dtypes:doubled", tmp_path / "bundle")
    manifest = open_bundle(tmp_path / "bundle").manifest
    assert [spec.name for spec in manifest.inputs] == ["image", "scale"]
    assert [spec.name for spec in manifest.outputs] == ["features", "scaled"]
    assert any("training mode" in note for note in report.notes)
    assert verify(tmp_path / "bundle", ways("ort-cpu")).passed
    source = load_source("tests.commands.test_export_dtypes:doubled", input_shapes=("scale=1x1", "image=1x1x6x6"))
    assert [spec.name for spec in source.inputs] == ["image", "scale"]
    with pytest.raises(UsageError, match=r"no parameter 'picture'.*image, scale"):
        load_source("tests.commands.test_export_dtypes:doubled", input_shapes=("scale=1x1", "picture=1x1x6x6"))


def test_nested_outputs_have_joined_names() -> None:
    model, example = pair()
    outputs = named_outputs(model(example["image"], example["scale"]))
    assert list(outputs) == ["features", "aux_0", "aux_1"] or list(outputs) == ["features", "aux0", "aux1"]
    with pytest.raises(ModelError, match="two outputs of one name"):
        named_outputs({"a": {"b": torch.zeros(1)}, "a_b": torch.zeros(1)})


class FixedDtype(nn.Sequential):
    """A model that cannot run in float64 as it stands."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x.float())  # type: ignore[no-untyped-call]  # torch has not typed it


def fixed() -> nn.Module:
    return FixedDtype(*net(torch.float32))


def test_a_model_that_fixes_its_dtype_has_a_float64_reference_too(tmp_path: Path) -> None:
    report = export_bundle(
        "tests.commands.test_export_dtypes:fixed", tmp_path / "fixed", ExportOptions(input_shapes=("1x3x6x6",))
    )
    assert [item.norm for item in report.fold.folded] == ["1"]
    assert 0 < (report.original_error or 0.0) < 1e-5
    golden = open_bundle(tmp_path / "fixed").golden()
    truth = net(torch.float64).eval()(torch.from_numpy(golden.inputs["input"]).double()).detach().numpy()
    assert abs(golden.float64["output"] - truth).max() <= 1e-12 * abs(truth).max()
    assert verify(tmp_path / "fixed", ways("ort-cpu")).passed


def test_a_norm_of_the_batch_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"change by .* with the size of the batch.*: 1 uses the statistics of the batch"):
        export_bundle("tests.commands.test_export_dtypes:of_the_batch", tmp_path / "b", ExportOptions(input_shapes=("1x3x6x6",)))
    assert list(tmp_path.iterdir()) == []


def test_a_shape_may_name_its_dtype() -> None:
    (spec,) = parse_shapes(["tokens=1x16:int64"])
    assert (spec.name, spec.dtype, spec.shape) == ("tokens", "int64", ("batch", 16))
    assert parse_shapes(["1x3"], "float16")[0].dtype == "float16"
    with pytest.raises(UsageError, match=r"'1x3:float8' has an unknown dtype; use one of float32"):
        parse_shapes(["1x3:float8"])
