"""Files of weights: what --weights may name, folders, indices of several files, and keys."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edgekit.errors import ModelError
from edgekit.models.finetune import start_from
from edgekit.models.weights import load_checkpoint


def net(channels: int = 3) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


def in_parts(folder: Path) -> Path:
    """The weights of a net in two files, with their index."""
    state = net().state_dict()
    parts = {key: f"model-0000{1 + (index > 1)}-of-00002.safetensors" for index, key in enumerate(state)}
    for name in set(parts.values()):
        save_file({key: state[key] for key in parts if parts[key] == name}, folder / name, metadata={"format": "pt"})
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": parts}))
    return index


def refusal(file: str) -> str:
    with pytest.raises(ModelError) as caught:
        load_checkpoint(net(), file)
    return str(caught.value)


def test_weights_in_several_files_are_read_by_their_index(tmp_path: Path) -> None:
    model, index = net(), in_parts(tmp_path)
    assert load_checkpoint(model, str(index)) == ()
    assert f"are a folder; give the file in it: --weights {index}" in refusal(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[", "have no weight_map"),
        ('{"weight_map": 3}', "have no weight_map"),
        ('{"weight_map": {"0.weight": "../other.safetensors"}}', "a file outside their folder: ../other.safetensors"),
        ('{"weight_map": {"0.weight": "absent.safetensors"}}', "absent.safetensors do not exist"),
        ('{"weight_map": {"x": "model-00001-of-00002.safetensors"}}', "model-00001-of-00002.safetensors lacks x"),
    ],
)
def test_an_index_that_is_wrong_is_refused(text: str, fault: str, tmp_path: Path) -> None:
    index = in_parts(tmp_path)
    index.write_text(text)
    assert fault in refusal(str(index))


def test_a_folder_is_said_to_be_one_with_what_to_give(tmp_path: Path) -> None:
    assert "are a folder; give a file of weights" in refusal(str(tmp_path))
    (tmp_path / "last.pth").write_bytes(b"")
    assert f"give the file in it: --weights {tmp_path / 'last.pth'}" in refusal(str(tmp_path))
    (tmp_path / "best.pth").write_bytes(b"")
    assert "give a file in it: best.pth, last.pth" in refusal(f"{tmp_path}:ema")
    (tmp_path / ".metadata").write_bytes(b"")
    assert "dcp_to_torch" in refusal(str(tmp_path))


def test_safetensors_are_told_by_their_content_too(tmp_path: Path) -> None:
    save_file(dict(net().state_dict()), tmp_path / "pytorch_model.bin")
    assert load_checkpoint(net(), str(tmp_path / "pytorch_model.bin")) == ()


def test_a_wrong_key_lists_the_keys_that_there_are(tmp_path: Path) -> None:
    state = net().state_dict()
    torch.save({"model": state, "ema": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "c.pth")
    fault = "hold no 'modell'; they hold model, ema.module; check the key (did you mean 'model'?)"
    assert fault in refusal(f"{tmp_path / 'c.pth'}:modell")
    torch.save(state, tmp_path / "plain.pth")
    assert "hold no 'ema': the file is one state_dict; leave the key out" in refusal(f"{tmp_path / 'plain.pth'}:ema")


def test_the_key_chooses_before_the_fit_is_judged(tmp_path: Path) -> None:
    torch.save({"teacher": net(4).state_dict(), "student": net().state_dict()}, tmp_path / "c.pth")
    assert start_from(net(), f"{tmp_path / 'c.pth'}:student", 2) == ("the weights are 'student' of c.pth",)
    assert start_from(net(), str(tmp_path / "c.pth"), 2) == ("the weights are 'student' of c.pth",)
    with pytest.raises(ModelError, match=r"are for 4 input channels"):
        start_from(net(), f"{tmp_path / 'c.pth'}:teacher", 2)


def test_numbers_of_8_bits_become_the_models_dtype(tmp_path: Path) -> None:
    state = {key: value.to(torch.float8_e4m3fn) for key, value in net().state_dict().items()}
    save_file(state, tmp_path / "c.safetensors")
    model = net()
    assert load_checkpoint(model, str(tmp_path / "c.safetensors")) == (
        "the weights' float8_e4m3fn became float32, as the model has it",
    )
    assert torch.equal(model.state_dict()["0.weight"], state["0.weight"].float())


def test_an_archive_of_numpy_is_said_to_be_one(tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", w=np.ones(2))
    assert "are an archive of numpy, not a state_dict; load them into the model" in refusal(str(tmp_path / "c.npz"))
