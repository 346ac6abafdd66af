"""Read a file of weights without unpickling objects: safetensors, torch.save, and several files with an index."""

from __future__ import annotations

import argparse
import io
import json
import pathlib
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file

from edgekit.errors import ModelError, printable
from edgekit.files import opened, read_bytes

REMEDY = "save model.state_dict() with torch.save or as safetensors"
INDEX = ".index.json"
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", INDEX)
# data without behaviour that training scripts put beside the weights
_PLAIN = (argparse.Namespace, pathlib.PosixPath, np.dtype, type(np.dtype("f4")), type(np.dtype("f8")), type(np.dtype("i8")))


def split_key(file: str) -> tuple[Path, str]:
    """``FILE:KEY`` -> path and key; the key is empty where the whole text is a path."""
    path, colon, key = file.rpartition(":")
    return (Path(path), key) if colon and not Path(file).exists() and Path(path).exists() else (Path(file), "")


def read_weights(path: Path) -> Any:
    """The file's content: tensors in nested dicts, beside plain data; raises ModelError that says what else the file is."""
    if path.is_dir():
        raise ModelError(f"weights {path} are a folder", _in_folder(path))
    if not path.is_file():
        raise ModelError(f"weights {path} do not exist", "check the path")
    if path.name.endswith(INDEX):
        return _of_index(path)
    try:
        stream = opened(path)
    except OSError as problem:
        raise ModelError(f"weights {path} cannot be read: {problem.strerror}", "check the path and its permissions") from None
    with stream:
        return _of_stream(path, stream)


def _of_stream(path: Path, stream: BinaryIO) -> Any:
    """The content of one file, which is open."""
    if _is_safetensors(path, stream):
        try:
            # a file is mapped, not read; safetensors opens only names that are UTF-8
            return load_file(path) if printable(str(path)) == str(path) else load(stream.read())
        except (SafetensorError, OSError, ValueError) as problem:
            raise ModelError(f"weights {path} are not valid safetensors: {problem}", "make the file again") from None
    kind = _archive(path, stream)
    if kind is not None:
        raise ModelError(f"weights {path} are {kind[0]}, not a state_dict", kind[1])
    try:
        stream.seek(0)
        with torch.serialization.safe_globals([*_PLAIN, np._core.multiarray.scalar]):  # type: ignore[attr-defined]
            return torch.load(stream, map_location="cpu", weights_only=True)
    except Exception:  # torch's message goes on to suggest an unsafe load, so it is not shown
        raise ModelError(f"weights {path} cannot be loaded safely: {_what_it_is(stream)}", REMEDY) from None


def _in_folder(folder: Path) -> str:
    """What to give in place of a folder."""
    names = sorted(entry.name for entry in folder.iterdir())
    if ".metadata" in names:
        command = f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} weights.pth"
        return f"make one file of this distributed checkpoint: {command}"
    files = [name for name in names if name.endswith(_SUFFIXES)]
    index = [name for name in files if name.endswith(INDEX)]
    chosen = index[:1] or files
    if len(chosen) == 1:
        return f"give the file in it: --weights {folder / chosen[0]}"
    return f"give a file in it: {some(chosen)}" if chosen else "give a file of weights, such as weights.safetensors"


def _of_index(path: Path) -> dict[str, Any]:
    """The tensors of all files that an index names, as large models are saved in parts."""
    content = read_bytes(path, "weights", ModelError)
    try:
        document = json.loads(content)
        places = {str(key): str(name) for key, name in document["weight_map"].items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ModelError(f"weights {path} have no weight_map of names to files", "give a file of weights") from None
    outside = next((name for name in places.values() if Path(name).name != name), None)
    if outside is not None:
        raise ModelError(f"weights {path} name a file outside their folder: {outside}", "put the parts beside the index")
    parts = {name: read_weights(path.parent / name) for name in dict.fromkeys(places.values())}
    lacking = next((key for key, name in places.items() if key not in parts[name]), None)
    if lacking is not None:
        raise ModelError(
            f"weights {path}: {places[lacking]} lacks {lacking}, which the index says it has", "make the files again"
        )
    return {key: parts[name][key] for key, name in places.items()}


def _is_safetensors(path: Path, stream: BinaryIO) -> bool:
    """Whether a file bears safetensors' name, or begins as one: with the length of a JSON header, and that header."""
    if path.suffix == ".safetensors":
        return True
    head, size = stream.read(9), stream.seek(0, io.SEEK_END)
    stream.seek(0)
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") <= size - 8


def _archive(path: Path, stream: BinaryIO) -> tuple[str, str] | None:
    """What a zip archive holds other than a state_dict, and what to give instead; None for one of torch.save."""
    if not zipfile.is_zipfile(stream):
        return None
    try:
        with zipfile.ZipFile(stream) as archive:
            names = {name.partition("/")[2] or name for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile):
        return None
    if "constants.pkl" in names:
        return "a TorchScript archive", f"take them out: torch.save(torch.jit.load({path.name!r}).state_dict(), 'weights.pth')"
    if "archive_format" in names or "serialized_exported_program.json" in names or "models/model.json" in names:
        return (
            "an archive of torch.export",
            f"take them out: torch.save(torch.export.load({path.name!r}).state_dict, 'weights.pth')",
        )
    if "data.pkl" in names:
        return None
    numpy = all(name.endswith(".npy") for name in names)
    return ("an archive of numpy", f"load them into the model, and {REMEDY}") if numpy else ("a zip archive", REMEDY)


def _what_it_is(stream: BinaryIO) -> str:
    """Why torch refuses the file: the classes of the objects in it, or that it is damaged."""
    try:
        stream.seek(0)
        classes = torch.serialization.get_unsafe_globals_in_checkpoint(stream)
    except Exception:  # a file that torch cannot take apart is damaged, whatever it raises
        classes = []
    if classes:
        return f"the file holds pickled objects besides tensors ({some(sorted(classes))})"
    return "the file is damaged, or no file of torch.save"


def some(names: list[str], most: int = 3) -> str:
    """The first ``most`` names, and how many more there are."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
