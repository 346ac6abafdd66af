"""The program of ``examples/cpp``: built against ONNX Runtime, run on bundles, and refused where a bundle is not what it says."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from edgekit.commands.predict import predict
from edgekit.files import cache_root
from edgekit.preprocess import Preprocess
from tests.bundle.editing import edit, members, npz, put
from tests.command_line import flipped

SOURCE = Path(__file__).parents[2] / "examples" / "cpp"
API = "onnxruntime_cxx_api.h"
KEPT = cache_root() / "cpp" / "usr" / "include"
"""Where ``.ci/setup`` unpacks Debian's headers: the user's own cache, before a test is given another."""


def place_of(*candidates: str | Path | None, name: str) -> Path | None:
    """The first folder of the candidates that holds the file ``name``, there or in ``onnxruntime/`` or ``stb/``."""
    folders = [Path(each) / inside for each in candidates if each for inside in ("", "onnxruntime", "stb")]
    return next((folder for folder in folders if (folder / name).is_file()), None)


SYSTEM = ("/usr/include", "/usr/local/include")
HEADERS = place_of(os.environ.get("EDGEKIT_ONNXRUNTIME_INCLUDE"), KEPT, *SYSTEM, name=API)
MISSING = [
    *(program for program in ("cmake", "c++") if shutil.which(program) is None),
    *([] if HEADERS else [f"{API} (Debian's libonnxruntime-dev, or EDGEKIT_ONNXRUNTIME_INCLUDE names its folder)"]),
    *([] if place_of(*SYSTEM, name="nlohmann/json.hpp") else ["nlohmann-json3-dev"]),
    *([] if place_of(*SYSTEM, name="stb_image.h") else ["libstb-dev"]),
    *([] if importlib.util.find_spec("onnxruntime") else ["the package onnxruntime, whose library it runs with"]),
]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}")

Program = Callable[..., subprocess.CompletedProcess[str]]


def library() -> Path:
    """That of Python's package, which has no link of the name that programs load."""
    import onnxruntime

    return next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.1.*"))


def cmake(*words: str | Path) -> None:
    done = subprocess.run(["cmake", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def executable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, built with the headers here and the library of Python's package, as docs/cpp.md says."""
    build = tmp_path_factory.mktemp("cpp") / "build"
    where = (f"-DONNXRUNTIME_INCLUDE_DIR={HEADERS}", f"-DONNXRUNTIME_LIBRARY={library()}")
    cmake("-S", SOURCE, "-B", build, *where, "-DCMAKE_CXX_FLAGS=-Werror")
    cmake("--build", build)
    return build / "edgekit-bundle"


def test_a_release_of_onnx_runtime_is_found_by_its_folder(tmp_path: Path) -> None:
    root = tmp_path / "onnxruntime-linux-x64"
    (root / "lib").mkdir(parents=True)
    assert HEADERS is not None
    (root / "include").symlink_to(HEADERS)
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (root / "lib" / name).symlink_to(library())
    cmake("-S", SOURCE, "-B", tmp_path / "build", f"-DONNXRUNTIME_ROOT={root}")
    assert (
        f"ONNXRUNTIME_LIBRARY:FILEPATH={root / 'lib' / 'libonnxruntime.so'}\n"
        in (tmp_path / "build" / "CMakeCache.txt").read_text()
    )


@pytest.fixture
def program(executable: Path) -> Program:
    def run(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([executable, *map(str, words), "--runs", "3"], capture_output=True, text=True, check=False)

    return run


def scaled_weight(root: Path) -> None:
    """The first weights 1.01 times as large, and the checksum with them."""
    model = onnx.load(root / "model.onnx")
    tensor = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.01), tensor.name))
    put(root, "model.onnx", model.SerializeToString())


def changed_golden_output(root: Path) -> None:
    """One of the recorded outputs 0.1 % of the scale larger, and the checksum with it."""
    arrays = members(root)
    arrays["float64.output"][3, 2] += 1e-3 * np.abs(arrays["float64.output"]).max()
    put(root, "golden.npz", npz(arrays))


def not_a_number(root: Path) -> None:
    """A recorded output that nothing equals."""
    arrays = members(root)
    arrays["float64.output"][3, 2] = np.nan
    put(root, "golden.npz", npz(arrays))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lenet", ()),
        ("edgenet", ("--variant", "int8")),
        ("edgenet", ("--variant", "float16")),
        ("lenet-scratch", ("--threads", 2)),
    ],
)
def test_the_golden_outputs_pass_and_runs_are_timed(
    program: Program, repository: Path, name: str, words: tuple[Any, ...]
) -> None:
    done = program(repository / "exported" / name, *words)
    assert done.returncode == 0, done.stderr
    checks = [line for line in done.stdout.splitlines() if line.startswith("output in batches of")]
    assert [line.rpartition(": ")[2] for line in checks] == ["pass", "pass"]
    assert "median" in done.stdout


@pytest.mark.parametrize("change", [scaled_weight, changed_golden_output, not_a_number])
def test_what_was_changed_fails_and_labels_nothing(program: Program, bundle: Path, change: Callable[[Path], None]) -> None:
    change(bundle)
    done = program(bundle, bundle / "picture-0.png")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAIL" in done.stdout
    assert "class" not in done.stdout


def test_a_fixed_batch_is_filled(program: Program, bundle: Path) -> None:
    model = onnx.load(bundle / "model.onnx")
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 3
    put(bundle, "model.onnx", model.SerializeToString())

    def fix(document: dict[str, Any]) -> None:
        for spec in (*document["inputs"], *document["outputs"]):
            spec["shape"][0] = 3

    edit(bundle, fix)
    done = program(bundle)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "in batches of 3: " in done.stdout
    assert "in batches of 7" not in done.stdout


def test_labels_are_those_of_predict(program: Program, repository: Path, tmp_path: Path) -> None:
    bundle, picture = repository / "exported" / "lenet", tmp_path / "large.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (61, 47, 3), np.uint8)).save(picture)
    done = program(bundle, picture)
    expected = predict(bundle, picture, "ort-cpu threads=1").predictions[0].guesses
    shown = ", ".join(f"{guess.label} {guess.probability:.4f}" for guess in expected)
    assert done.stdout.splitlines()[-1].startswith(f"{picture}: {shown}; ")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("color", "shape"), [("grey", (97, 131)), ("rgb", (12, 50, 3)), ("rgb", (99, 30, 4))])
def test_a_picture_is_prepared_to_the_last_bit_as_edgekit_does(
    program: Program, bundle: Path, tmp_path: Path, color: Any, shape: tuple[int, ...], orientation: int
) -> None:
    channels = 1 if color == "grey" else 3
    how = Preprocess(color, 28, 28, (0.286, 0.4, 0.1)[:channels], (0.353, 0.2, 0.7)[:channels])
    described = {"color": color, "height": 28, "width": 28, "mean": list(how.mean), "std": list(how.std)}
    edit(bundle, lambda document: document["preprocess"].update(described))
    pixels = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    picture = tmp_path / "picture.png"
    if orientation > 1:  # only JPEG files are turned, and decoders differ by a level or two
        picture, exif = tmp_path / "picture.jpg", Image.Exif()
        exif[0x0112] = orientation
        ramp = np.add.outer(np.arange(shape[0]), np.arange(shape[1])).astype(np.uint8)
        Image.fromarray(ramp if channels == 1 else np.stack([ramp, ramp[::-1], ramp[:, ::-1]], 2)).save(
            picture, quality=95, subsampling=0, exif=exif
        )
    else:
        Image.fromarray(pixels).save(picture)
    expected = how.normalise(how.open(picture)[None]).ravel()
    done = program(bundle, "--input", tmp_path / "input", picture)
    found = np.fromfile(tmp_path / "input", np.float32)
    if color == "rgb":  # the network takes grey pictures, so it is refused after they were written
        assert done.returncode == 2
    apart = np.abs(found - expected) * np.repeat(np.asarray(how.std), 28 * 28) * 255
    assert apart.max() <= (3 if orientation > 1 else 0)


def packed(root: Path) -> None:
    shutil.rmtree(root)
    root.write_bytes(b"PK")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda root: (root / "manifest.json").write_text("{"), "is no manifest"),
        (lambda root: (root / "manifest.json").unlink(), "manifest.json cannot be read"),
        (
            lambda root: edit(root, lambda document: document.update(schema=99, reads_from=99)),
            "a schema that this program does not know",
        ),
        (
            lambda root: edit(root, lambda document: document["variants"][0].update(inputs=document["inputs"])),
            "the variant float32 takes pictures as they are",
        ),
        (packed, "is a file, and a bundle is a folder; unpack it first"),
        (lambda root: edit(root, lambda document: document["golden"].update(file="../golden.npz")), "no plain name"),
        (lambda root: edit(root, lambda document: document["golden"].update(samples=5)), "do not add up"),
        (
            lambda root: edit(root, lambda document: document["outputs"][0].update(name="logits")),
            "golden.npz lacks float64.logits",
        ),
        (lambda root: edit(root, lambda document: document["golden"]["parts"][0].update(samples=-1)), "do not add up"),
        (lambda root: (root / "golden.npz").write_bytes((root / "golden.npz").read_bytes()[:900]), "is no .npz file"),
        (lambda root: (root / "golden.npz").write_bytes(b"PK\x05\x06"), "an .npz file of the bundle is cut off"),
        (lambda root: (root / "model.onnx").write_bytes(b"no network"), "ONNX Runtime refuses the network"),
    ],
)
def test_bad_input_is_one_sentence(program: Program, bundle: Path, change: Callable[[Path], object], said: str) -> None:
    change(bundle)
    done = program(bundle)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_a_changed_byte_of_the_golden_file_is_noticed(program: Program, bundle: Path) -> None:
    content = (bundle / "golden.npz").read_bytes()
    for place in (len(content) // 4, len(content) // 2, len(content) - 60):
        (bundle / "golden.npz").write_bytes(content[:place] + flipped(content[place : place + 1]) + content[place + 1 :])
        assert program(bundle).returncode in (1, 2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--variant", "int7"), "no variant 'int7'; choose one of: float32"),
        (("--threads", "many"), "no number from 1"),
        (("--nonsense",), "there is no option --nonsense"),
        (("nothing.png",), "nothing.png cannot be read"),
        ((__file__,), "cannot be decoded"),
    ],
)
def test_wrong_words_are_one_sentence(program: Program, bundle: Path, words: tuple[str, ...], said: str) -> None:
    done = program(bundle, *words)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert said in done.stderr
