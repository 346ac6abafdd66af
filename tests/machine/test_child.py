"""What a child process answers, and what becomes of one that crashes, hangs, or takes too much."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

import edgekit
from edgekit.machine import child
from edgekit.machine.child import Failure, Limits, run_child

PLENTY = Limits(3600)
SLEEP = "import time; time.sleep(7200)"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file whose content the test writes, which a child runs as the module ``mine``."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path / "mine.py"


@pytest.mark.parametrize(
    "printed",
    [
        ("noise", '{"version": "2"}'),
        ('{"version": "1"}', '{"version": "2"}'),
        ('{"version": "2"}', "noise at the end", '{"other": 3}', "{", '{"a":' * 50_000),
    ],
    ids=["after noise", "the last", "before noise"],
)
def test_the_answer_is_the_object_with_the_key_that_was_printed_last(module: Path, printed: tuple[str, ...]) -> None:
    module.write_text("".join(f"print({line!r})\n" for line in printed))
    assert run_child("mine", (), PLENTY, "version") == {"version": "2"}


def test_an_answer_stands_on_its_own_line_whatever_the_runtime_printed(module: Path) -> None:
    module.write_text(
        "import sys\nfrom edgekit.machine.child import answer\nsys.stdout.write('half a line')\nanswer({'given': sys.argv[1:]})"
    )
    assert run_child("mine", ("a b", "--c"), PLENTY) == {"given": ["a b", "--c"]}


@pytest.mark.parametrize(
    ("program", "failure"),
    [
        ("import os; os.abort()", Failure("signal", "crashes with signal 6")),
        ("print('{}'); import os; os.kill(os.getpid(), 11)", Failure("signal", "crashes with signal 11")),
        ("raise SystemExit(3)", Failure("exit", "exits with 3")),
        ("raise ImportError('libfoo')", Failure("exit", "exits with 1", "ImportError: libfoo")),
        ("print('[1]')", Failure("silence", "ends before it answers")),
        ("input()", Failure("exit", "exits with 1", "EOFError: EOF when reading a line")),
    ],
)
def test_a_child_that_gives_no_answer_is_a_failure(module: Path, program: str, failure: Failure) -> None:
    module.write_text(program)
    assert run_child("mine", (), PLENTY) == failure


def test_a_failure_is_a_sentence_about_its_subject() -> None:
    assert Failure("exit", "exits with 3").sentence() == "it exits with 3"
    assert Failure("exit", "exits with 3").sentence("the parser") == "the parser exits with 3"
    assert Failure("exit", "exits with 3", "ImportError: libfoo").sentence("the parser") == "ImportError: libfoo"
    late = Failure("time", "takes longer than 5 s")
    assert late.sentence("the parser") == "the parser takes longer than 5 s; set EDGEKIT_SECONDS to the seconds that it may take"


def test_a_child_that_hangs_is_ended_with_all_that_it_started(
    module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module.write_text(
        f"import subprocess, sys\nfrom pathlib import Path\n"
        f"started = subprocess.Popen([sys.executable, '-c', {SLEEP!r}])\n"
        f"Path({str(tmp_path / 'pid')!r}).write_text(str(started.pid))\n{SLEEP}"
    )
    monkeypatch.setattr(child, "_resident", lambda pid: 0 * _written(tmp_path / "pid"))  # however slowly it starts
    assert run_child("mine", (), Limits(0.5, memory_bytes=1)) == Failure("time", "takes longer than 0.5 s")
    assert _ended(_written(tmp_path / "pid"))


def _written(path: Path) -> int:
    """The number in a file, once it is there."""
    while not path.exists() or not path.read_text():
        time.sleep(0.02)
    return int(path.read_text())


def test_what_a_child_leaves_running_does_not_hold_its_answer_up(
    module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The grandchild has stdout open too, and lives until it is ended."""
    module.write_text(
        f"import subprocess, sys\nfrom pathlib import Path\nstarted = subprocess.Popen([sys.executable, '-c', {SLEEP!r}])\n"
        f"Path({str(tmp_path / 'pid')!r}).write_text(str(started.pid))\n"
        "from edgekit.machine.child import answer\nanswer({'pid': started.pid})"
    )
    end, alive = child._end, list[bool]()

    def watched(process: subprocess.Popen[bytes]) -> None:
        alive.append(psutil.Process(_written(tmp_path / "pid")).status() != psutil.STATUS_ZOMBIE)
        end(process)

    monkeypatch.setattr(child, "_end", watched)
    answer = run_child("mine", (), PLENTY)
    assert isinstance(answer, dict), answer
    assert alive == [True]
    assert _ended(answer["pid"])


def _ended(pid: int) -> bool:
    deadline = time.monotonic() + 1800
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize(("megabytes", "enough"), [(400, False), (20, True)])
@pytest.mark.parametrize("below", [False, True], ids=["itself", "a process below it"])
def test_memory_that_is_used_is_limited(module: Path, megabytes: int, enough: bool, below: bool) -> None:
    use = f"used = bytearray(b'x') * {megabytes * 10**6}; import time; time.sleep({1 if enough else 7200})"
    grandchild = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {use!r}])"
    module.write_text(f"{grandchild if below else use}\nprint('{{}}')")
    expected = {} if enough else Failure("memory", "takes more than 200 MB of memory")
    assert run_child("mine", (), Limits(3600, memory_bytes=200 * 10**6)) == expected


def test_memory_that_is_only_reserved_is_not_counted(module: Path) -> None:
    """CUDA reserves more than any machine has."""
    module.write_text("import mmap, time\nreserved = mmap.mmap(-1, 10**10)\ntime.sleep(0.3)\nprint('{}')")
    assert run_child("mine", (), Limits(3600, memory_bytes=200 * 10**6)) == {}


@pytest.mark.parametrize("more", ["while True: print('x' * 1000)", "print('x' * 3_000_000)"], ids=["endless", "at once"])
def test_a_child_that_prints_without_end_is_ended(module: Path, more: str) -> None:
    module.write_text(more)
    assert run_child("mine", (), Limits(3600, output_bytes=2_000_000)) == Failure("output", "prints more than 2 MB")


def test_ctrl_c_ends_the_child(module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module.write_text(
        f"import os\nfrom pathlib import Path\nPath({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))\n{SLEEP}"
    )

    def interrupt(pid: int) -> int:
        _written(tmp_path / "pid")
        raise KeyboardInterrupt

    monkeypatch.setattr(child, "_resident", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_child("mine", (), Limits(3600, memory_bytes=1))
    assert _ended(_written(tmp_path / "pid"))


def test_temporary_files_of_a_child_that_is_ended_go_with_it(
    module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    module.write_text(
        "import os, tempfile\nfrom pathlib import Path\nPath(tempfile.mkdtemp(), 'large').write_text('x')\n"
        f"Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))\n{SLEEP}"
    )

    def interrupt(pid: int) -> int:
        _written(tmp_path / "pid")
        assert len(list(temporary.rglob("large"))) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(child, "_resident", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_child("mine", (), Limits(3600, memory_bytes=1))
    assert list(temporary.iterdir()) == []


def test_what_lies_in_the_current_folder_is_not_imported_and_what_the_user_names_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('code from the current folder')")
    (tmp_path / "named").mkdir()
    (tmp_path / "named" / "mine.py").write_text("import json; print(json.dumps({'file': __file__}))")
    monkeypatch.chdir(tmp_path)
    for named in (str(tmp_path / "named"), "named", f"{os.pathsep}named"):
        monkeypatch.setenv("PYTHONPATH", named)
        assert run_child("mine", (), PLENTY) == {"file": str(tmp_path / "named" / "mine.py")}


def test_the_edgekit_that_runs_is_the_one_that_is_imported_here(
    module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module.write_text("import json, edgekit; print(json.dumps({'file': edgekit.__file__}))")
    (tmp_path / "edgekit").mkdir()
    (tmp_path / "edgekit" / "__init__.py").write_text("raise SystemExit('another edgekit')")
    assert run_child("mine", (), PLENTY) == {"file": edgekit.__file__}


def test_where_edgekit_is_installed_nothing_beside_it_gets_ahead_of_what_the_user_names(
    module: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = str(Path(edgekit.__file__).parent.parent)
    module.write_text("import json, sys; print(json.dumps({'path': sys.path}))")
    ahead = run_child("mine", (), PLENTY)
    monkeypatch.setattr("site.getsitepackages", lambda: [here])
    behind = run_child("mine", (), PLENTY)
    assert isinstance(ahead, dict)
    assert isinstance(behind, dict)
    assert ahead["path"].index(here) < ahead["path"].index(str(module.parent))
    assert here not in behind["path"] or behind["path"].index(str(module.parent)) < behind["path"].index(here)


def test_a_machine_on_which_nothing_can_be_written_runs_children_too(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refuse)
    module.write_text("import json, os; print(json.dumps({'temporary': os.environ.get('TMPDIR')}))")
    for given in (None, "/nowhere"):
        monkeypatch.delenv("TMPDIR", raising=False)
        if given:
            monkeypatch.setenv("TMPDIR", given)
        assert run_child("mine", (), PLENTY) == {"temporary": given}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere what a child prints goes to a file")
def test_no_file_is_made_for_what_a_child_prints(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", None)
    module.write_text("print('{}')")
    assert run_child("mine", (), PLENTY) == {}


def test_a_crash_leaves_nothing_in_the_current_folder(module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    module.write_text("open('left behind', 'w').close(); import os; print(os.getcwd()); os.abort()")
    assert run_child("mine", (), PLENTY) == Failure("signal", "crashes with signal 6")
    assert os.listdir(tmp_path / "here") == []


def test_a_child_ends_with_its_parent_however_that_ends(module: Path, tmp_path: Path) -> None:
    """A cancelled job or a closed terminal must leave nothing behind; a child has a session, so that no signal reaches it."""
    pid = tmp_path / "pid"
    module.write_text(
        f"import os, signal\nopen({str(pid)!r} + '.new', 'w').write(str(os.getpid()))\n"
        f"os.rename({str(pid)!r} + '.new', {str(pid)!r})\nsignal.pause()"
    )
    program = "from edgekit.machine.child import Limits, run_child\nrun_child('mine', (), Limits(600))"
    parent = subprocess.Popen([sys.executable, "-c", program])
    try:
        while not pid.exists() and parent.poll() is None:
            parent.poll()
        child = psutil.Process(int(pid.read_text()))
    finally:
        parent.kill()
        parent.wait()
    assert psutil.wait_procs([child], timeout=1800)[1] == []
