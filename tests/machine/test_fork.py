"""A command in a fork: what crashes it, or does not heed its end, is one sentence of the process that watches."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_line import without_progress

# follows a fork, in which the statements argv[1] run, and prints what comes of it
FOLLOWING = """
import os, signal, sys, time
from edgekit.machine import fork
from edgekit.machine.bounds import time_bound
fork.GRACE = 0.1
fork.allow()
try:
    fork.follow("bundle X")
except fork.Followed as done:
    print("followed", done.code, *filter(None, [done.line]))
except Exception as problem:
    print(problem)
else:
    exec(sys.argv[1])
"""


def following(statements: str, before: str = "") -> str:
    done = subprocess.run([sys.executable, "-c", before + FOLLOWING, statements], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("code", [0, 1, 2, 3, 129, 130, 143])
def test_the_exit_code_of_the_fork_is_told(code: int) -> None:
    assert following(f"print('from the fork'); sys.exit({code})") == f"from the fork\nfollowed {code}"


@pytest.mark.parametrize(
    ("statement", "how"), [("os._exit(127)", "and exits with 127"), ("os.kill(os.getpid(), signal.SIGSEGV)", "with signal 11")]
)
def test_a_crash_is_one_sentence(statement: str, how: str) -> None:
    assert following(statement) == f"running bundle X crashes {how}; do not trust it"


@pytest.mark.parametrize(
    ("statement", "line"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "error: running bundle X crashes with signal 11; do not trust it"),
        ("os._exit(127)", "error: running bundle X crashes and exits with 127; do not trust it"),
        ("os._exit(1)", ""),
    ],
)
def test_a_crash_after_the_document_is_a_line_beside_it(statement: str, line: str) -> None:
    said = following(f"fork.written(); {statement}")
    assert said == (f"followed 2 {line}" if line else "followed 1")


def test_a_crash_at_the_exit_of_verify_leaves_one_document(bundle: Path, environment: dict[str, str]) -> None:
    program = (
        "import atexit, os, signal, sys\n"
        "watcher = os.getpid()\n"
        "atexit.register(lambda: os.getpid() == watcher or os.kill(os.getpid(), signal.SIGSEGV))\n"
        "from edgekit.cli.process import run_process\nrun_process()\n"
    )
    command = [sys.executable, "-c", program, "verify", str(bundle), "--backend", "ort-cpu", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2
    assert json.loads(done.stdout)["passed"]
    assert without_progress(done.stderr) == f"error: running bundle {bundle} crashes with signal 11; do not trust it\n"


def test_what_does_not_heed_its_end_is_killed() -> None:
    said = following("with time_bound(0.1): time.sleep(1000)")
    assert said.startswith("bundle X takes longer than 0 s, which its size does not explain; do not trust it; if you do, set ")


# lets a fork move the watcher's clock by 1,000 seconds, and see it read ``seen`` times
LATER = """
import os, signal, time
from edgekit.machine import fork
read, write = os.pipe()
class Later:
    sleep = staticmethod(time.sleep)
    def monotonic():
        os.write(write, b"x")
        return time.monotonic() + 1000
signal.signal(signal.SIGUSR1, lambda *_: setattr(fork, "time", Later))
"""
PASS = "os.kill(os.getppid(), signal.SIGUSR1)\nfor _ in range(40): os.read(read, 1)\n"


@pytest.mark.parametrize(("ended", "said"), [(True, "followed 0"), (False, "bundle X takes longer than 600 s, which ")])
def test_after_the_end_of_a_bound_nothing_is_killed(ended: bool, said: str) -> None:
    bound = "bound = time_bound(600)\nbound.__enter__()\n"
    assert following(f"{bound}{'bound.__exit__(None, None, None)' if ended else ''}\n{PASS}os._exit(0)", LATER).startswith(said)


def test_a_process_with_other_work_does_not_fork() -> None:
    from edgekit.machine.fork import follow

    before = os.getpid()
    follow("bundle X")
    assert os.getpid() == before


def test_where_no_more_processes_are_allowed_the_command_goes_on_by_itself() -> None:
    nothing = "import os\ndef refuse(): raise BlockingIOError(11, 'Resource temporarily unavailable')\nos.fork = refuse\n"
    command = [sys.executable, "-c", nothing + FOLLOWING, "print('by itself')"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "by itself\n"


STOPS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
# as in the process of a command; a fork can wait until the watcher has passed a signal on
HEEDED = """
import os, signal
from edgekit.machine import stops
for each in stops.SIGNALS:
    signal.signal(each, stops.interrupt)
kill, (passed_on, passing_on) = os.kill, os.pipe()
def told(pid, number):
    kill(pid, number)
    os.write(passing_on, b"x")
os.kill = told
"""


def stopped(number: signal.Signals, statements: str, *, group: bool) -> str:
    """What is printed after ``ready`` where the signal comes to the watcher, or to its process group, as at a terminal."""
    command = [sys.executable, "-c", HEEDED + FOLLOWING, statements]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    (os.killpg if group else os.kill)(process.pid, number)
    return process.communicate()[0]


READY = "try:\n    print('ready', flush=True)\n    while True: time.sleep(1000)\nexcept KeyboardInterrupt: "
LATE = "os.read(passed_on, 1); "


@STOPS
@pytest.mark.parametrize("group", [False, True], ids=["the watcher", "the group"])
def test_a_stop_reaches_the_fork_once(number: signal.Signals, group: bool) -> None:
    assert stopped(number, f"{READY}sys.exit(stops.exit_code({int(number)}))", group=group) == f"followed {128 + number}\n"


@STOPS
def test_a_fork_that_cleans_up_is_not_disturbed_by_the_watcher_that_passes_the_same_stop_on(number: signal.Signals) -> None:
    assert stopped(number, f"{READY}{LATE}print('tidy'); sys.exit(130)", group=True) == "tidy\nfollowed 130\n"


@STOPS
def test_a_fork_that_ends_by_the_stop_itself_is_no_crash(number: signal.Signals) -> None:
    """As the system ends it, once Python no longer handles signals."""
    ending = f"signal.signal({int(number)}, signal.SIG_DFL); print('ready', flush=True); time.sleep(1000)"
    assert stopped(number, ending, group=True) == f"followed {128 + number}\n"


def test_what_an_interrupted_runtime_crashes_of_is_not_the_bundles_fault() -> None:
    assert stopped(signal.SIGTERM, f"{READY}kill(os.getpid(), signal.SIGSEGV)", group=True) == "followed 143\n"


def test_a_second_stop_kills_a_fork_that_does_not_heed_the_first() -> None:
    """``SAME`` apart; the watcher then tells, since the fork cannot."""
    heedless = f"{READY}\n    {LATE}print('ready', flush=True)\n    while True: time.sleep(1000)"
    program = f"{HEEDED}stops.SAME = 0\n{FOLLOWING.replace('except Exception', 'except (Exception, KeyboardInterrupt)')}"
    command = [sys.executable, "-c", program.replace("print(problem)", "print(repr(problem))"), heedless]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(2):
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
    assert process.communicate()[0] == "KeyboardInterrupt()\n"


def test_the_fork_ends_with_the_watcher() -> None:
    statements = "print('ready', flush=True); time.sleep(1000)"
    process = subprocess.Popen([sys.executable, "-c", FOLLOWING, statements], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.kill()
    process.communicate(timeout=1800)  # the pipe closes when the fork has ended too
