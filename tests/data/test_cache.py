"""Decoded pictures in edgekit's cache: made once, whole or not there, and no more in memory than a share of them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

from edgekit import atomic
from edgekit.data import Dataset, cache, golden_pictures, load_dataset, training_pictures
from edgekit.data.decode import decode_each
from edgekit.data.pictures import Pictures
from edgekit.decoding import opening
from edgekit.errors import DataError, OutputError
from edgekit.files import opened as open_at_once
from edgekit.progress import Advance
from edgekit.recipe import DataRecipe
from edgekit.training import batches
from edgekit.training.batches import Batches
from tests.command_line import Command
from tests.data.test_image_folder import draw, folder_of, values


class Seen:
    """A Progress that keeps what was shown: titles of bars with their lengths, and lines."""

    def __init__(self) -> None:
        self.bars: list[tuple[str, int]] = []
        self.lines: list[str] = []

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Advance]:
        self.bars.append((title, total))
        yield lambda steps, note: None

    def say(self, line: str) -> None:
        self.lines.append(line)

    @property
    def decoded(self) -> int:
        return sum(total for title, total in self.bars if title.startswith("decoding"))


class Folder(NamedTuple):
    """A folder of pictures and the recipe that loads it."""

    root: Path
    recipe: DataRecipe

    def load(self, **changes: object) -> tuple[Dataset, Seen]:
        seen = Seen()
        return load_dataset(msgspec.structs.replace(self.recipe, **changes), seen), seen


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache that takes pictures however few; where its decoded pictures lie."""
    monkeypatch.setattr(cache, "SMALL", 0)
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "decoded"


@pytest.fixture
def folder(place: Path, tmp_path: Path) -> Folder:
    return Folder(folder_of(tmp_path / "pictures", 40), DataRecipe("image-folder", str(tmp_path / "pictures"), 6, "grey"))


def in_memory(folder: Folder, monkeypatch: pytest.MonkeyPatch, **changes: object) -> Dataset:
    with monkeypatch.context() as patch:
        patch.setattr(cache, "SMALL", 1 << 40)
        return folder.load(**changes)[0]


def test_what_is_mapped_is_what_would_be_in_memory(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, (mapped, seen) = in_memory(folder, monkeypatch, holdout=9), folder.load(holdout=9)
    assert seen.decoded == 80
    for part, other in ((whole.train, mapped.train), (whole.test, mapped.test), (whole.holdout, mapped.holdout)):
        assert part is not None
        assert other is not None
        assert (part.mapped, other.mapped) == (False, True)
        assert np.array_equal(part.images, other.images)
        assert part.labels.tolist() == other.labels.tolist()
        assert (part.brightest(), part.pixels_sha256()) == (other.brightest(), other.pixels_sha256())
    assert whole.preprocess == mapped.preprocess
    assert whole.sha256() == mapped.sha256()
    assert whole.report() == mapped.report()


def test_a_second_loading_decodes_nothing_and_gives_the_same(folder: Folder) -> None:
    (first, before), (second, after) = folder.load(), folder.load()
    assert (before.decoded, after.decoded) == (80, 0)
    assert second.sha256() == first.sha256()
    assert values(second.train.images) == values(first.train.images)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The picture files that are opened from here on."""
    paths: list[Path] = []

    def listed(path: Path) -> BinaryIO:
        paths.append(path)
        return open_at_once(path)

    monkeypatch.setattr(opening, "opened_file", listed)
    return paths


def test_pictures_with_several_frames_are_noted_from_the_cache_too_and_no_file_is_opened_twice(
    folder: Folder, opened: list[Path]
) -> None:
    frames = [Image.new("L", (8, 8), value) for value in (10, 200)]
    frames[0].save(folder.root / "cat" / "two.gif", save_all=True, append_images=frames[1:])
    first, seen = folder.load()
    assert sum("like cat/two.gif" in note for note in first.report().notes) == 1
    assert len(opened) == len({*opened}) == seen.decoded == 81
    second, seen = folder.load()
    assert second.report() == first.report()
    assert seen.decoded == 0
    assert len(opened) == 81


def test_a_record_that_does_not_know_of_frames_does_not_count(folder: Folder, place: Path) -> None:
    folder.load()
    for path in place.glob("*.json"):
        record = msgspec.json.decode(path.read_bytes())
        path.write_bytes(msgspec.json.encode({key: value for key, value in record.items() if key != "several"}))
    assert folder.load()[1].decoded == 80
    assert folder.load()[1].decoded == 0


def test_a_folder_that_was_moved_is_not_decoded_again(folder: Folder, tmp_path: Path) -> None:
    folder.load()
    folder.root.rename(tmp_path / "elsewhere")
    assert folder.load(path=str(tmp_path / "elsewhere"))[1].decoded == 0


@pytest.mark.parametrize("changes", [{"resize": 5}, {"resize": (6, 5)}, {"color": "rgb"}, {"white": 4095.0}])
def test_other_settings_have_files_of_their_own(folder: Folder, changes: dict[str, object]) -> None:
    folder.load()
    assert folder.load(**changes)[1].decoded == 80
    assert folder.load()[1].decoded == folder.load(**changes)[1].decoded == 0


def test_another_decoder_decodes_again(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.load()
    monkeypatch.setattr(cache, "decoder_version", lambda: "Pillow 99")
    assert folder.load()[1].decoded == 80


def test_a_changed_folder_replaces_what_it_had(folder: Folder, place: Path) -> None:
    first = folder.load()[0]
    draw(folder.root / "cat" / "new.png", 200)
    second, seen = folder.load()
    assert seen.decoded > 0
    assert 200 in values(second.train.images) + values(second.test.images)
    assert len(list(place.glob("*.npy"))) == len(list(place.glob("*.json"))) == 2
    assert len(values(first.train.images)) == len(first.train)  # what is in use stays


def test_the_test_pictures_are_the_same_file_whatever_is_held_out(folder: Folder, place: Path) -> None:
    count = len(folder.load()[0].test)
    assert folder.load(holdout=5)[1].decoded == 80 - count
    assert len(list(place.glob("*.npy"))) == 4
    draw(folder.root / "cat" / "new.png", 200)
    folder.load(holdout=5)
    folder.load()
    assert len(list(place.glob("*.npy"))) == 4


def test_what_is_replaced_makes_room_first(folder: Folder, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.load()
    draw(folder.root / "cat" / "new.png", 200)
    full = shutil.disk_usage("/")._replace(free=0)
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full if len(list(place.glob("*.npy"))) > 1 else usage)
    assert folder.load()[0].train.mapped


def test_few_pictures_need_no_file(folder: Folder, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SMALL", 64 << 20)
    assert folder.load()[1].decoded == folder.load()[1].decoded == 80
    assert not place.exists()


def test_pictures_that_are_mapped_are_trained_on_where_they_lie(folder: Folder) -> None:
    data = folder.load()[0]
    given = Batches(data.train, data.preprocess, torch.device("cpu"))
    assert given.images.data_ptr() == data.train.images.ctypes.data
    images, labels = given.take(torch.tensor([3, 1]))
    assert np.array_equal(images.numpy(), data.preprocess.normalise(data.train.images[[3, 1]]))
    assert labels.tolist() == data.train.labels[[3, 1]].tolist()


@pytest.mark.parametrize(("free", "home"), [(1 << 20, "cuda"), (3000, "cpu")])
def test_pictures_move_to_a_device_that_has_room_to_spare(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, free: int, home: str
) -> None:
    data, cuda = folder.load()[0], torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 1 << 30))
    assert data.train.images.nbytes > 3000 * batches.SHARE
    assert batches._home(data.train, cuda).type == home
    assert batches._home(Pictures(np.array(data.train.images), data.train.labels), cuda) == cuda


# --- bad pictures


@pytest.fixture
def spoilt(folder: Folder) -> Folder:
    """The folder with two files that are no pictures."""
    for name in ("cat/07.png", "dog/00.png"):
        (folder.root / name).write_bytes(b"no picture " + name.encode())
    return folder


def test_bad_pictures_are_named_each_time_and_decoding_is_not_done_twice(spoilt: Folder) -> None:
    messages = []
    for _ in range(2):
        with pytest.raises(DataError, match=r"2 of 80 pictures cannot be used: .*set data\.skip_bad = true") as error:
            spoilt.load()
        messages.append(str(error.value))
    assert messages[0] == messages[1]
    data, seen = spoilt.load(skip_bad=True)
    assert len(data.train) + len(data.test) == 78
    assert seen.decoded == 2  # why they are bad may have gone


def test_good_pictures_are_a_view_of_the_file(spoilt: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, (data, _) = in_memory(spoilt, monkeypatch, skip_bad=True), spoilt.load(skip_bad=True)
    assert data.train.mapped
    assert data.sha256() == whole.sha256()
    assert data.report() == whole.report()
    assert data.preprocess == whole.preprocess


def test_pictures_that_memory_was_too_short_for_are_tried_again(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = folder.load()[0]
    shutil.rmtree(cache.folder())
    with monkeypatch.context() as patch:
        patch.setattr("edgekit.decoding.load", short_of_memory)
        assert len(folder.load(skip_bad=True)[0].train) < len(whole.train)
    assert folder.load(skip_bad=True)[0].sha256() == whole.sha256()


def short_of_memory(path: Path, white: float | None) -> Image.Image:
    if path.name == "07.png":
        raise MemoryError
    with Image.open(path) as opened:
        return Image.fromarray(np.asarray(opened))


@pytest.mark.parametrize("skip_bad", [False, True])
def test_golden_and_training_pictures_are_those_of_the_data_set(spoilt: Folder, skip_bad: bool) -> None:
    if not skip_bad:
        for name in ("cat/07.png", "dog/00.png"):
            draw(spoilt.root / name, 220 + len(name) + (name[0] == "c"))
    recipe = msgspec.structs.replace(spoilt.recipe, skip_bad=skip_bad, holdout=5)
    data = load_dataset(recipe)
    for wanted, part in ((golden_pictures, data.test), (training_pictures, data.train)):
        assert np.array_equal(wanted(recipe, data.preprocess, 1000).images, part.images)
        assert wanted(recipe, data.preprocess, 1000).mapped
        assert set(values(wanted(recipe, data.preprocess, 3).images)) <= set(values(part.images))


# --- held out


def test_the_same_pictures_are_held_out_wherever_they_lie(folder: Folder, tmp_path: Path) -> None:
    first = folder.load(holdout=10)[0].holdout
    for number, path in enumerate(sorted((folder.root / "cat").iterdir())):
        path.rename(path.with_name(f"{99 - number}.png"))
    second = folder.load(holdout=10)[0].holdout
    assert first is not None
    assert second is not None
    assert sorted(values(first.images)) == sorted(values(second.images))


def test_a_holdout_of_all_is_refused_before_anything_is_decoded(folder: Folder) -> None:
    seen = Seen()
    with pytest.raises(DataError, match=r"data\.holdout = 79 leaves nothing of \d+ training pictures; lower it"):
        load_dataset(msgspec.structs.replace(folder.recipe, holdout=79), seen)
    assert not seen.decoded


# --- whole or not there


class Stopped(Seen):
    """A Progress under which the user presses Ctrl-C once some pictures have been decoded."""

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Advance]:
        done = 0

        def advance(steps: int, note: str) -> None:
            nonlocal done
            done += steps
            if title.startswith("decoding") and done == 30:
                raise KeyboardInterrupt

        yield advance


def files(place: Path) -> list[str]:
    return sorted(path.suffix for path in place.iterdir())


def test_ctrl_c_leaves_nothing(folder: Folder, place: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        load_dataset(folder.recipe, Stopped())
    assert not files(place)
    assert folder.load()[1].decoded == 80


KILLED = """
import os, signal, sys
from edgekit.data import cache, decode, load_dataset
from edgekit.recipe import DataRecipe
cache.SMALL = 0
cache._BLOCK = 100  # some pictures are written before the end
each = cache.decode_each
def killed(*args):
    for number, result in enumerate(each(*args)):
        if number == 30:
            os.kill(os.getpid(), signal.SIGKILL)
        yield result
cache.decode_each = killed
load_dataset(DataRecipe("image-folder", sys.argv[1], 6, "grey"))
"""


def child(code: str, *args: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    words = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=1800)


def test_what_a_killed_process_left_is_not_used_and_is_removed(folder: Folder, place: Path) -> None:
    assert child(KILLED, folder.root).returncode == -signal.SIGKILL
    assert ".part" in files(place)
    assert folder.load()[1].decoded == 80
    assert files(place) == [".json", ".json", ".npy", ".npy"]


def test_an_array_without_its_record_does_not_count(folder: Folder, place: Path) -> None:
    folder.load()
    for path in place.glob("*.json"):
        path.unlink()
    assert folder.load()[1].decoded == 80
    assert folder.load()[1].decoded == 0


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("suffix", ["npy", "json"])
@pytest.mark.parametrize("damage", [flipped, cut, emptied])
def test_what_is_damaged_is_made_anew(folder: Folder, place: Path, suffix: str, damage: object) -> None:
    first = folder.load()[0]
    for path in place.glob(f"*.{suffix}"):
        damage(path)  # type: ignore[operator]  # one of the three above
    second, seen = folder.load()
    assert seen.decoded == 80
    assert second.sha256() == first.sha256()
    assert folder.load()[1].decoded == 0


def test_a_picture_that_changes_while_it_is_read_spoils_no_cache(
    folder: Folder, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = decode_each

    def changing(*args: object) -> Iterator[object]:
        draw(folder.root / "cat" / "07.png", 250, (9, 9))
        yield from each(*args)  # type: ignore[arg-type]  # as they came

    with monkeypatch.context() as patch:
        patch.setattr(cache, "decode_each", changing)
        with pytest.raises(DataError, match=r"07\.png changed while it was read; begin again"):
            folder.load()
    assert not [path for path in place.glob("*") if "training" in path.read_text(errors="replace")]
    assert 250 in values(folder.load()[0].train.images)


# --- without room


def test_without_a_cache_pictures_stay_in_memory_and_a_note_says_so(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = folder.load()[0]
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "file" / "below"))
    data, seen = folder.load()
    assert data.sha256() == whole.sha256()
    assert not data.train.mapped
    (line, _) = seen.lines
    assert line.startswith("note: decoded pictures stay in memory and are decoded anew each time: cannot write ")
    assert line.endswith("; let EDGEKIT_CACHE name a folder that you may write to, with 0.01 GB free")


def test_a_disk_that_is_too_small_is_found_before_it_is_full(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    data, seen = folder.load()
    assert not data.train.mapped
    assert "decoded has 0.01 GB free and the decoded pictures take 0.01 GB; let EDGEKIT_CACHE name" in seen.lines[0]


def test_what_fits_neither_the_disk_nor_memory_is_one_sentence(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(cache, "available_memory", lambda: 200)
    expected = r"^\d+ training pictures take 0\.01 GB decoded, 0\.01 GB of memory are free, and the cache cannot be used: .* has "
    with pytest.raises(OutputError, match=expected + r".*; let EDGEKIT_CACHE name a folder .* 0\.01 GB free$"):
        folder.load()


FULL = """
import resource, signal, sys
from edgekit.data import cache, load_dataset
from edgekit.errors import OutputError
from edgekit.recipe import DataRecipe
cache.SMALL, cache._BLOCK = 0, 100
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    load_dataset(DataRecipe("image-folder", sys.argv[1], 6, "grey"))
except OutputError as problem:
    print(problem)
"""


def test_a_disk_that_fills_up_meanwhile_is_a_sentence_and_leaves_nothing(folder: Folder, place: Path) -> None:
    folder.load()  # the hashes
    shutil.rmtree(place)
    answer = child(FULL, folder.root)
    assert "cannot write" in answer.stdout, answer.stderr
    assert "; let EDGEKIT_CACHE name a folder that you may write to, with 0.01 GB free" in answer.stdout
    assert not files(place)


# --- memory

BOUND = """
import os, sys
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
import msgspec, torch
from pathlib import Path
from edgekit.data import cache, load_dataset
from edgekit.machine.bounds import memory_bound
from edgekit.recipe import DataRecipe, ModelRecipe, Recipe, TrainRecipe
from edgekit.training import batches, fit

root, run, cache.SMALL, room = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(1)
batches.EVALUATION_BATCH = 3
model = ModelRecipe("small:Small")
settings = TrainRecipe(epochs=1, batch_size=3)
recipe = Recipe("memory", DataRecipe("image-folder", str(root), 192, holdout=150), model, settings)
def trained(data, run):
    return fit.fit(msgspec.structs.replace(recipe, data=data), load_dataset(data), run).epochs
trained(DataRecipe("image-folder", str(root.parent / "few"), 192), run / "few")  # what PyTorch itself takes
with memory_bound(room):
    trained(recipe.data, run / "many")
"""
SMALL = """
from torch import nn

def Small():
    return nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(3 * 576, 2))
"""
DECODED = 1500 * 3 * 192 * 192


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1500 pictures of 192x192, 166 MB once they are decoded, and beside them a folder of few."""
    root = tmp_path_factory.mktemp("many")
    for name, count in (("many", 750), ("few", 40)):
        for label in range(2):
            (root / name / "ab"[label]).mkdir(parents=True)
            for number in range(count):
                colour = (number % 256, number // 256, 100 * label)
                Image.new("RGB", (16, 16), colour).save(root / name / "ab"[label] / f"{number}.png", compress_level=0)
    (root / "small.py").write_text(SMALL)
    return root / "many"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds a process's data")
def test_a_training_takes_a_share_of_its_decoded_pictures_and_in_memory_all(
    many: Path, tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(many.parent)  # the model's module
    room = DECODED * 3 // 10
    mapped = child(BOUND, many, tmp_path / "mapped", 1 << 20, room)
    assert mapped.returncode == 0, mapped.stderr
    held = child(BOUND, many, tmp_path / "held", 1 << 30, room)
    assert held.returncode != 0
    assert "memory" in held.stderr.lower()


def test_a_set_larger_than_memory_can_be_mapped(tmp_path: Path) -> None:
    """Linux refuses to map more than memory and swap where the map may be written to."""
    array = tmp_path / "larger.npy"
    with array.open("wb") as stream:
        shape = (1 << 12, 3, 1 << 14, 1 << 14)
        np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
        stream.truncate(stream.tell() + int(np.prod(shape)))
    assert cache._mapped(array).shape == shape
    assert not cache._mapped(array)[-1, -1, -1].any()


# --- several processes, and the command


def test_one_process_decodes_and_the_other_waits_for_it(folder: Folder, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other has the lock until this one says that it waits; then its files are there."""
    folder.load()
    place.rename(place.with_name("made"))
    place.mkdir()
    seen = Seen()
    keys = [path.stem for path in place.with_name("made").glob("*.npy")]
    locks = [(place / f"{key}.lock").open("ab") for key in keys]
    assert all(atomic._flock(lock.fileno()) for lock in locks)

    def say(line: str) -> None:
        seen.lines.append(line)
        for path in place.with_name("made").iterdir():
            path.rename(place / path.name)
        for lock in locks:
            lock.close()

    monkeypatch.setattr(seen, "say", say)
    load_dataset(folder.recipe, seen)
    assert seen.lines == ["note: another process decodes the same pictures; waiting for it"]
    assert not seen.decoded


def test_the_command_lists_and_removes(folder: Folder, place: Path, run: Command) -> None:
    data = folder.load()[0]
    listed = run("data", "cache").out.splitlines()
    assert len(listed) == 3
    divided = f"pictures of {folder.root}, test_fraction 0.2"
    assert listed[0] == f"0.01 GB  test {divided}, grey 6x6"
    assert listed[1] == f"0.01 GB  training {divided}, 0 held out, grey 6x6"
    assert listed[2] == f"0.01 GB of decoded pictures in {place}"
    removed = run("data", "cache", "--remove")
    assert removed.out.splitlines()[:2] == listed[:2]
    assert f"removed from {place}" in removed.out
    assert not files(place)
    assert len(values(data.train.images)) == len(data.train)  # what is in use stays
    assert run("data", "cache").out.splitlines() == [f"0.00 GB of decoded pictures in {place}"]
    assert folder.load()[1].decoded == 80
