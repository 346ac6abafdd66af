"""Ctrl-C, SIGTERM and SIGHUP, wherever they reach a command: one document, its exit code, and no temporary file left."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.training.checkpoint import unfinished
from tests.command_line import without_progress
from tests.commands.test_runs import small_recipe

CODES = {signal.SIGINT: (130, "Ctrl-C"), signal.SIGTERM: (143, "SIGTERM"), signal.SIGHUP: (129, "SIGHUP")}
# as at a terminal, wherever these tests run
AT_A_TERMINAL = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
for name in ("SIGTERM", "SIGHUP"):
    signal.signal(getattr(signal, name), signal.SIG_DFL)
"""
# sends itself the signal argv[1] when the module argv[2] is about to be imported, then runs ``edgekit`` with the other words
AT_IMPORT = """
import os, signal, sys
number, awaited = int(sys.argv.pop(1)), sys.argv.pop(1)
class Sending:
    def find_spec(self, name, path=None, target=None):
        if name == awaited:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), number)
sys.meta_path.insert(0, Sending())
from edgekit.cli.process import run_process
run_process()
"""
# the same, to all processes of its group, as a terminal and a job that is cancelled do it
AT_IMPORT_TO_GROUP = AT_IMPORT.replace("os.kill(os.getpid(), number)", "os.killpg(0, number)")
# and a fork, once it has said what there is to say, ends when the watcher has passed the signal on
LATE = """
import atexit, os
watcher, kill, (passed_on, passing_on) = os.getpid(), os.kill, os.pipe()
def told(pid, number):
    kill(pid, number)
    os.write(passing_on, b"x")
os.kill = told
atexit.register(lambda: os.getpid() == watcher or os.read(passed_on, 1))
"""
# the same when the work of a child process has begun
IN_CHILD = """
import os, signal, sys, tempfile
number = int(sys.argv.pop(1))
from edgekit.machine import child
watch = child._watch
def send(process, limits, files):
    assert os.listdir(tempfile.gettempdir())  # its folder
    os.kill(os.getpid(), number)
    return watch(process, limits, files)
child._watch = send
from edgekit.cli.process import run_process
run_process()
"""


def stopped(program: str, *words: object, environment: dict[str, str], temporary: Path) -> subprocess.CompletedProcess[str]:
    temporary.mkdir()
    command = [sys.executable, "-c", AT_A_TERMINAL + program, *map(str, words)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=environment | {"TMPDIR": str(temporary)},
        check=False,
        cwd=temporary.parent,
        start_new_session=True,
    )
    done.stderr = without_progress(done.stderr)
    return done


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
@pytest.mark.parametrize("module", ["typer", "edgekit.cli.outcome", "edgekit.commands.verify", "edgekit.reports.console"])
def test_a_signal_ends_a_command_in_order_wherever_it_comes(
    bundle: Path, environment: dict[str, str], tmp_path: Path, module: str, number: signal.Signals
) -> None:
    """Before the command line is read, before the command begins, and in its work, which verify does in a fork."""
    words = (int(number), module, "verify", bundle, "--json")
    done = stopped(AT_IMPORT, *words, environment=environment, temporary=tmp_path / "temporary")
    code, name = CODES[number]
    assert (done.returncode, done.stderr) == (code, "stopped\n")
    assert json.loads(done.stdout) == {"error": {"kind": "Interrupted", "message": f"stopped by {name}"}}
    assert not any((tmp_path / "temporary").iterdir())


# the first lines of the program: sends itself Ctrl-C when the module argv[1] is about to be imported
AT_FIRST = """
import os, sys
awaited = sys.argv.pop(1)
class Sending:
    def find_spec(self, name, path=None, target=None):
        if name == awaited:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), 2)
sys.meta_path.insert(0, Sending())
from edgekit.__main__ import run
run()
"""


@pytest.mark.parametrize("module", ["edgekit.cli", "edgekit.cli.process", "json", "edgekit.machine.stops"])
def test_ctrl_c_before_signals_are_taken_is_no_traceback(environment: dict[str, str], repository: Path, module: str) -> None:
    command = [sys.executable, "-S", "-c", AT_FIRST, module, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, cwd=repository)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_the_program_is_ready_for_ctrl_c_before_anything_is_imported_that_takes_time(
    environment: dict[str, str], repository: Path
) -> None:
    program = "import os, sys; before = {*sys.modules}; import edgekit.__main__; print(*sorted({*sys.modules} - before))"
    command = [sys.executable, "-S", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True, cwd=repository)
    own = {"edgekit", "edgekit.__main__", "edgekit.machine", "edgekit.machine.user", "edgekit.version"}
    assert own <= {*done.stdout.split()} <= own | {"__future__", "pwd"}


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
@pytest.mark.parametrize("late", [False, True], ids=["at once", "later"])
def test_a_signal_to_the_process_group_is_told_once(
    bundle: Path, environment: dict[str, str], tmp_path: Path, late: bool, number: signal.Signals
) -> None:
    """A fork that works and the process that watches it both get it; the fork ends at once, or later."""
    program = f"{LATE if late else ''}{AT_IMPORT_TO_GROUP}"
    words = (int(number), "edgekit.commands.verify", "verify", bundle, "--json")
    done = stopped(program, *words, environment=environment, temporary=tmp_path / "temporary")
    code, name = CODES[number]
    assert (done.returncode, done.stderr) == (code, "stopped\n")
    assert json.loads(done.stdout) == {"error": {"kind": "Interrupted", "message": f"stopped by {name}"}}
    assert not any((tmp_path / "temporary").iterdir())


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
def test_a_stopped_command_takes_its_child_and_its_temporary_files_with_it(
    environment: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    done = stopped(IN_CHILD, int(number), "doctor", "--json", environment=environment, temporary=tmp_path / "temporary")
    assert (done.returncode, done.stderr) == (CODES[number][0], "stopped\n")
    assert json.loads(done.stdout)["error"]["message"] == f"stopped by {CODES[number][1]}"
    assert not any((tmp_path / "temporary").iterdir())


def test_forms_other_than_json_have_a_line_and_nothing(bundle: Path, environment: dict[str, str], tmp_path: Path) -> None:
    for place, (module, words) in enumerate(
        {"typer": ("--jsonl",), "edgekit.commands.predict": ("--jsonl",), "rich": ()}.items()
    ):
        args = (int(signal.SIGTERM), module, "predict", bundle, bundle / "picture-0.png", *words)
        done = stopped(AT_IMPORT, *args, environment=environment, temporary=tmp_path / str(place))
        assert (done.returncode, done.stderr) == (143, "stopped\n")
        assert done.stdout == ('{"error":{"kind":"Interrupted","message":"stopped by SIGTERM"}}\n' if words else "")


def test_a_signal_that_the_process_was_told_to_ignore_is_ignored(environment: dict[str, str], tmp_path: Path) -> None:
    """As by nohup, and as Ctrl-C is by what a script starts in the background."""
    for number in (signal.SIGINT, signal.SIGHUP):
        program = f"signal.signal({int(number)}, signal.SIG_IGN)\n{AT_IMPORT}"
        for module in ("typer", "edgekit.commands.models"):
            temporary = tmp_path / f"{number.name}-{module}"
            done = stopped(program, int(number), module, "models", "--json", environment=environment, temporary=temporary)
            assert (done.returncode, done.stderr) == (0, "")
            assert json.loads(done.stdout)


AGAIN = {
    "in its cleaning up": "end = child._end\ndef twice(process):\n    os.kill(os.getpid(), {again})\n    end(process)\n"
    "child._end = twice",
    "before it has told": "from edgekit.cli import outcome\ntell = outcome.print_error\n"
    "def twice(*told):\n    os.kill(os.getpid(), {again})\n    tell(*told)\noutcome.print_error = twice",
}


@pytest.mark.parametrize("when", AGAIN)
@pytest.mark.parametrize("again", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_stop_that_comes_twice_at_once_does_not_disturb_what_the_first_one_does(
    environment: dict[str, str], tmp_path: Path, when: str, again: signal.Signals
) -> None:
    """timeout(1) and systemd send it to the process and to its group, and systemd may send SIGHUP after SIGTERM."""
    program = f"from edgekit.machine import stops\nstops.SAME = 1000\n{IN_CHILD}".replace(
        "child._watch = send", f"child._watch = send\n{AGAIN[when].format(again=int(again))}"
    )
    words = (int(signal.SIGTERM), "doctor", "--json")
    done = stopped(program, *words, environment=environment, temporary=tmp_path / "temporary")
    assert (done.returncode, done.stderr) == (143, "stopped\n")
    assert json.loads(done.stdout)["error"]["message"] == "stopped by SIGTERM"
    assert not any((tmp_path / "temporary").iterdir())


def test_a_second_stop_ends_a_command_that_has_not_told_yet(environment: dict[str, str], tmp_path: Path) -> None:
    program = f"from edgekit.machine import stops\nstops.SAME = 0\n{IN_CHILD}".replace(
        "child._watch = send", f"child._watch = send\n{AGAIN['before it has told'].format(again=int(signal.SIGTERM))}"
    )
    done = stopped(program, int(signal.SIGTERM), "doctor", environment=environment, temporary=tmp_path / "temporary")
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGTERM, "", "")


# runs ``edgekit`` with its words at the terminal argv[1]
AT_THIS_TERMINAL = """
import os, sys
os.dup2(os.open(sys.argv.pop(1), os.O_RDWR), 2)
from edgekit.cli.process import run_process
run_process()
"""


def test_a_training_whose_terminal_goes_away_keeps_a_checkpoint(environment: dict[str, str], tmp_path: Path) -> None:
    """As where an ssh session is dropped: SIGHUP comes, and nothing can be written to the terminal any more."""
    text = small_recipe(tmp_path).read_text().replace("epochs = 1", "epochs = 100000")
    (tmp_path / "small.toml").write_text(text)
    run = tmp_path / "runs" / "small"
    screen, terminal = pty.openpty()
    command = [sys.executable, "-c", AT_A_TERMINAL + AT_THIS_TERMINAL, os.ttyname(terminal), "train", "small.toml"]
    process = subprocess.Popen(
        command, env=environment | {"TERM": "xterm"}, cwd=tmp_path, start_new_session=True, stdout=subprocess.DEVNULL
    )
    while not (run / "checkpoint.pt").exists() and process.poll() is None:
        if select.select([screen], [], [], 0.1)[0]:
            os.read(screen, 10_000)
    os.close(screen)
    os.close(terminal)
    assert process.wait() == 129
    assert not (run / "failed.txt").exists()
    assert unfinished(run)
